"""The bundled model on unseen rendered scenes, beside the best constant answer and with the camera taken away. Needs torch.

Images are answered in batches (scenes.mini_answer); every scene is a drive of its own. What is answered is kept in a file, from
which a killed run resumes. Conditions:

    camera      the image of the scene
    blank       a grey image: what the ego sentence alone gives
    shuffled    the image of another scene: an image as usual, but the wrong one
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.driving.familiarity import read_familiarity
from owled_ros.driving.frame import EgoState
from owled_ros.driving.prediction import (
    Generation,
    ModelIdentity,
    Prediction,
    judge_action,
    judge_scene,
    withhold_below,
)
from owled_ros.driving.profile import read_profile
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.baselines import constant
from owled_ros.evaluation.metrics import summarise
from owled_ros.evaluation.record import (
    Record,
    Timing,
    Truth,
    frame_to_record,
    make_record,
    make_truth,
    record_to_frame,
)
from owled_ros.evaluation.result import read_lines
from owled_ros.files import write_atomic
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.mini_answer import answer_images
from owled_ros.scenes.mini_data import TRAINING_SEEDS
from owled_ros.scenes.mini_model import IMAGE_SIDE
from owled_ros.scenes.sample import Snapshot, sample_snapshot

CONDITIONS = ("camera", "blank", "shuffled")
BLANK_GREY = 118
SHUFFLE_BY = 7  # scenes
BATCH = 50  # scenes that are answered, and kept, at a time
HEAD = "Part"
Kept = dict[str, dict[int, Record]]  # condition -> index of the scene -> record
logger = logging.getLogger(__name__)


def evaluation_scenes(count: int, first_seed: int = 0) -> list[Snapshot]:
    """Render unseen scenes; seeds of the training are refused."""
    if first_seed < 0 or first_seed + count > TRAINING_SEEDS:
        raise OwledError(
            f"seeds {first_seed} to {first_seed + count - 1}: evaluation scenes have seeds below {TRAINING_SEEDS}"
        )
    camera = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
    return [sample_snapshot(seed, camera) for seed in range(first_seed, first_seed + count)]


def evaluate_rendered(
    model: Any, directory: Path, scenes: list[Snapshot], condition: str = "camera", floor: float = 0.0
) -> list[Record]:
    """Answer scenes under a condition; `directory` gives the confidence calibration, `floor` withholds below it."""
    images = [scene.image for scene in scenes]
    if condition == "shuffled":
        images = [images[(index + SHUFFLE_BY) % len(images)] for index in range(len(images))]
    return _answers(model, directory, scenes, images, range(len(scenes)), condition, floor)


def summarise_conditions(
    model: Any,
    directory: Path,
    count: int,
    first_seed: int = 0,
    part: Path | None = None,
    identity: str = "",
    told: Callable[[int, Kept], None] = lambda done, kept: None,
) -> dict[str, dict[str, Any]]:
    """Return the metrics per condition, and of the best constant answer.

    Args:
        part: file that keeps what is answered; a run of the same model (`identity`) and scenes resumes there.
        told: called after every batch with the scenes done and all records.
    """
    head = {"Model": identity, "Scenes": count, "FirstSeed": first_seed, "Conditions": list(CONDITIONS)}
    kept = _resumed(part, head)
    for done in _answer_missing(model, directory, count, first_seed, kept, part):
        told(done, kept)
    return summarise_kept(kept)


def summarise_kept(kept: Kept) -> dict[str, dict[str, Any]]:
    """Return the metrics of what was answered so far."""
    results = {name: [found[index] for index in sorted(found)] for name, found in kept.items() if found}
    results["constant"] = constant(results.get("camera", []), VehicleParameters())
    return {name: summarise(records, intervals=name == "camera") for name, records in results.items()}


def _answer_missing(
    model: Any, directory: Path, count: int, first_seed: int, kept: Kept, part: Path | None
) -> Iterator[int]:
    """Answer batch by batch under all conditions; yields how many scenes are done."""
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        if all(index in kept[name] for name in CONDITIONS for index in numbers):
            continue
        scenes = evaluation_scenes(len(numbers), first_seed + first)
        for condition in CONDITIONS:
            images = [scene.image for scene in scenes]
            if condition == "shuffled":
                images = _other_images(images, numbers, count, first_seed)
            records = _answers(model, directory, scenes, images, numbers, condition, 0.0)
            kept[condition].update({record.index: record for record in records})
            _append(part, condition, records)
        yield numbers[-1] + 1


def _other_images(images: list[np.ndarray], numbers: range, count: int, first_seed: int) -> list[np.ndarray]:
    """Return the images SHUFFLE_BY scenes later; those of the next batch are rendered for it."""
    own = dict(zip(numbers, images, strict=True))
    wanted = [(index + SHUFFLE_BY) % count for index in numbers]
    return [own[index] if index in own else evaluation_scenes(1, first_seed + index)[0].image for index in wanted]


def _answers(
    model: Any,
    directory: Path,
    scenes: list[Snapshot],
    images: list[np.ndarray],
    numbers: range,
    condition: str,
    floor: float,
) -> list[Record]:
    if condition == "blank":
        images = [np.full_like(image, BLANK_GREY) for image in images]
    profile, familiarity = read_profile(directory), read_familiarity(directory)
    answers = answer_images(model, images, [scene.ego for scene in scenes], profile.confidence, familiarity)
    return [
        _record(index, scene.ego, action, description, _truth(scene), floor)
        for index, scene, (action, description) in zip(numbers, scenes, answers, strict=True)
    ]


def _resumed(part: Path | None, head: dict[str, Any]) -> Kept:
    """Read what an earlier run of the same kind has answered; start the file over where it does not fit."""
    kept: Kept = {name: {} for name in CONDITIONS}
    if part is None:
        return kept
    try:
        lines = list(read_lines(part)) if part.exists() else []
        if lines and lines[0].get(HEAD) == head:
            for line in lines[1:]:
                record = frame_to_record(line["Frame"])
                kept[line["Condition"]][record.index] = record
            logger.info("%s: resuming after %d answers", part, sum(map(len, kept.values())))
    except (OwledError, KeyError) as error:
        logger.warning("%s is started over: %s", part, error)
        kept = {name: {} for name in CONDITIONS}
    whole = [json.dumps({HEAD: head})]
    whole += [_line(name, record) for name, found in kept.items() for record in found.values()]
    write_atomic(part, "".join(line + "\n" for line in whole))  # without a half-written last line
    return kept


def _append(part: Path | None, condition: str, records: list[Record]) -> None:
    if part is None:
        return
    try:
        with open(part, "a", encoding="utf-8") as stream:
            stream.write("".join(_line(condition, record) + "\n" for record in records))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OwledError(f"cannot write {part} ({error}); free some disk space and run again") from error


def _line(condition: str, record: Record) -> str:
    return json.dumps({"Condition": condition, "Frame": record_to_frame(record)}, allow_nan=False)


def _truth(scene: Snapshot) -> Truth:
    return make_truth(Truth(), scene.action, scene.scene)


def _record(
    index: int, ego: EgoState, action: Generation, description: Generation | None, truth: Truth, floor: float
) -> Record:
    answer = withhold_below(judge_action(action), floor)
    said = judge_scene(description) if description else None
    prediction = Prediction(index, answer, said, ModelIdentity("rendered"))
    timing = Timing(action_tokens=action.tokens, scene_tokens=description.tokens if description else 0)
    return make_record("scenes", index, index, ego, prediction, truth, timing)
