"""The `owled` command: collects the commands of every room. Needs typer and rich; each command imports the rest itself."""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
import sys
from typing import Any

import typer
import typer.core

from owled_ros import commands
from owled_ros.errors import OwledError
from owled_ros.version import VERSION

EXIT_FAILURE = 1

FIRST = (
    "demo",
    "doctor",
    "run",
    "try",
    "tune",
    "prune",
    "evaluate",
    "recalibrate",
    "store",
)  # in the help, what newcomers look for


class _NewcomersFirst(typer.core.TyperGroup):
    """Lists the commands of FIRST before the others, which follow by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        names = super().list_commands(ctx)
        return [name for name in FIRST if name in names] + sorted(set(names) - set(FIRST))


app = typer.Typer(
    cls=_NewcomersFirst,
    help="OWLed pruning and driving for ROS 2: watch a demo, prune a model, evaluate a bag, recalibrate a vehicle.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    """Print the version, and those of what it runs on, for a bug report."""
    if not wanted:
        return
    import importlib.metadata
    import os
    import platform

    parts = [f"ROS 2 {os.environ['ROS_DISTRO']}"] if os.environ.get("ROS_DISTRO") else []
    parts.append(f"Python {platform.python_version()}")
    for name in ("torch", "transformers", "numpy"):
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"no {name}")
    typer.echo(f"owled_ros {VERSION} ({', '.join(parts)})")
    raise typer.Exit()


@app.callback()
def _configure(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log debug lines and show tracebacks."),
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version and what it runs on."
    ),
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("matplotlib", "PIL", "urllib3", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@functools.cache
def register_commands() -> None:
    """Add the commands of every module in commands/, once; one with a leading underscore is what several of them share."""
    for module in pkgutil.iter_modules(commands.__path__):
        if module.name.startswith("_"):
            continue
        importlib.import_module(f"owled_ros.commands.{module.name}").register(app)


def main() -> None:
    """Run the command line; a known failure prints one clear message and exits with 1."""
    try:
        register_commands()
        app(prog_name="owled")
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps what comes while a class is built
            raise KeyboardInterrupt from error
        raise
    except OwledError as error:
        if "-v" in sys.argv or "--verbose" in sys.argv:
            raise
        from rich.console import Console
        from rich.markup import escape

        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_FAILURE)
