"""The package's one exception type. Needs nothing."""

from __future__ import annotations


class OwledError(Exception):
    """Say what was wrong, what was expected and what to do; the command line prints it and exits with 1."""
