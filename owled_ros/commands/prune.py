"""`owled prune`: from a model and calibration data to an artifact. Needs pruning and bags."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from owled_ros.commands import Device
from owled_ros.errors import OwledError
from owled_ros.options import with_config
from owled_ros.pruning.config import ALLOCATIONS, PATTERNS, SCORES, STATISTICS, PruneConfig, PruneProgress

if TYPE_CHECKING:
    from owled_ros.models.manifest import Manifest
    from owled_ros.pruning.calibration import AnsweredFrame, CalibrationSet

SCENE_SEEDS = 900_000  # rendered scenes that calibrate; evaluation counts up from 0, training starts at ten million
FEW_WORDS = 4096  # smaller vocabularies are those of one task
HELD_OUT_SHARE = 0.2  # of the calibration sources, kept back to measure
logger = logging.getLogger(__name__)

Model = Annotated[
    str, typer.Argument(help="Hugging Face directory, .gguf file, artifact, or 'mini' (the bundled model).")
]
Bags = Annotated[list[Path], typer.Option("--bag", help="rosbag2 to calibrate on (may be given several times).")]
DrivingText = Annotated[Path | None, typer.Option(help="jsonl of driving text: docs/pruning.md, 'Driving text'.")]
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


@dataclass(frozen=True)
class Sources:
    """What calibrates: bags, driving text, rendered scenes, general text, and how much of it."""

    bags: tuple[Path, ...]
    driving_text: Path | None
    general_text: str
    scenes: int
    samples: int
    tokens: int
    general_share: float
    seed: int
    device: str = "cpu"
    image_topic: str = ""
    ego_topic: str = ""
    ego_from: str = ""
    go_on: bool = False  # though the model does not answer in its form

    def asked(self) -> dict[str, Any]:
        """Return what makes the same set again, without where the files lie on this machine."""
        told = {
            key: value for key, value in asdict(self).items() if key not in ("bags", "driving_text", "device", "go_on")
        }
        general = self.general_text if self.general_text in ("", "python-docs") else Path(self.general_text).name
        text = self.driving_text.name if self.driving_text else None
        return {**told, "general_text": general, "driving_text": text, "bags": [path.name for path in self.bags]}


@dataclass(frozen=True)
class _BagFrame:
    """A frame of a bag with an answer, and where it is from."""

    answered: AnsweredFrame
    fingerprint: str  # of its image, see bags.frames.fingerprint
    drive: str  # digest of its drive, see bags.summary.Drive


def prune(
    model: Model,
    output: Annotated[Path, typer.Argument(help="Directory of the artifact; replaced in one step.")],
    sparsity: Annotated[float, typer.Option(help="Share of zeros over all pruned matrices, inside (0, 1).")] = 0.6,
    budget: Annotated[list[str], typer.Option(help="Sparsity of one component, e.g. vision=0.4.")] = [],  # noqa: B006
    component: Components = [],  # noqa: B006
    score: Annotated[str, typer.Option(help=" | ".join(SCORES))] = "sparsegpt",
    allocation: Annotated[
        str, typer.Option(help=" | ".join(ALLOCATIONS) + "; default learned, uniform with N:M or sparsity 0.")
    ] = "",
    statistics: Annotated[str, typer.Option(help=" | ".join(STATISTICS))] = "fused",
    pattern: Annotated[str, typer.Option(help=" | ".join(PATTERNS))] = "unstructured",
    threshold: Annotated[float, typer.Option("--outlier-threshold", help="OWL's M.")] = 5.0,
    owl_lambda: Annotated[
        float, typer.Option("--lambda", help="OWL's lambda: half the range of block sparsities.")
    ] = 0.08,
    bag: Bags = [],  # noqa: B006
    driving_text: DrivingText = None,
    general_text: GeneralText = "python-docs",
    scenes: Scenes = 0,
    samples: Samples = 64,
    tokens: Tokens = 512,
    general_share: Share = 0.25,
    bits: Annotated[
        int, typer.Option(help="4 or 8: round what stays in the same sweep, for --pack without loss; 0: no rounding.")
    ] = 0,
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale with --bits: 32, 64 or 128; 0: 32.")] = 0,
    recovery_steps: Annotated[int, typer.Option(min=0, help="Masked distillation after pruning; 0 is off.")] = 0,
    refine: Annotated[
        int | None, typer.Option(min=0, help="Least-squares steps; default 10 with sparsegpt, else 0.")
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

    place = place_of(model)
    if not allocation:
        allocation = "learned" if pattern == "unstructured" and sparsity > 0 else "uniform"
    config = PruneConfig(
        place, output, sparsity, score, allocation, statistics, pattern, tuple(component) or ("vision", "language"),
        _budgets(budget), threshold, owl_lambda, refine_steps=refine, recovery_steps=recovery_steps, seed=seed, threads=threads, device=device, bits=bits or None,
        group_size=group_size or None,
    )  # fmt: skip
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
    if with_uniform and allocation != UNIFORM:
        configs.append(replace(config, allocation=UNIFORM, output=output.with_name(output.name + UNIFORM_SUFFIX)))
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


def calibration_sets(model: Path, sources: Sources) -> tuple[CalibrationSet, CalibrationSet]:
    """Build the calibration and a held-out set from the same kinds of sources, never from the same part of one.

    Raises:
        OwledError: when no source was given that this model can use.
    """
    from owled_ros.models.processor import load_processor
    from owled_ros.pruning.calibration import frame_set, merge

    processor = load_processor(model)
    kinds = sum((bool(sources.bags), sources.driving_text is not None, sources.scenes > 0))
    if not kinds and not sources.general_text:
        raise OwledError("nothing to calibrate on: give --bag, --driving-text, --scenes or --general-text")
    general = _general_text(sources, getattr(processor, "tokenizer", processor), bool(kinds))
    share = (1 - sources.general_share) if general and kinds else 1.0
    driving = max(round(sources.samples * share / max(kinds, 1)), 1)
    parts, kept = [], []
    if sources.bags:
        used, rest = _cut(list(_bag_frames(model, sources, driving)))
        found = frame_set(", ".join(path.name for path in sources.bags), (item.answered for item in used), processor)
        parts.append(replace(found, provenance=[replace(found.provenance[0], traces=_traces(used, sources))]))
        kept.append(frame_set("held out", (item.answered for item in rest), processor))
    if sources.scenes:
        halves = _cut(list(scene_frames(model, sources.scenes)))
        parts.append(frame_set("rendered scenes", halves[0], processor))
        kept.append(frame_set("held out", halves[1], processor))
    rest_samples = max(sources.samples - driving * kinds, 1) if general else 0
    texts = _text_parts(sources, processor, driving if kinds else 0, rest_samples)
    return merge([*parts, *texts[0]]), merge([*kept, *texts[1]])


def _text_parts(sources: Sources, processor: Any, driving: int, general: int) -> tuple[list[Any], list[Any]]:
    from owled_ros.files import sha256_file
    from owled_ros.pruning.calibration import read_driving_text, read_general_text, text_set

    tokenizer = getattr(processor, "tokenizer", processor)
    wanted = []
    if sources.driving_text is not None:
        texts = read_driving_text(sources.driving_text, tokenizer)
        wanted.append(("driving_text", sources.driving_text.name, sha256_file(sources.driving_text), texts, driving))
    if general > 0:
        texts, sha256 = read_general_text(sources.general_text)
        wanted.append(("general_text", Path(sources.general_text).name, sha256, texts, general))
    used: list[Any] = []
    kept: list[Any] = []
    for kind, name, sha256, texts, samples in wanted:
        first, last = _cut(texts)
        used.append(text_set(kind, name, sha256, first, tokenizer, samples, sources.tokens, sources.seed))
        kept.append(
            text_set(kind, "held out", sha256, last, tokenizer, max(samples // 4, 1), sources.tokens, sources.seed)
        )
    return used, kept


def _general_text(sources: Sources, tokenizer: Any, beside: bool) -> bool:
    """Tell whether general text is taken: what was asked for by name always, Python's own help where it means something.

    A vocabulary that knows driving answers only, such as the bundled model's, makes nothing of general text.

    Raises:
        OwledError: when it would be the only source and means nothing, or when it was asked for with a share of zero.
    """
    from owled_ros.pruning.calibration import PYTHON_DOCS

    if not sources.general_text:
        return False
    if sources.general_text != PYTHON_DOCS:
        if beside and sources.general_share == 0:
            raise OwledError(
                f"--general-text {sources.general_text} with --general-share 0 would not be used: leave out one"
            )
        return True
    if len(tokenizer) >= FEW_WORDS:
        return not beside or sources.general_share > 0
    if not beside:
        raise OwledError(
            f"nothing to calibrate on: the model's vocabulary has {len(tokenizer)} words, general text means nothing to it; "
            "give --scenes, --bag, --driving-text, or a text of your own with --general-text FILE"
        )
    logger.info("the model's vocabulary has %d words: no general text", len(tokenizer))
    return False


def _traces(frames: list[_BagFrame], sources: Sources) -> dict[str, Any]:
    """Return what `owled evaluate` finds calibration images again by."""
    from owled_ros.bags.summary import bag_digest

    return {
        "bags": [{"name": path.name, "sha256": bag_digest(path)} for path in sources.bags],
        "frame_fingerprints": sorted({frame.fingerprint for frame in frames}),
        "drive_digests": sorted({frame.drive for frame in frames}),
    }


def _bag_frames(model: Path, sources: Sources, count: int) -> Iterator[_BagFrame]:
    """Choose frames that cover speeds, turns and lights; the dense model answers both questions about each."""
    from owled_ros.bags.frames import ReadOptions, fingerprint
    from owled_ros.bags.selection import read_selected, select_frames
    from owled_ros.bags.summary import summarise_bag
    from owled_ros.driving.form_watch import FormWatch
    from owled_ros.models.driving_model import load_engine
    from owled_ros.pruning.asked_frames import own_answers

    engine = load_engine(model, device=sources.device)
    needs = engine.profile.needs
    options = ReadOptions(sources.image_topic, sources.ego_topic, sources.ego_from, needs=needs)
    watch = FormWatch(str(model), watching=not sources.go_on)
    for number, path in enumerate(sources.bags):
        summary = summarise_bag(path, options)
        digests = {drive.number: drive.digest for drive in summary.drives}
        drives = dict(zip(summary.frames.index.tolist(), summary.frames.drive.tolist(), strict=True))
        chosen = select_frames(summary.frames, max(count // 2 // len(sources.bags), 1), sources.seed + number)
        for sample in read_selected(path, chosen, options):
            mark = fingerprint(sample.frame)
            for answered in own_answers(engine, sample.frame, watch):
                yield _BagFrame(answered, mark, digests[drives[sample.index]])
    engine.close()


def scene_frames(model: Path, count: int) -> Iterator[AnsweredFrame]:
    """Render scenes and answer them as the expert does."""
    from owled_ros.driving.frame import Frame
    from owled_ros.driving.profile import read_profile
    from owled_ros.pruning.asked_frames import expert_answers
    from owled_ros.scenes.camera import Camera
    from owled_ros.scenes.sample import sample_snapshot

    profile = read_profile(model)
    camera = Camera() if profile.image_size is None else Camera().resized(*profile.image_size)
    for seed in range(SCENE_SEEDS, SCENE_SEEDS + count):
        snapshot = sample_snapshot(seed, camera)
        frame = Frame(snapshot.image, snapshot.ego.stamp, snapshot.ego)
        yield from expert_answers(profile, model, frame, snapshot.action, snapshot.scene)


def _cut(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Give the first part to the calibration and the end to the held-out set; a single item serves both."""
    edge = len(items) - round(len(items) * HELD_OUT_SHARE)
    return items[:edge], items[edge:] or items


def place_of(model: str) -> Path:
    """Return the path of a model given by its path or by its name, such as 'mini'."""
    from owled_ros.models.driving_model import place_of_model

    return place_of_model(model)


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
