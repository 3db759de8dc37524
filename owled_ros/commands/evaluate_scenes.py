"""`owled evaluate-scenes`: the bundled model on rendered scenes that it never saw."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from owled_ros.commands import Device
from owled_ros.errors import EXIT_INTERRUPTED

PART_SUFFIX = ".part.jsonl"  # beside --out, while it is not finished
ROWS = (  # metric, unit, digits
    ("E_car", "cars", 3),
    ("E_ped", "people", 3),
    ("Acc_TL", "share", 3),
    ("D_TL_m", "m", 2),
    ("acceleration_mae_mps2", "m/s2", 3),
    ("steering_mae_rad", "rad", 4),
    ("manoeuvre_accuracy", "share", 3),
    ("good_action_share", "share", 3),
    ("valid_share", "share", 3),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate-scenes")(evaluate_scenes)


def evaluate_scenes(
    model: str = typer.Argument(
        "mini", help="Model directory or artifact of the bundled architecture; 'mini' is the bundled one."
    ),
    scenes: int = typer.Option(500, min=1, help="How many scenes."),
    first_seed: int = typer.Option(0, min=0, help="Seed of the first scene; training seeds are refused."),
    device: Device = "auto",
    paths: bool = typer.Option(
        False,
        help="Score the trajectories of a model of `owled train-mini --paths`, half of them where the route may turn.",
    ),
    out: Path | None = typer.Option(
        None, help="Write all metrics to this JSON file; answers are kept beside it, and a stopped run resumes there."
    ),
) -> None:
    """Score a model of the bundled architecture on unseen rendered scenes.

    Beside it stand the best constant answer, a blank image and the image of another scene: a model that does not
    look at the camera shows here. What was answered is told after every batch; with --out it is kept at once.
    """
    from rich.console import Console

    from owled_ros.evaluation.rendered import Kept, summarise_conditions, summarise_kept
    from owled_ros.files import write_json
    from owled_ros.models.driving_model import identify, resolve_model
    from owled_ros.models.load import load_model

    directory = resolve_model(model)
    if paths:
        _evaluate_paths(load_model(directory, device), directory, scenes, first_seed, out)
        return
    part = None if out is None else out.with_name(f"{out.name}{PART_SUFFIX}")
    so_far: Kept = {}

    def told(done: int, kept: Kept) -> None:
        so_far.update(kept)
        means = summarise_kept({"camera": kept["camera"]})["camera"]["means"]
        shown = ", ".join(f"{name} {_shown(means[name], digits)}" for name, _, digits in ROWS[:6])
        typer.echo(f"{done} of {scenes} scenes: {shown}")

    try:
        results = summarise_conditions(
            load_model(directory, device), directory, scenes, first_seed, part, identify(directory).model_id, told
        )
    except KeyboardInterrupt:
        done = len(so_far.get("camera", {}))
        if done:
            Console().print(scene_table(summarise_kept(so_far), done))
        kept = "the same command resumes there" if part else "--out FILE would keep them"
        typer.echo(f"stopped after {done} of {scenes} scenes; {kept}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if out is not None and part is not None:
        write_json(out, json.loads(json.dumps(results)))
        part.unlink(missing_ok=True)
    Console().print(scene_table(results, scenes))


def _evaluate_paths(model: Any, directory: Path, scenes: int, first_seed: int, out: Path | None) -> None:
    """Score trajectories and show the table."""
    from rich.console import Console
    from rich.table import Table

    from owled_ros.evaluation.rendered_paths import evaluate_paths, path_scenes
    from owled_ros.files import write_json

    results = evaluate_paths(model, directory, path_scenes(scenes, first_seed))
    if out is not None:
        write_json(out, {name: _plain(asdict(score)) for name, score in results.items()})
    turning = results["model"].turning
    table = Table(
        "row", "answered", "ADE [m]", "FDE at 3 s [m]", f"ADE of {turning} turns [m]",
        title=f"{scenes} unseen rendered scenes",
    )  # fmt: skip
    for name, score in results.items():
        values = (score.answered, score.ade, score.fde, score.turning_ade)
        table.add_row(name, *("-" if math.isnan(value) else f"{value:.2f}" for value in values))
    Console().print(table)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def scene_table(results: dict[str, dict[str, Any]], scenes: int) -> Any:
    """Lay the metrics out, a column per condition."""
    from rich.table import Table

    table = Table("metric", *results, title=f"{scenes} unseen rendered scenes")
    for name, unit, digits in ROWS:
        table.add_row(f"{name} [{unit}]", *(_shown(result["means"][name], digits) for result in results.values()))
    for colour in ("none", "red", "yellow", "green"):
        recalls = (result["traffic_light_recall"].get(colour) for result in results.values())
        table.add_row(f"light recall {colour} [share]", *(_shown(recall, 3) for recall in recalls))
    for name in ("parse_share", "scene_parse_share", "withheld_share"):
        table.add_row(f"{name} [share]", *(_shown(result["answers"][name], 3) for result in results.values()))
    return table


def _shown(value: Any, digits: int) -> str:
    if isinstance(value, dict):
        value = value.get("recall")
    return "-" if value is None else f"{value:.{digits}f}"
