"""From trained weights to the bundled model directory: calibrate the confidence, measure, write. Needs torch.

Calibration scenes are unseen (seeds from 600 000) and disjoint from the test scenes (seeds from 0). A tenth of them are
images that are no driving scenes; for those every action counts as bad.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from owled_ros.driving.answers.cutting import Cutting
from owled_ros.driving.confidence import Calibration, fit_calibration
from owled_ros.driving.familiarity import Familiarity, fit_familiarity
from owled_ros.driving.frame import EgoState
from owled_ros.driving.judging import judge_answer
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.prediction import ActionAnswer, Generation, judge_action
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.progress import track
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.expert_path import STEP_S
from owled_ros.scenes.mini_answer import answer_images, answer_paths
from owled_ros.scenes.mini_model import IMAGE_SIDE, build_profile, save_model
from owled_ros.scenes.out_of_distribution import out_of_distribution_image
from owled_ros.scenes.sample import Snapshot, sample_snapshot

CALIBRATION_SEEDS = 600_000
FAMILIAR_SEEDS = 700_000
FAMILIAR_SCENES = 800
RECOMMENDED_FLOOR = (
    0.4  # by driving: at 0.8 too many good actions are withheld and the car stops, at 0.4 it arrives (docs/mini.md)
)
GOOD_POINTS = 4  # of a trajectory, the first 2 s, are judged
FOLLOW = NavigationCommand(CommandKind.FOLLOW_LANE)
PATH_KIND = tokens.PATH_SPEC.make(Path())
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [driving, ros2, owled_ros]
---
# owled_ros {name}

A small LLaVA (CLIP tower and Llama, {parameters:.1f} M parameters) trained from {begun} by `owled train-mini` on {samples}
images rendered by owled_ros/scenes (seeds from {seeds}; evaluation seeds lie below 1 000 000).{more}

**It knows rendered roads, not yours.** Outside of them it answers "unknown" or with a low confidence, and the node withholds
the action. It is here so that everything can be tried at once, not to drive a vehicle.

## Licence and origin
Weights, tokeniser and configuration are under the Apache License 2.0 (the file LICENSE of owled_ros), like the package. They were
trained from random numbers on images that the package renders itself: no weights, images or texts of others are in them.
"""

MORE = """
It answers a trajectory of three seconds and follows the navigation commands left, right and straight at junctions."""


def export(model: Any, directory: Path, calibration_scenes: int, samples: int, start: str = "") -> Path:
    """Write `directory`/model with a calibrated confidence; returns it. The card says what weights it began with (`start`)."""
    model.eval()
    familiarity = fit_familiarity(familiar_images(FAMILIAR_SCENES, turns=_paths(model)))
    calibration = calibrate(model, calibration_scenes, familiarity)
    target = directory / "model"
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    profile = build_profile(confidence=calibration, paths=_paths(model))
    save_model(model, target, profile, card(parameters, samples, _paths(model), start), familiarity=familiarity)
    return target


def card(parameters: float, samples: int, paths: bool = False, start: str = "") -> str:
    """Write the model card: millions of parameters, images seen, whether it answers trajectories, whose weights it began with."""
    name, seeds, more = ("mini-turns", "20 000 000", MORE) if paths else ("mini", "10 000 000", "")
    begun = f"the weights of `{start}`" if start else "scratch"
    return CARD.format(name=name, parameters=parameters, begun=begun, samples=samples, seeds=seeds, more=more)


def familiar_images(count: int, turns: bool = False) -> list[np.ndarray]:
    """Render images as they reach the model: directly, from 720p and VGA frames, and after JPEG; with `turns` half where routes turn."""
    small, hd, vga = Camera().resized(IMAGE_SIDE, IMAGE_SIDE), Camera(), Camera().resized(640, 360)
    images = []
    for index in track(range(count), "familiar images"):
        seed, kind = FAMILIAR_SEEDS + index, index % 8
        turning = turns and index // 8 % 2 == 1
        image = sample_snapshot(seed, small if kind < 4 else hd if kind < 6 else vga, turning).image
        if kind in (5, 7):
            image = _through_jpeg(image, 75 + 5 * (index % 5))
        images.append(image if kind < 4 else cv2.resize(image, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_AREA))
    return images


def calibrate(model: Any, count: int, familiarity: Familiarity | None = None) -> Calibration:
    """Fit the map from token probabilities to P(action within tolerance) on unseen scenes, and recommend a floor.

    Of a model that answers trajectories those are judged; every other scene is one where the route may turn.
    """
    camera, paths = Camera().resized(IMAGE_SIDE, IMAGE_SIDE), _paths(model)
    scenes: list[Snapshot] = [
        sample_snapshot(CALIBRATION_SEEDS + index, camera, paths and index % 2 == 1, paths) for index in range(count)
    ]
    unfamiliar = [
        out_of_distribution_image(CALIBRATION_SEEDS + index, (IMAGE_SIDE, IMAGE_SIDE)) for index in range(count // 9)
    ]
    images = [scene.image for scene in scenes] + unfamiliar
    egos = [scene.ego for scene in scenes] + [EgoState(0, float(5 + index % 10)) for index in range(len(unfamiliar))]
    start = Calibration()
    if paths:
        commands = [scene.command or FOLLOW for scene in scenes] + [FOLLOW] * len(unfamiliar)
        said = answer_paths(model, images, egos, commands, familiarity=familiarity)
        judged = [judge_path(answer, ego) for answer, ego in zip(said, egos, strict=True)]
    else:
        said = [action for action, _ in answer_images(model, images, egos, familiarity=familiarity, scene=False)]
        judged = [judge_action(answer) for answer in said]
    acted = np.array([answer.valid for answer in judged])
    raw = np.array([answer.generation.confidence for answer in judged])
    good = np.array(
        [_is_good(answer, scene, start) for answer, scene in zip(judged, scenes, strict=False)]
        + [False] * len(unfamiliar)
    )
    if not good.any():
        return replace(start, floor=1.0)
    slope, offset = fit_calibration(raw[acted], good[acted])
    return replace(start, slope=slope, offset=offset, floor=RECOMMENDED_FLOOR, calibrated=True)


def judge_path(answer: Generation, ego: EgoState) -> ActionAnswer:
    """Read a trajectory as the engine does."""
    return judge_answer(answer, PATH_KIND, Cutting(), ego, VehicleParameters())


def _paths(model: Any) -> bool:
    return tokens.knows_paths(model.config.text_config.vocab_size)


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def _is_good(answer: ActionAnswer, scene: Snapshot, tolerance: Calibration) -> bool:
    action = answer.action
    if action is None:
        return False
    if scene.path is not None and answer.trajectory is not None:
        near = answer.trajectory.sample(STEP_S * np.arange(1, GOOD_POINTS + 1))
        off = np.hypot(near.x - scene.path[:GOOD_POINTS, 0], near.y - scene.path[:GOOD_POINTS, 1])
        return bool(off.mean() <= tolerance.displacement_tolerance)
    close = abs(action.acceleration - scene.action.acceleration) <= tolerance.acceleration_tolerance
    return close and abs(action.steering_tire_angle - scene.action.steering_tire_angle) <= tolerance.steering_tolerance
