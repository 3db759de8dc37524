"""`owled deploy`, `recalibrate` and `store`: what drives, from bags to a gated artifact, and what became of the earlier ones. Needs typer, rich."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from owled_ros.devices import resolve_device
from owled_ros.options import takes, with_config
from owled_ros.recalibration.parameters import JobParameters
from owled_ros.settings import default_of

if TYPE_CHECKING:
    from owled_ros.deployment.deployment import Deployment
    from owled_ros.deployment.store import Driver, Version
    from owled_ros.recalibration.job import JobProgress, JobResult

EXIT_REFUSED = 3  # a candidate was made, but the gate or the driving node refused it
EXIT_TERMINATED = 143
STORE = typer.Option(
    "",
    "--deployment",
    "--store",
    help="Deployment; empty: $OWLED_DEPLOYMENT, $OWLED_STORE, else ~/.local/share/owled/store.",
)
DRIVING_NODE = typer.Option("", help="Name of a running driving node that has to agree, for example /driving_node.")
LOG_PERIOD_S = 5.0
LOAD_TIMEOUT_S = float(default_of(JobParameters, "load_timeout_s"))
VERSION_COLUMNS: dict[str, Literal["left", "right"]] = {
    "version": "left", "created (UTC)": "left", "zeros": "right", "MB on disk": "right", "packed": "right", "gate": "left", "": "left",
}  # fmt: skip
TABLE_WIDTH = 130  # where there is no terminal to fit into


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(deploy)
    app.command()(recalibrate)
    store = typer.Typer(
        help="List, inspect, promote and roll back the versions of the artifact store.", no_args_is_help=True
    )
    for command in (list_versions, inspect_version, promote, rollback):
        store.command(COMMAND_NAMES[command])(command)
    app.add_typer(store, name="store")


def deploy(
    directory: Path = typer.Argument(..., help="Directory of the deployment; made when it is not there."),
    model: str = typer.Option(
        ..., "--model", help="Base model: the dense Hugging Face directory; mini: the bundled one."
    ),
) -> None:
    """Make a deployment: one directory that says what drives, for the driving node, recalibration and the store.

    Then start the nodes with deployment:=DIRECTORY. Its base model drives until a version is promoted.
    """
    from owled_ros.deployment.deployment import create_deployment
    from owled_ros.models.driving_model import resolve_model

    made = create_deployment(directory, resolve_model(model))
    typer.echo(f"{made.root}: {made.driving()} is to drive")


@with_config
@takes(JobParameters)
def recalibrate(
    parameters: JobParameters,
    bags: list[Path] = typer.Argument(
        ..., help="rosbag2 directories, .mcap or .db3 files; together they must hold two drives or more."
    ),
    store: str = STORE,
    model: str = typer.Option(
        "", help="Base model of a deployment that is made by this; empty: the one that it names."
    ),
    running: str = typer.Option("", help="What drives now; empty: what the deployment says."),
    driving_node: str = typer.Option(
        "", help="Name of a running driving node, for example /driving_node, that loads the promoted version."
    ),
    verdict: str = typer.Option("", help="Write the verdict with all numbers to this JSON file."),
) -> None:
    """Prune the model again on recorded drives, judge it on held-out ones, and promote it when it is no worse.

    The work runs in a process of its own; Ctrl-C ends it and leaves nothing behind. Exit code 3: a candidate was made and
    kept for inspection, but the gate (or the driving node) refused it.
    """
    from owled_ros.deployment.deployment import create_deployment
    from owled_ros.models.driving_model import resolve_model
    from owled_ros.recalibration.job import run_job
    from owled_ros.recalibration.request import JobRequest

    parameters = replace(parameters, device=resolve_device(parameters.device))  # in words before anything loads
    deployment = _deployment(store, model)
    base = deployment.base if deployment.base != Path() else resolve_model(model)
    request = JobRequest(
        bags=tuple(bag.expanduser().absolute() for bag in bags),
        model=base.resolve(),
        parameters=parameters,
        running=resolve_model(running).resolve() if running else None,
    )
    request.check()
    deployment = create_deployment(deployment.root, base)
    _end_in_order_on_sigterm()
    with _shown() as progress, _driver(driving_node, deployment, parameters.load_timeout_s) as driver:
        result = run_job(request, deployment.store, progress, driver=driver)
    if verdict:
        from owled_ros.files import write_json

        write_json(Path(verdict), result.verdict)
    _show_result(result)
    if not result.verdict["passed"] or (parameters.promote and not result.promoted):
        raise typer.Exit(EXIT_REFUSED)


def list_versions(store: str = STORE, json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List all versions, newest first.

    MB on disk counts everything in a version's directory, zeros included; MB packed is what the sparse runtime drives on.
    """
    deployment = _deployment(store)
    versions = deployment.store.versions()
    if json:
        import json as json_module
        from dataclasses import asdict

        typer.echo(json_module.dumps([asdict(version) for version in versions], indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    if not versions:
        typer.echo(f"no version in {deployment.root}: the base model is to drive")
        return
    table = Table(box=None, pad_edge=False)
    for heading, justify in VERSION_COLUMNS.items():
        table.add_column(heading, justify=justify, no_wrap=bool(heading))
    for version in versions:
        state = "[bold green]current[/]" if version.current else "previous" if version.previous else ""
        table.add_row(
            version.artifact_id, version.created[:16].replace("T", " "), f"{version.sparsity:.1%}", _megabytes(version.bytes),
            _megabytes(version.packed_bytes), _gate_word(version), state or (f"[red]{version.fault}[/]" if version.fault else ""),
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    total = sum(version.bytes for version in versions)
    console.print(f"{len(versions)} versions, {_megabytes(total)} MB in {deployment.root}", soft_wrap=True)


def inspect_version(
    artifact_id: str = typer.Argument(..., help="Short hash, or its beginning."),
    store: str = STORE,
    json: bool = typer.Option(False, "--json", help="Print the whole verdict as JSON."),
) -> None:
    """Check every file of a version against its hash and show what the gate measured."""
    from owled_ros.models.manifest import verify

    version = _deployment(store).store.find(artifact_id)
    manifest = verify(version.path)
    if json:
        import json as json_module

        typer.echo(json_module.dumps(manifest.gate, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"{version.path}\nevery file fits its hash; {manifest.method.score}, {manifest.method.allocation}, "
                  f"{version.sparsity:.3f} zeros, {version.bytes / 1e6:.1f} MB, gate: {_gate_word(version)}")  # fmt: skip
    if manifest.gate:
        _show_rules(manifest.gate)


def promote(
    artifact_id: str = typer.Argument(..., help="Short hash, or its beginning."),
    store: str = STORE,
    force: bool = typer.Option(False, help="Also a version that the gate did not pass."),
    driving_node: str = DRIVING_NODE,
    model: str = typer.Option("", help="Base model of an older store that names none."),
) -> None:
    """Make a version current. A running node of the deployment follows within seconds; --driving-node asks it first."""
    deployment = _deployment(store, model)
    with _driver(driving_node, deployment) as driver:
        previous = deployment.promote(artifact_id, force, driver)
    typer.echo(f"{artifact_id} is current now" + (f"; before it was {previous}" if previous else ""))


def rollback(
    store: str = STORE,
    driving_node: str = DRIVING_NODE,
    model: str = typer.Option("", help="Base model of an older store that names none."),
) -> None:
    """Go back to the version that was current before, or to the base model when there was none."""
    deployment = _deployment(store, model)
    with _driver(driving_node, deployment) as driver:
        now = deployment.store.rollback(driver)
    typer.echo(f"{now or 'the base model'} is current again")


COMMAND_NAMES = {list_versions: "list", inspect_version: "inspect", promote: "promote", rollback: "rollback"}


def _deployment(path: str, base: str = "") -> Deployment:
    """Open the deployment that a command means; an older store may be given its base, or has none."""
    import os

    from owled_ros.deployment.deployment import FILE_NAME, Deployment, open_deployment
    from owled_ros.models.driving_model import resolve_model

    named = path or os.environ.get("OWLED_DEPLOYMENT") or os.environ.get("OWLED_STORE") or "~/.local/share/owled/store"
    root = Path(named).expanduser().absolute()
    if (root / FILE_NAME).exists() and not base:
        return open_deployment(root)
    return Deployment(root, resolve_model(base) if base else Path())


@contextlib.contextmanager
def _driver(driving_node: str, deployment: Deployment, timeout_s: float = LOAD_TIMEOUT_S) -> Iterator[Driver | None]:
    """Yield the running driving node that has to agree; None without a name."""
    if not driving_node:
        yield None
        return
    from owled_ros.errors import OwledError

    if deployment.base == Path():
        raise OwledError(
            f"{deployment.root} names no base model; make it a deployment with `owled deploy {deployment.root} --model BASE`"
        )
    try:
        from owled_ros.nodes.driver_client import running_driver
    except ImportError as error:
        raise OwledError(f"--driving-node needs ROS 2 ({error}); source it, or start with ./owled") from error
    with running_driver(driving_node, deployment.base, deployment.root, timeout_s) as driver:
        yield driver


def _end_in_order_on_sigterm() -> None:
    import signal
    import sys

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_TERMINATED))


class _shown:  # noqa: N801 (a context manager that is used like a function)
    """Shows a job's progress: a bar on a terminal, a line every few seconds otherwise."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._said = ("", -LOG_PERIOD_S)
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f} %"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("starting", total=1.0)

    def __enter__(self) -> Any:
        if self._bar is not None:
            self._bar.start()
        return self._tell

    def __exit__(self, *trouble: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _tell(self, progress: JobProgress) -> None:
        import time

        count = f" {progress.done}/{progress.total}" if progress.total else ""
        words = f"{'paused, ' if progress.paused else ''}{progress.stage}{count} {progress.detail}"
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.progress, description=words)
        elif progress.stage != self._said[0] or time.monotonic() - self._said[1] > LOG_PERIOD_S:
            self._said = (progress.stage, time.monotonic())
            self._console.print(f"{progress.progress:4.0%} {words}", soft_wrap=True)


def _show_result(result: JobResult) -> None:
    from rich.console import Console
    from rich.markup import escape

    from owled_ros.commands.inspect import still_to_do

    _show_rules(result.verdict)
    if result.verdict.get("shared_drive"):
        Console(highlight=False).print(
            "[yellow]the bags hold one drive only, which was cut in two: its end judged what its beginning calibrated[/]"
        )
    colour = "green" if result.verdict["passed"] else "red"
    Console(highlight=False).print(
        f"[{colour}]{escape(result.message)}[/] ({result.seconds:.0f} s)\n{result.version.path}", soft_wrap=True
    )
    for words in still_to_do(result.version.path):
        Console(highlight=False).print(escape(words), soft_wrap=True)


def _show_rules(verdict: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("rule", "candidate", "against", "limit", "unit", ""):
        table.add_column(heading, overflow="fold")
    for rule in verdict["rules"]:
        word = "[dim]no data[/]" if rule["skipped"] else "[green]holds[/]" if rule["passed"] else "[bold red]fails[/]"
        if rule.get("clips_needed"):
            word = "[yellow]too short[/]"  # not enough was recorded to tell
        against = f"{rule['against']} {_number(rule['other'])}" if rule["against"] else ""
        limit = f"{rule['kind'].replace('_', ' ')} {_number(rule['limit'])}"
        table.add_row(rule["name"].replace("_", " "), _number(rule["candidate"]), against, limit, rule["unit"], word)
    wide = Console(highlight=False)
    (wide if wide.is_terminal else Console(highlight=False, width=TABLE_WIDTH)).print(table)
    for reason in [] if verdict["rules"] else verdict["reasons"]:
        Console(highlight=False).print(reason, markup=False)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}" if count else "-"


def _gate_word(version: Version) -> str:
    return "not judged" if not version.gated else "passed" if version.passed else "refused"
