"""The bundled model on unseen rendered scenes, beside the best constant answer and with the camera taken away. Needs torch.

Images are answered in batches (scenes.mini_answer); every scene is a drive of its own. Conditions:

    camera      the image of the scene
    blank       a grey image: what the ego sentence alone gives
    shuffled    the image of another scene: an image as usual, but the wrong one
"""

from __future__ import annotations

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
from owled_ros.evaluation.record import Record, Timing, Truth, make_record, make_truth
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.mini_answer import answer_images
from owled_ros.scenes.mini_data import TRAINING_SEEDS
from owled_ros.scenes.mini_model import IMAGE_SIDE
from owled_ros.scenes.sample import Snapshot, sample_snapshot

CONDITIONS = ("camera", "blank", "shuffled")
BLANK_GREY = 118
SHUFFLE_BY = 7  # scenes


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
    if condition == "blank":
        images = [np.full_like(image, BLANK_GREY) for image in images]
    elif condition == "shuffled":
        images = [images[(index + SHUFFLE_BY) % len(images)] for index in range(len(images))]
    answers = answer_images(
        model,
        images,
        [scene.ego for scene in scenes],
        read_profile(directory).confidence,
        read_familiarity(directory),
    )
    return [
        _record(index, scene.ego, action, description, _truth(scene), floor)
        for index, (scene, (action, description)) in enumerate(zip(scenes, answers, strict=True))
    ]


def summarise_conditions(model: Any, directory: Path, count: int, first_seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return the metrics per condition, and of the best constant answer."""
    scenes = evaluation_scenes(count, first_seed)
    results = {name: evaluate_rendered(model, directory, scenes, name) for name in CONDITIONS}
    results["constant"] = constant(results["camera"], VehicleParameters())
    return {name: summarise(records, intervals=name == "camera") for name, records in results.items()}


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
