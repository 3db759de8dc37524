"""The `owled` command: collects the commands of every room. Needs typer and rich; each command imports the rest itself."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys

import typer

from owled_ros import commands
from owled_ros.errors import OwledError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="OWLed pruning and driving for ROS 2: watch a demo, prune a model, evaluate a bag, recalibrate a vehicle.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _configure(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log debug lines and show tracebacks."),
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("matplotlib", "PIL", "urllib3", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def main() -> None:
    """Run the command line; a known failure prints one clear message and exits with 1."""
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"owled_ros.commands.{module.name}").register(app)
    try:
        app(prog_name="owled")
    except OwledError as error:
        if "-v" in sys.argv or "--verbose" in sys.argv:
            raise
        from rich.console import Console
        from rich.markup import escape

        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
