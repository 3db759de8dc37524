"""The package's one exception type. Needs nothing."""

from __future__ import annotations

EXIT_INTERRUPTED = 130  # as a shell says it of a process that SIGINT has ended


class OwledError(Exception):
    """Say what was wrong, what was expected and what to do; the command line prints it and exits with 1."""
