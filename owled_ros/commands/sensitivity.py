"""`owled sensitivity`: what pruning each component alone costs, and a budget. Needs pruning and bags."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from owled_ros.commands import Device
from owled_ros.commands._calibration import Sources, calibration_sets
from owled_ros.commands.prune import (
    Bags,
    DrivingText,
    GeneralText,
    Model,
    Samples,
    Scenes,
    Seed,
    Share,
    Threads,
    Tokens,
    place_of,
)
from owled_ros.pruning.config import SCORES, PruneConfig

logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sensitivity)


def sensitivity(
    model: Model,
    sparsity: Annotated[float, typer.Option(help="Overall sparsity that the proposed budget must reach.")] = 0.6,
    out: Annotated[Path, typer.Option(help="Directory for sensitivity.json and sensitivity.png.")] = Path(
        "sensitivity"
    ),
    score: Annotated[str, typer.Option(help=" | ".join(SCORES))] = "wanda",
    bag: Bags = [],  # noqa: B006
    driving_text: DrivingText = None,
    general_text: GeneralText = "python-docs",
    scenes: Scenes = 0,
    samples: Samples = 32,
    tokens: Tokens = 256,
    general_share: Share = 0.25,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Measure what pruning each component alone costs, plot it, and propose a budget."""
    import torch
    from rich.console import Console

    from owled_ros.files import write_json
    from owled_ros.models.components import find_structure
    from owled_ros.models.load import check_model, load_model
    from owled_ros.pruning.checks import check_inputs
    from owled_ros.pruning.passes import forward_precision, in_words
    from owled_ros.pruning.sensitivity import measure_sensitivity, plot, propose_budget
    from owled_ros.pruning.usage import settle_structure

    place = place_of(model)
    config = PruneConfig(
        place, out, sparsity, score, "uniform", seed=seed, device=device, components=("vision", "projector", "language")
    )
    config.check()
    if threads is not None:
        torch.set_num_threads(threads)
    check_model(place)
    calibration, held_out = calibration_sets(
        place, Sources(tuple(bag), driving_text, general_text, scenes, samples, tokens, general_share, seed, device)
    )
    loaded = load_model(place, device)
    check_inputs(loaded, calibration.batches + held_out.batches)
    with forward_precision(config.dtype, device), in_words("the calibration"):
        structure = settle_structure(loaded, find_structure(loaded), calibration.batches)
        found = measure_sensitivity(
            loaded, structure, calibration.batches, held_out.batches, config,
            report=lambda done, total, detail: logger.info("%d of %d: %s", done, total, detail),
        )  # fmt: skip
    budget = propose_budget(found, sparsity)
    out.mkdir(parents=True, exist_ok=True)
    losses = {name: {str(level): loss for level, loss in curve.items()} for name, curve in found.losses.items()}
    write_json(
        out / "sensitivity.json", {"dense_loss": found.dense, "losses": losses, "sizes": found.sizes, "budget": budget}
    )
    plot(found, budget, out / "sensitivity.png")
    Console().print(_sensitivity_table(found, budget))


def _sensitivity_table(found: Any, budget: dict[str, float]) -> Any:
    from rich.table import Table

    levels = sorted(next(iter(found.losses.values())))
    table = Table(
        "component",
        "weights",
        *(f"{level:.0%}" for level in levels),
        "budget",
        title=f"held-out loss, dense {found.dense:.4f}",
    )
    for name, losses in found.losses.items():
        table.add_row(
            name, f"{found.sizes[name]:,}", *(f"{losses[level]:.4f}" for level in levels), f"{budget[name]:.1%}"
        )
    return table
