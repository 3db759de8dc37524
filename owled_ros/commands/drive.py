"""`owled drive`: let a model drive routes of the rendered world, beside the expert and a constant-speed driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

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
        "mini", help="expert, constant, mini (the bundled model), or the directory of a model or artifact."
    ),
    routes: int = typer.Option(20, min=1, max=10_000, help="How many routes of 250 to 400 m."),
    seed: int = typer.Option(0, min=0, max=LAST_SEED - 1, help="First world; the next ones follow."),
    rate_hz: float = typer.Option(10.0, min=1.0, max=50.0, help="Actions per second of the world's clock."),
    width: int = typer.Option(1280, min=16, help="Width of the camera image [px]."),
    height: int = typer.Option(720, min=16, help="Height of the camera image [px]."),
    floor: float = typer.Option(
        -1.0, help="Withhold actions of lower confidence; negative: what the model recommends."
    ),
    alone: bool = typer.Option(False, help="Do not drive the routes with the expert and at constant speed too."),
    json_file: str = typer.Option("", "--json", help="Write every route and the table to this file."),
) -> None:
    """Drive in closed loop and count what happens: routes finished, collisions, red lights run, road left.

    The world waits for the driver, so this measures what a driver knows and not how fast it answers. An action that is
    withheld is replaced by comfortable braking (-2.5 m/s2) with the last tire angle; a route that never ends times out.
    """
    from owled_ros.errors import OwledError
    from owled_ros.progress import track
    from owled_ros.scenes.camera import Camera
    from owled_ros.scenes.closed_loop import drive_route, standing_of

    if seed + routes > LAST_SEED:
        raise OwledError(
            f"worlds {seed} to {seed + routes - 1} reach into the training seeds; expected all below {LAST_SEED}"
        )
    camera = Camera().resized(width, height)
    table: dict[str, tuple[Standing, list[Route]]] = {}
    for name, driver in _drivers(policy, floor, alone).items():
        driven = [
            drive_route(number, driver, camera, 1.0 / rate_hz)
            for number in track(range(seed, seed + routes), f"driving: {name}")
        ]
        table[name] = (standing_of(driven), driven)
    _show(table)
    if json_file:
        _write(
            Path(json_file),
            table,
            {"seed": seed, "routes": routes, "rate_hz": rate_hz, "width": width, "height": height},
        )


def _drivers(policy: str, floor: float, alone: bool) -> dict[str, Driver]:
    from owled_ros.scenes.player import constant_driver, driver_of, expert_driver

    known: dict[str, Driver] = {"expert": expert_driver, "constant": constant_driver}
    if policy in known:
        chosen: dict[str, Driver] = {policy: known[policy]}
    else:
        chosen = {policy: driver_of(_model_policy(policy, floor))}
    return chosen if alone else {**chosen, **known}


def _model_policy(policy: str, floor: float) -> Any:
    """Load a model and return what it does with an image and the ego state."""
    import numpy as np

    from owled_ros.driving.answer import Action
    from owled_ros.driving.frame import EgoState, Frame
    from owled_ros.driving.prediction import withhold_below
    from owled_ros.driving.profile import read_profile
    from owled_ros.models.driving_model import load_engine, resolve_model

    directory = resolve_model(policy)
    engine = load_engine(directory)
    least = read_profile(directory).confidence.floor if floor < 0 else floor

    def answer(image: np.ndarray, ego: EgoState) -> Action | None:
        return withhold_below(engine.act(engine.see(Frame(image, ego.stamp, ego))), least).action

    return answer


def _show(table: dict[str, tuple[Standing, list[Route]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    view = Table(box=None, pad_edge=False)
    view.add_column("driver")
    for heading in (*COLUMNS.values(), "speed"):
        view.add_column(heading, justify="right", no_wrap=True)
    for name, (standing, _) in table.items():
        shares = [f"{getattr(standing, column):.0%}" for column in COLUMNS]
        view.add_row(name, *shares, f"{standing.mean_speed:.1f} m/s")
    console.print(view)
    first = next(iter(table))
    for route in table[first][1]:
        if route.outcome.value != "finished":
            console.print(
                f"[dim]{first}, world {route.seed}: {route.outcome.value} at {route.progress:.0%} {route.detail}[/]"
            )


def _write(path: Path, table: dict[str, tuple[Standing, list[Route]]], settings: dict[str, Any]) -> None:
    from dataclasses import asdict

    from owled_ros.files import write_json

    drivers = {
        name: {
            "standing": asdict(standing),
            "routes": [{**asdict(route), "outcome": route.outcome.value} for route in driven],
        }
        for name, (standing, driven) in table.items()
    }
    write_json(path, {"settings": settings, "drivers": drivers})
