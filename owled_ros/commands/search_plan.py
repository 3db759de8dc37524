"""`owled search-plan`: how to prune a model, searched in two stages by the held-out loss. Needs pruning, bags and optuna."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from owled_ros.commands import Device
from owled_ros.commands._calibration import Sources, calibration_sets
from owled_ros.commands._searching import Material, PauseAfter, Pauses, check_output, kept, ready, state_of
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
from owled_ros.pruning.config import (
    COMPONENTS_BY_DEFAULT,
    DEFAULT_SCORE,
    DENSE_BITS,
    GROUP_SIZES,
    METRIC,
    Batch,
    PruneConfig,
)

if TYPE_CHECKING:
    from rich.table import Table

    from owled_ros.pruning.plan_search import Found, Space

MIXES = (0.0, 0.125, 0.25, 0.5)  # shares of general text to choose from
logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search-plan")(with_config(search_plan))


def search_plan(
    model: Model,
    output: Annotated[
        Path, typer.Argument(help="The plan, a .json file for `owled prune --plan`; replaced in one step.")
    ],
    sparsity: Annotated[float, typer.Option(help="Share of zeros of every trial, inside (0, 1).")] = 0.6,
    evaluations: Annotated[
        int,
        typer.Option(
            help="Prunings to try, half of them for the settings, half for the plan; each costs a run of `owled prune` "
            "on these samples (docs/pruning.md)."
        ),
    ] = 40,
    pause_after: PauseAfter = 0.0,
    metric: Annotated[
        str, typer.Option(help="A further score to choose from: what `owled search-metric` wrote, or an expression.")
    ] = "",
    allocation: Annotated[
        list[str], typer.Option(help="An allocation to choose from (may be given several times); default: all.")
    ] = [],  # noqa: B006
    bits: Annotated[
        int, typer.Option(help="4 or 8: round what stays; the inputs that share a scale are then searched too.")
    ] = 0,
    component: Components = [],  # noqa: B006
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
    """Search how to prune a model: first score, allocation, damping and mix of texts, then the zeros of every layer and kind of matrix.

    Prune's own defaults are tried first. Same seed and arguments, same plan. An interrupted search goes on where it stopped when the
    same command is given again.
    """
    from rich.console import Console

    from owled_ros.devices import resolve_device
    from owled_ros.progress import track
    from owled_ros.pruning import plan_search as work
    from owled_ros.pruning import plan_trials as trials
    from owled_ros.pruning.metric import read_metric
    from owled_ros.pruning.passes import in_words
    from owled_ros.pruning.plan_file import PlanFile, write_plan
    from owled_ros.pruning.trials import DIGITS

    check_output(output, "plan")
    settings = work.PlanSearchSettings(evaluations, seed)
    settings.check()
    place = place_of(model)
    tree = str(read_metric(metric).tree) if metric else None
    config = PruneConfig(
        place, output, sparsity, METRIC if tree else DEFAULT_SCORE, seed=seed, device=resolve_device(device), metric=tree, bits=bits or None,
        components=tuple(component) or COMPONENTS_BY_DEFAULT,
    )  # fmt: skip
    config.check()
    if 0 < bits <= DENSE_BITS:
        raise OwledError(
            f"with {bits} bits zeros save no bytes, so there is no plan to search: give 4 or 8, or leave --bits out"
        )
    for name in allocation:
        replace(config, allocation=name).check()
    sources = Sources(
        tuple(bag), driving_text, general_text, scenes, samples, tokens, general_share, seed, config.device
    )
    pauses = Pauses(pause_after, "plan")
    with ready(config, sources, threads) as material:
        mixes = _mixes(place, sources, material)
        space = _space(config, tuple(allocation), general_share, mixes, trials.knobs_of(material.structure))
        held_out = material.held_out.batches
        name = trials.plan_search_name(config, settings, space, material.sha256, [*mixes.values(), held_out])
        state = state_of(output)
        found: Found | None = None
        with in_words("the calibration"):
            loss_of = trials.PlanLoss(material.model, material.structure, mixes, held_out, config)
        steps = kept(work.search(loss_of, space, settings, state, name), output)
        for found in track(steps, "plans tried", evaluations):
            logger.info("stage %d, %d of %d: best loss %.4f", found.stage, found.tried, evaluations, found.loss)
            if found.tried < evaluations:
                pauses.look(found.tried, evaluations, loss_of.trials)
        assert found is not None  # the settings were checked
        plan = loss_of.plan_of(found.best)
    losses = {"loss": found.loss, "first_stage_loss": found.first_loss, "default_loss": found.default_loss}
    facts = {
        **{key: value if value < float("inf") else None for key, value in losses.items()}, "dense_loss": round(loss_of.dense, DIGITS),
        "evaluations": found.tried, "seed": seed, **material.facts(place),
        "found": {"allocation": found.best.allocation, "lambda": found.best.spread, "outlier_threshold": found.best.threshold, "moves": dict(found.best.moves)},
    }  # fmt: skip
    kept_settings = trials.settings_of(found.best, config, len(mixes) > 1)
    sparsity = loss_of.config_of(found.best).sparsity
    write_plan(output, PlanFile(output.stem, sparsity, plan.sparsity, kept_settings), facts)
    state.unlink(missing_ok=True)
    Console().print(_table(found, loss_of.dense, output))


def _mixes(place: Path, sources: Sources, material: Material) -> dict[float, list[Batch]]:
    """Return calibration batches by their share of general text: one where it is no choice, because there are no two kinds of text."""
    kinds = [part.kind for part in material.calibration.provenance]
    if kinds != ["driving_text", "general_text"]:
        return {sources.general_share: material.calibration.batches}
    shares = sorted({*MIXES, sources.general_share})
    asked = {
        share: replace(sources, general_share=share, general_text=sources.general_text if share else "")
        for share in shares
    }
    return {share: calibration_sets(place, mixed)[0].batches for share, mixed in asked.items()}


def _space(
    config: PruneConfig,
    allocations: tuple[str, ...],
    share: float,
    mixes: dict[float, list[Batch]],
    knobs: tuple[str, ...],
) -> Space:
    from owled_ros.pruning.plan_search import ALLOCATIONS, Space, Trial, scores_with

    chosen = allocations or ALLOCATIONS
    sizes = (None,) if config.bits is None else (GROUP_SIZES[config.bits], 64, 128)
    default = Trial(
        allocation=chosen[0], general_share=share, group_size=sizes[0],
        threshold=config.lod_threshold, damping=config.damping,
    )  # fmt: skip
    return Space(default, scores_with(config.metric), chosen, tuple(mixes), sizes, knobs)


def _table(found: Found, dense: float, output: Path) -> Table:
    from rich.table import Table

    table = Table("", "loss", min_width=72, title=f"held-out loss, {found.tried} plans tried")
    table.add_row("dense", f"{dense:.4f}")
    table.add_row("prune's own defaults", f"{found.default_loss:.4f}")
    table.add_row("first stage: settings", f"{found.first_loss:.4f}")
    best = found.best
    words = (
        f"{best.score}, {best.allocation} moved by {len(best.moves)} knobs"
        if best.moves
        else f"{best.score}, {best.allocation}"
    )
    table.add_row(f"[bold]{output.stem}[/bold]: {words}", f"[bold]{found.loss:.4f}[/bold]")
    return table
