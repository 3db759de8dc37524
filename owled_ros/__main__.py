"""Starts the `owled` command: an interrupt while its modules are imported ends it as quietly as a later one. Needs nothing itself."""

import sys

from owled_ros.errors import EXIT_INTERRUPTED


def main() -> None:
    """Import and run the command line."""
    try:
        from owled_ros.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
