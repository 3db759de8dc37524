"""`owled search-metric`: a pruning metric found by genetic programming on a small model. Needs pruning and bags."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from owled_ros.commands import Device
from owled_ros.commands._calibration import Sources, calibration_sets
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
from owled_ros.errors import OwledError
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
    pause_after: Annotated[
        float,
        typer.Option(
            min=0.0, help="Stop between two generations after so many real minutes; the same command goes on. 0: never."
        ),
    ] = 0.0,
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
    import torch
    from rich.console import Console

    from owled_ros.devices import on_device, resolve_device
    from owled_ros.models.components import find_structure
    from owled_ros.models.load import check_model, load_model, source_of
    from owled_ros.progress import track
    from owled_ros.pruning import metric_search as work
    from owled_ros.pruning.checks import check_calibration, check_inputs, choose_parts
    from owled_ros.pruning.evolution import SearchSettings
    from owled_ros.pruning.passes import forward_precision, in_words
    from owled_ros.pruning.state import hash_batches
    from owled_ros.pruning.usage import settle_structure

    if output.suffix != ".json":
        raise OwledError(f"{output} is where the metric goes: give a name that ends in .json")
    place = place_of(model)
    config = PruneConfig(
        place, output, sparsity, "magnitude", "uniform", seed=seed, device=resolve_device(device),
        components=tuple(component) or COMPONENTS_BY_DEFAULT,
    )  # fmt: skip
    config.check()
    if evaluations is not None:
        SearchSettings(evaluations, population, seed).check()
    if threads is not None:
        torch.set_num_threads(threads)
    check_model(place)
    sources = Sources(
        tuple(bag), driving_text, general_text, scenes, samples, tokens, general_share, seed, config.device
    )
    calibration, held_out = calibration_sets(place, sources)
    check_calibration(calibration.batches)
    loaded = load_model(place, config.device)
    check_inputs(loaded, calibration.batches + held_out.batches)
    begun = time.monotonic()
    with on_device(config.device), forward_precision(config.dtype, config.device):
        with in_words("the calibration"):
            structure = settle_structure(loaded, choose_parts(find_structure(loaded), config), calibration.batches)
        if evaluations is None:
            size = sum(block.size for block in structure.blocks)
            seen = sum(int(batch["input_ids"].numel()) for batch in held_out.batches)
            evaluations = work.evaluations_in(minutes, size, seen)
        settings = SearchSettings(evaluations, population, seed)
        settings.check()
        sha256 = source_of(place).sha256
        name = work.search_name(config, settings, sha256, [calibration.batches, held_out.batches])
        state = output.with_name(f".{output.name}.searching")
        with in_words("the calibration"):
            loss_of = work.PrunedLoss(loaded, structure, calibration.batches, held_out.batches, config)
        generation = 0
        found: Found | None = None
        for found in track(_kept(work.search(loss_of, settings, state, name), output), "trees tried", evaluations):
            if found.tried % population == 0 and found.tried < evaluations:
                generation += 1
                logger.info("generation %d: loss %.4f by %s", generation, found.best.loss, found.best.tree)
                if pause_after and loss_of.trials and time.monotonic() - begun > 60.0 * pause_after:
                    raise OwledError(
                        f"paused after {found.tried} of {evaluations} evaluations (--pause-after {pause_after:g}): no metric yet; "
                        "the same command goes on from here"
                    )
    assert found is not None  # the settings were checked
    facts = {
        "dense_loss": round(loss_of.dense, work.DIGITS), "sparsity": sparsity, "seed": seed, "population": population,
        "model": {"name": place.name, "sha256": sha256}, "calibration_sha256": hash_batches(calibration.batches),
        "calibration": calibration.entries(),
    }  # fmt: skip
    work.write_metric(output, output.stem, found, facts)
    state.unlink(missing_ok=True)
    Console().print(_table(found, loss_of.dense, output))


def _kept(steps: Iterator[Found], output: Path) -> Iterator[Found]:
    """Say in one sentence that the state of a search cannot be written."""
    try:
        yield from steps
    except OSError as err:
        raise OwledError(
            f"cannot keep the state of the search beside {output}: {err}; give another place or free some disk space, and run the "
            "same command again"
        ) from err


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
