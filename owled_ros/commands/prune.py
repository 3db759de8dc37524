"""`owled prune`: from a model and calibration data to an artifact. Needs pruning and bags."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from owled_ros.commands import Device
from owled_ros.commands._calibration import Sources, calibration_sets
from owled_ros.errors import OwledError
from owled_ros.options import with_config
from owled_ros.pruning.config import (
    ALLOCATIONS,
    DEFAULT_SCORE,
    DENSE_BITS,
    ENDS_BITS,
    METRIC,
    PATTERNS,
    PLAN,
    ROWS,
    SCORES,
    STATISTICS,
    PruneConfig,
    PruneProgress,
)

if TYPE_CHECKING:
    from owled_ros.models.manifest import Manifest
    from owled_ros.pruning.calibration import CalibrationSet
    from owled_ros.pruning.plan_file import PlanFile

logger = logging.getLogger(__name__)

Model = Annotated[
    str, typer.Argument(help="Hugging Face directory, .gguf file, artifact, or 'mini' (the bundled model).")
]
Bags = Annotated[list[Path], typer.Option("--bag", help="rosbag2 to calibrate on (may be given several times).")]
DrivingText = Annotated[
    Path | None,
    typer.Option(help="jsonl of driving text (docs/pruning.md); of a model that reads vectors, released scenes."),
]
GeneralText = Annotated[str, typer.Option(help="Text file, or 'python-docs' (comes with Python); '' for none.")]
Scenes = Annotated[int, typer.Option(min=0, help="Rendered scenes with the expert's answers (no bag needed).")]
Samples = Annotated[int, typer.Option(min=2, help="Calibration samples in all, shared by the sources given.")]
Tokens = Annotated[int, typer.Option(min=8, help="Tokens of a text sample.")]
Share = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of general text among the samples.")]
Components = Annotated[
    list[str], typer.Option("--component", help="vision, projector, language; default vision and language.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same artifact.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(with_config(prune))


def prune(
    model: Model,
    output: Annotated[Path, typer.Argument(help="Directory of the artifact; replaced in one step.")],
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Share of zeros over all pruned matrices, inside (0, 1), with --bits also 0; default 0.6, or that of --plan; "
            "with --bits 3 or fewer 0, as zeros save nothing there."
        ),
    ] = None,
    budget: Annotated[list[str], typer.Option(help="Sparsity of one component, e.g. vision=0.4.")] = [],  # noqa: B006
    component: Components = [],  # noqa: B006
    score: Annotated[
        str,
        typer.Option(
            help=" | ".join(SCORES)
            + f" | metric | stbllm (with a pattern); default {DEFAULT_SCORE}, metric where --metric is given."
        ),
    ] = "",
    metric: Annotated[
        str, typer.Option(help="What `owled search-metric` wrote, or an expression such as 'mul(abs(W), X)'.")
    ] = "",
    allocation: Annotated[
        str,
        typer.Option(
            help=" | ".join(ALLOCATIONS) + "; default uniform, learned with scores that do not correct drift."
        ),
    ] = "",
    plan: Annotated[
        Path | None,
        typer.Option(
            help="What `owled search-plan` wrote: zeros of every matrix instead of --allocation, and settings that given options go before."
        ),
    ] = None,
    statistics: Annotated[str, typer.Option(help=" | ".join(STATISTICS))] = "fused",
    pattern: Annotated[str, typer.Option(help=" | ".join(PATTERNS))] = "unstructured",
    threshold: Annotated[float, typer.Option("--outlier-threshold", help="OWL's M.")] = 5.0,
    owl_lambda: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="Half the range of block sparsities with owl, dlp and atp (default 0.08, 0.15, 0.15); "
            "with alpha-pruning as a share of the sparsity (0.3).",
        ),
    ] = None,
    rows: Annotated[
        str, typer.Option(help=" | ".join(ROWS) + ": zeros of a matrix's rows; trim for magnitude, wanda, pruner-zero.")
    ] = "even",
    bag: Bags = [],  # noqa: B006
    driving_text: DrivingText = None,
    general_text: GeneralText = "python-docs",
    scenes: Scenes = 0,
    samples: Samples = 64,
    tokens: Tokens = 512,
    general_share: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of general text among the samples; default 0.25, or that of --plan."
        ),
    ] = None,
    bits: Annotated[
        float,
        typer.Option(
            help="8, 4, 3, 2 or 1.6 (-1, 0 and 1): round what stays in the same sweep, for --pack without loss; 0: no rounding."
        ),
    ] = 0,
    group_size: Annotated[
        int, typer.Option(help="Inputs that share a scale with --bits: 32, 64 or 128; 0: 32, with 3 bits or fewer 64.")
    ] = 0,
    round_ends: Annotated[
        bool,
        typer.Option(
            "--round-ends/--keep-ends",
            help="With --bits 4 or fewer: round embedding and output matrix too, to --ends-bits.",
        ),
    ] = True,
    ends_bits: Annotated[
        float,
        typer.Option(
            help="4, 3 or 2, of embedding and output matrix: in a small model much of the file, and sensitive."
        ),
    ] = ENDS_BITS,
    ends_group: Annotated[
        int,
        typer.Option(help="Inputs that share one of their scales; 0: as --group-size, 32 with 2 or 3 of --ends-bits."),
    ] = 0,
    regions: Annotated[
        int, typer.Option(help="Levels of a row and block with --score stbllm: 3, or 1 for the fewest bytes.")
    ] = 3,
    recovery_steps: Annotated[
        int,
        typer.Option(
            min=0,
            help="Masked distillation after pruning, with --bits of scales and gains (with 2 bits try 144); 0: off.",
        ),
    ] = 0,
    reconstruct: Annotated[
        int, typer.Option(min=0, help="Steps that fit every attention and MLP to the dense one, zeros fixed; 0 is off.")
    ] = 0,
    refine: Annotated[
        int | None, typer.Option(min=0, help="Least-squares steps; default 10 with sparsegpt and admm, else 0.")
    ] = None,
    damping: Annotated[
        float | None,
        typer.Option(
            help="Share of the Hessian's mean diagonal that is added to it (sparsegpt, admm, refine); default 0.01."
        ),
    ] = None,
    correct_drift: Annotated[
        bool | None,
        typer.Option(
            "--correct-drift/--keep-drift",
            help="Aim every matrix at what the dense model gives, and not only at what its dense weight gives behind pruned "
            "blocks; default: with sparsegpt and admm on fused statistics.",
        ),
    ] = None,
    pack: Annotated[
        bool | None,
        typer.Option(
            help="Add the packed weights of the sparse runtime; default: on the CPU, where the model can be packed."
        ),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(help="Run dense, pruned and packed at the end and show what each costs; a few seconds and more."),
    ] = True,
    with_uniform: Annotated[
        bool, typer.Option(help="Also write OUTPUT-uniform, zeros spread evenly: `owled evaluate` shows it beside.")
    ] = False,
    seed: Seed = 0,
    threads: Threads = None,
    device: Device = "auto",
    image_topic: Annotated[str, typer.Option(help="Camera, where a bag has several.")] = "",
    ego_topic: Annotated[str, typer.Option(help="Ego motion, where a bag has several.")] = "",
    ego_from: Annotated[str, typer.Option(help="What tells the ego motion (docs/bags.md).")] = "",
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Go on although none of the model's first 16 answers is in its form.")
    ] = False,
) -> None:
    """Prune a model with OWLed and write a hashed, reproducible artifact.

    An interrupted run resumes where it stopped when the same command is given again.
    """
    from rich.console import Console

    from owled_ros.commands.inspect import shown
    from owled_ros.evaluation.beside import UNIFORM, UNIFORM_SUFFIX
    from owled_ros.models.load import check_model
    from owled_ros.models.manifest import read_manifest
    from owled_ros.pruning.metric import read_metric
    from owled_ros.pruning.plan_file import PlanSettings

    place = place_of(model)
    searched = _searched(plan, allocation)
    found = searched.settings if searched else PlanSettings()
    zeros_asked = budget or pattern != "unstructured" or allocation not in ("", UNIFORM)
    usual = 0.0 if 0 < bits <= DENSE_BITS and not zeros_asked else 0.6
    sparsity = _first(sparsity, searched.sparsity if searched else None, usual)
    metric = metric or (found.metric or "" if score in ("", METRIC) else "")
    tree = read_metric(metric).tree if metric else None
    score = score or ((found.score or DEFAULT_SCORE) if tree is None else METRIC)
    general_share = _first(general_share, found.general_share, 0.25)
    config = PruneConfig(
        place, output, sparsity, score, PLAN if searched else allocation or UNIFORM, statistics, pattern, tuple(component) or ("vision", "language"),
        _budgets(budget), threshold, owl_lambda, rows, metric=None if tree is None else str(tree),
        plan=searched.plan if searched else None, refine_steps=_first(refine, found.refine, None), damping=_first(damping, found.damping, 0.01),
        reconstruct_steps=reconstruct or None, recovery_steps=recovery_steps, seed=seed, threads=threads, device=device,
        regions=regions, correct_drift=correct_drift,
        bits=_whole(bits) or found.bits, group_size=group_size or found.group_size, round_ends=round_ends, ends_bits=_whole(ends_bits),
        ends_group=ends_group or None,
    )  # fmt: skip
    if not (searched or allocation or config.corrects_drift) and pattern == "unstructured" and sparsity > 0:
        config = replace(config, allocation="learned")
    config.check()
    check_model(place)  # before a tokenizer is looked for: the first sentence names what is really wrong
    sources = Sources(
        tuple(bag),
        driving_text,
        general_text,
        scenes,
        samples,
        tokens,
        general_share,
        seed,
        device,
        image_topic,
        ego_topic,
        ego_from,
        go_on,
    )
    configs = [config]  # both see the very same calibration
    if with_uniform and (config.allocation, rows) != (UNIFORM, "even"):
        configs.append(
            replace(
                config,
                allocation=UNIFORM,
                plan=None,
                rows="even",
                output=output.with_name(output.name + UNIFORM_SUFFIX),
            )
        )
    elif with_uniform:
        Console().print("the zeros are spread evenly already: nothing is written beside it")
    sets = calibration_sets(place, sources)
    for chosen in configs:
        problem = write_artifact(chosen, sets, sources, pack)
        manifest = record_cost(chosen, problem) if cost and chosen is config else read_manifest(chosen.output)
        for part in shown(manifest, chosen.output, problem):
            Console().print(part)


def write_artifact(
    config: PruneConfig, sets: tuple[CalibrationSet, CalibrationSet], sources: Sources, pack: bool | None
) -> str:
    """Prune with calibration and held-out set, and pack.

    Args:
        pack: True: or fail; False: no; None: on the CPU, where it can be done.

    Returns:
        Why it was not packed; empty when it was, and when nobody wanted it.
    """
    from owled_ros.pruning.prune import prune as run

    calibration, held_out = sets
    entries = calibration.entries()
    entries[0] |= {"asked": sources.asked()}
    run(config, calibration.batches, entries, held_out.batches, _say)
    return pack_if_possible(config, pack)


def pack_if_possible(config: PruneConfig, pack: bool | None) -> str:
    """Pack a finished artifact; returns why not, and raises OwledError only where it was asked for."""
    from owled_ros.devices import resolve_device
    from owled_ros.pruning.packing import pack_artifact

    if pack is False:
        return "--no-pack was given"
    if pack is None and resolve_device(config.device) != "cpu":
        return f"the packed runtime is for the CPU, and this is for {config.device}; --pack does it anyway"
    try:
        pack_artifact(config.output)
    except OwledError as error:
        if pack:
            raise
        return str(error)
    return ""


def record_cost(config: PruneConfig, problem: str) -> Manifest:
    """Run the dense, the pruned and the packed model, and write into the manifest what each costs."""
    from owled_ros.evaluation.running_cost import measure, ways_of
    from owled_ros.models.manifest import add_section

    logger.info("running the dense, the pruned and the packed model to see what each costs (--no-cost leaves it out)")
    table = measure(ways_of(config.model, config.output, problem), config.threads or 1)
    return add_section(config.output, "cost", table.as_json())


def place_of(model: str) -> Path:
    """Return the path of a model given by its path or by its name, such as 'mini'."""
    from owled_ros.models.driving_model import place_of_model

    return place_of_model(model)


def _searched(plan: Path | None, allocation: str) -> PlanFile | None:
    from owled_ros.pruning.plan_file import read_plan

    if plan is not None and allocation:
        raise OwledError(f"--plan says already how many zeros every matrix gets: leave out --allocation {allocation}")
    return None if plan is None else read_plan(plan)


def _first(*values: Any) -> Any:
    """Return the first value that is one: what was given, what a plan says, the default."""
    return next((value for value in values if value is not None), None)


def _whole(bits: float) -> float:
    """Return 4 for 4.0, as manifests say it."""
    return int(bits) if bits.is_integer() else bits


def _budgets(given: list[str]) -> dict[str, float]:
    budgets = {}
    for item in given:
        name, _, value = item.partition("=")
        try:
            budgets[name] = float(value)
        except ValueError as err:
            raise OwledError(f"budget {item!r} is not of the form vision=0.4") from err
    return budgets


def _say(progress: PruneProgress) -> None:
    logger.info("%s %d of %d %s", progress.stage, progress.done, progress.total, progress.detail)
