"""What `owled prune` and `owled sensitivity` calibrate on: bags, scenes, released scenes and text, as batches. Needs pruning and bags."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.errors import OwledError

if TYPE_CHECKING:
    from owled_ros.pruning.calibration import AnsweredFrame, CalibrationSet

SCENE_SEEDS = 900_000  # rendered scenes that calibrate; evaluation counts up from 0, training starts at ten million
FEW_WORDS = 4096  # smaller vocabularies are those of one task
HELD_OUT_SHARE = 0.2  # of the calibration sources, kept back to measure
logger = logging.getLogger(__name__)


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


def calibration_sets(model: Path, sources: Sources) -> tuple[CalibrationSet, CalibrationSet]:
    """Build the calibration and a held-out set from the same kinds of sources, never from the same part of one.

    Raises:
        OwledError: when no source was given that this model can use.
    """
    from owled_ros.models.load import reads_vectors
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
    if sources.driving_text is not None and reads_vectors(model):
        vectors, unseen = _vector_sets(model, sources.driving_text, driving, processor)
        parts.append(vectors)
        kept.append(unseen)
        sources = replace(sources, driving_text=None)
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


def _vector_sets(model: Path, data: Path, samples: int, processor: Any) -> tuple[CalibrationSet, CalibrationSet]:
    """Spread the samples over the first part of the released scenes, and a quarter as many over the end."""
    from owled_ros.driving.profile import read_profile
    from owled_ros.files import sha256_file
    from owled_ros.llm_driver.calibration import driving_frames
    from owled_ros.llm_driver.examples import acted_of
    from owled_ros.llm_driver.released import read_scenarios, scenarios_file
    from owled_ros.pruning.calibration import frame_set

    sets, profile, sha256 = [], read_profile(model), sha256_file(scenarios_file(data))
    for scenes, count in zip(_cut(read_scenarios(data)), (samples, max(samples // 4, 1)), strict=True):
        taken = scenes[:: max(math.ceil(2 * len(scenes) / count), 1)]  # each answers two questions
        found = frame_set(data.name, driving_frames(profile, map(acted_of, taken)), processor)
        sets.append(replace(found, provenance=[replace(found.provenance[0], kind="driving_text", sha256=sha256)]))
    return sets[0], sets[1]


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


def scene_frames(model: Path, count: int, first: int = SCENE_SEEDS) -> Iterator[AnsweredFrame]:
    """Render scenes and answer them as the expert does; a model that reads vectors is told of them instead.

    A model that is told navigation commands gets one, and where the expert will be, in every other scene on a route that may turn.
    """
    from owled_ros.driving.frame import Frame
    from owled_ros.driving.profile import read_profile
    from owled_ros.driving.waypoints import from_waypoints
    from owled_ros.llm_driver.calibration import driving_frames, world_scenes
    from owled_ros.pruning.asked_frames import expert_answers
    from owled_ros.scenes.camera import Camera
    from owled_ros.scenes.expert_path import STEP_S
    from owled_ros.scenes.sample import sample_snapshot

    profile = read_profile(model)
    if profile.vectors is not None:
        yield from driving_frames(profile, world_scenes(range(first, first + count)))
        return
    camera = Camera() if profile.image_size is None else Camera().resized(*profile.image_size)
    told = profile.command is not None
    for index in range(count):
        snapshot = sample_snapshot(first + index, camera, turns=told and index % 2 == 1, path=told)
        frame = Frame(snapshot.image, snapshot.ego.stamp, snapshot.ego, command=snapshot.command)
        driven = None if snapshot.path is None else from_waypoints(snapshot.path, STEP_S, snapshot.ego.speed)
        yield from expert_answers(profile, model, frame, snapshot.action, snapshot.scene, driven)


def _cut(items: list[Any]) -> tuple[list[Any], list[Any]]:
    """Give the first part to the calibration and the end to the held-out set; a single item serves both."""
    edge = len(items) - round(len(items) * HELD_OUT_SHARE)
    return items[:edge], items[edge:] or items
