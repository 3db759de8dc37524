"""`owled drive`: let a model drive routes of the rendered world, beside the expert and a constant-speed driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from owled_ros.commands import Device
from owled_ros.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from owled_ros.scenes.closed_loop import Route, Standing
    from owled_ros.scenes.player import Driver

LAST_SEED = 1_000_000  # larger seeds belong to training
COLUMNS = {
    "finished": "finished",
    "collision": "crashed",
    "red_light": "ran red",
    "off_road": "off road",
    "time_out": "too slow",
    "progress": "progress",
    "withheld": "withheld",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(drive)


def drive(
    policy: str = typer.Option(
        "",
        help="expert, constant, mini, mini-turns or llm-driver (bundled models), or the directory of a model or artifact; empty: mini, with --turns mini-turns.",
    ),
    routes: int = typer.Option(20, min=1, max=10_000, help="How many routes of 250 to 400 m."),
    seed: int = typer.Option(0, min=0, max=LAST_SEED - 1, help="First world; the next ones follow."),
    rate_hz: float = typer.Option(10.0, min=1.0, max=50.0, help="Actions per second of the world's clock."),
    width: int = typer.Option(1280, min=16, help="Width of the camera image [px]."),
    height: int = typer.Option(720, min=16, help="Height of the camera image [px]."),
    floor: float = typer.Option(
        -1.0, help="Withhold actions of lower confidence; negative: what the model recommends."
    ),
    turns: bool = typer.Option(False, help="Turn left and right at junctions, told by navigation commands."),
    noise_m: float = typer.Option(
        0.0, min=0.0, max=10.0, help="For a model that reads vectors: noise of objects' places."
    ),
    dropped: float = typer.Option(
        0.0, min=0.0, max=1.0, help="For a model that reads vectors: share of objects missed."
    ),
    alone: bool = typer.Option(False, help="Do not drive the routes with the expert and at constant speed too."),
    device: Device = "auto",
    json_file: str = typer.Option(
        "", "--json", help="Keep every route and the table in this file; a stopped run resumes there."
    ),
) -> None:
    """Drive in closed loop and count what happens: routes finished, collisions, red lights run, road left.

    Routes go straight on at junctions; with --turns they turn too, and a model whose profile asks for a command is told "left",
    "right" or "straight" from 40 m before the stop line until the junction is passed.

    The world waits for the driver, so this measures what a driver knows and not how fast it answers. An action that is
    withheld is replaced by comfortable braking (-2.5 m/s2) with the last tire angle; a route that never ends times out.
    Every route is told when it ends. With --json it is kept at once: the same command resumes where it was stopped or killed.
    """
    from owled_ros.errors import OwledError
    from owled_ros.models.driving_model import BUNDLED, TURNING
    from owled_ros.progress import track
    from owled_ros.scenes.camera import Camera
    from owled_ros.scenes.closed_loop import drive_route
    from owled_ros.scenes.drive_log import DriveLog
    from owled_ros.scenes.perception import Perception

    if seed + routes > LAST_SEED:
        raise OwledError(
            f"worlds {seed} to {seed + routes - 1} reach into the training seeds; expected all below {LAST_SEED}"
        )
    camera = Camera().resized(width, height)
    policy = policy or (TURNING if turns else BUNDLED)
    drivers, identity, told = _drivers(policy, floor, alone, device)
    settings = {"policy": policy, "model": identity, "seed": seed, "routes": routes, "rate_hz": rate_hz, "width": width,
                "height": height, "floor": floor, "alone": alone}  # fmt: skip
    settings |= {"turns": True} if turns else {}
    settings |= {"noise_m": noise_m, "dropped": dropped} if told else {}
    log = DriveLog(Path(json_file) if json_file else None, settings)
    if log.routes:
        typer.echo(f"{json_file}: resuming after {log.count} routes")
    stopped = False
    try:
        for name, driver in drivers.items():
            for number in track(range(seed, seed + routes), f"driving: {name}"):
                if log.known(name, number) is None:
                    perception = Perception(noise_m, dropped, number) if name == told else None
                    route = drive_route(number, driver, camera, 1.0 / rate_hz, turns, perception)
                    log.add(name, route)
                    _say(name, route)
        log.finish()
    except KeyboardInterrupt:
        stopped = True
    if log.routes:
        _show(log.table())
    if stopped:
        kept = f"; the same command resumes after {log.count} routes" if json_file else "; --json FILE would keep them"
        typer.echo(f"stopped after {log.count} of {routes * len(drivers)} routes{kept}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)


def _drivers(policy: str, floor: float, alone: bool, device: str) -> tuple[dict[str, Driver], str, str]:
    """Return the drivers by name, which weights drive (empty without a model), and the name of one that reads vectors."""
    from owled_ros.scenes.player import constant_driver, expert_driver

    known: dict[str, Driver] = {"expert": expert_driver, "constant": constant_driver}
    identity = told = ""
    if policy in known:
        chosen: dict[str, Driver] = {policy: known[policy]}
    else:
        driver, identity, reads_vectors = _model_driver(policy, floor, device)
        chosen = {policy: driver}
        told = policy if reads_vectors else ""
    return (chosen if alone else {**chosen, **known}), identity, told


def _model_driver(policy: str, floor: float, device: str) -> tuple[Driver, str, bool]:
    """Load a model and return how it drives, its identity, and whether it reads vectors."""
    from owled_ros.driving.answer import Action
    from owled_ros.driving.frame import Frame
    from owled_ros.driving.prediction import withhold_below
    from owled_ros.driving.profile import read_profile
    from owled_ros.models.driving_model import load_engine, resolve_model
    from owled_ros.scenes.player import driver_of

    directory = resolve_model(policy)
    engine = load_engine(directory, device=device)
    least = read_profile(directory).confidence.floor if floor < 0 else floor

    def answer(frame: Frame) -> Action | None:
        return withhold_below(engine.act(engine.see(frame)), least).action

    name = f"{engine.identity.model_id} {engine.identity.artifact_id}".strip()
    return driver_of(answer), name, engine.profile.vectors is not None


def _say(name: str, route: Route) -> None:
    """Tell how a route ended, at once: a killed run has said what it did."""
    typer.echo(
        f"{name}, world {route.seed}: {route.outcome.value} at {route.progress:.0%} after {route.seconds:.0f} s {route.detail}"
    )


def _show(table: dict[str, tuple[Standing, list[Route]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    view = Table(box=None, pad_edge=False)
    view.add_column("driver", overflow="fold")
    for heading in (*COLUMNS.values(), "speed"):
        view.add_column(heading, justify="right")
    for name, (standing, _) in table.items():
        shares = [f"{getattr(standing, column):.0%}" for column in COLUMNS]
        view.add_row(name, *shares, f"{standing.mean_speed:.1f} m/s")
    console.print(view)
