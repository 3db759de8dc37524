"""`owled search-metric`: a pruning metric found by genetic programming on a small model. Needs pruning and bags."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from owled_ros.commands import Device
from owled_ros.commands._calibration import Sources
from owled_ros.commands._searching import PauseAfter, Pauses, check_output, kept, ready, state_of
from owled_ros.commands.prune import (
    Bags,
    Components,
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
from owled_ros.options import with_config
from owled_ros.pruning.config import COMPONENTS_BY_DEFAULT, PruneConfig

if TYPE_CHECKING:
    from rich.table import Table

    from owled_ros.pruning.metric_search import Found

logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search-metric")(with_config(search_metric))


def search_metric(
    model: Model,
    output: Annotated[
        Path, typer.Argument(help="The metric, a .json file for `owled prune --metric`; replaced in one step.")
    ],
    sparsity: Annotated[float, typer.Option(help="Share of zeros of every trial, inside (0, 1).")] = 0.6,
    minutes: Annotated[
        float,
        typer.Option(
            help="Sizes the search: as many evaluations as a slow machine does in this time (docs/pruning.md)."
        ),
    ] = 10.0,
    evaluations: Annotated[int | None, typer.Option(min=1, help="Trees to try, instead of --minutes.")] = None,
    population: Annotated[int, typer.Option(min=4, help="Trees of a generation.")] = 16,
    pause_after: PauseAfter = 0.0,
    component: Components = [],  # noqa: B006
    bag: Bags = [],  # noqa: B006
    driving_text: DrivingText = None,
    general_text: GeneralText = "",
    scenes: Scenes = 0,
    samples: Samples = 32,
    tokens: Tokens = 256,
    general_share: Share = 0.25,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Search the metric that prunes a small model best: trees over weights, input norms and gradients, judged by the held-out loss.

    Same seed and arguments, same metric. An interrupted search goes on where it stopped when the same command is given again.
    """
    from rich.console import Console

    from owled_ros.devices import resolve_device
    from owled_ros.progress import track
    from owled_ros.pruning import metric_search as work
    from owled_ros.pruning.evolution import SearchSettings
    from owled_ros.pruning.passes import in_words
    from owled_ros.pruning.trials import DIGITS

    check_output(output, "metric")
    place = place_of(model)
    config = PruneConfig(
        place, output, sparsity, "magnitude", "uniform", seed=seed, device=resolve_device(device),
        components=tuple(component) or COMPONENTS_BY_DEFAULT,
    )  # fmt: skip
    config.check()
    if evaluations is not None:
        SearchSettings(evaluations, population, seed).check()
    sources = Sources(
        tuple(bag), driving_text, general_text, scenes, samples, tokens, general_share, seed, config.device
    )
    pauses = Pauses(pause_after, "metric")
    with ready(config, sources, threads) as material:
        calibration, held_out = material.calibration.batches, material.held_out.batches
        if evaluations is None:
            size = sum(block.size for block in material.structure.blocks)
            seen = sum(int(batch["input_ids"].numel()) for batch in held_out)
            evaluations = work.evaluations_in(minutes, size, seen)
        settings = SearchSettings(evaluations, population, seed)
        settings.check()
        name = work.search_name(config, settings, material.sha256, [calibration, held_out])
        state = state_of(output)
        with in_words("the calibration"):
            loss_of = work.PrunedLoss(material.model, material.structure, calibration, held_out, config)
        generation = 0
        found: Found | None = None
        for found in track(kept(work.search(loss_of, settings, state, name), output), "trees tried", evaluations):
            if found.tried % population == 0 and found.tried < evaluations:
                generation += 1
                logger.info("generation %d: loss %.4f by %s", generation, found.best.loss, found.best.tree)
                pauses.look(found.tried, evaluations, loss_of.trials)
    assert found is not None  # the settings were checked
    facts = {"dense_loss": round(loss_of.dense, DIGITS), "sparsity": sparsity, "seed": seed, "population": population}
    work.write_metric(output, output.stem, found, {**facts, **material.facts(place)})
    state.unlink(missing_ok=True)
    Console().print(_table(found, loss_of.dense, output))


def _table(found: Found, dense: float, output: Path) -> Table:
    from rich.table import Table

    table = Table(
        "metric",
        "loss",
        min_width=72,
        title=f"held-out loss after pruning, dense {dense:.4f}; {found.tried} trees tried",
    )
    for name, loss in sorted(found.known.items(), key=lambda item: item[1]):
        table.add_row(name, f"{loss:.4f}")
    table.add_row(f"[bold]{output.stem}[/bold]: {found.best.tree}", f"[bold]{found.best.loss:.4f}[/bold]")
    return table
