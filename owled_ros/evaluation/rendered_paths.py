"""Trajectories of the bundled model on unseen rendered scenes, beside holding the motion and going straight on. Needs torch.

Half of the scenes lie where the route may turn. The truth is where the expert would be (scenes.expert_path). Rows:

    model             told what the navigation says
    model, told to follow   the same images and "follow the lane": what the command is worth
    hold              the measured speed and yaw rate, held
    constant velocity the measured speed, straight on

A frame whose answer is withheld counts for the share of answers; errors are means over the frames that the model answered, for every
row the same ones. Letters: N scenes, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.driving.answer import Action
from owled_ros.driving.familiarity import read_familiarity
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.profile import read_profile
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters, steering_of_yaw_rate
from owled_ros.errors import OwledError
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.expert_path import POINTS, STEP_S
from owled_ros.scenes.mini_answer import answer_paths
from owled_ros.scenes.mini_data import TRAINING_SEEDS
from owled_ros.scenes.mini_export import FOLLOW, judge_path
from owled_ros.scenes.mini_model import IMAGE_SIDE
from owled_ros.scenes.sample import Snapshot, sample_snapshot

TURNED_M = 2.0  # [m] to the side after 3 s, from which on a truth counts as a turn
TURNS = (CommandKind.LEFT, CommandKind.RIGHT)
TIMES = STEP_S * np.arange(1, POINTS + 1)


@dataclass(frozen=True)
class PathScore:
    """Errors of one row."""

    answered: float  # share of the scenes
    ade: float  # [m], mean over 3 s
    fde: float  # [m], at 3 s
    turning_ade: float  # [m], where the truth turns at a junction; NaN without such scenes
    turning: int  # how many such scenes


def path_scenes(count: int, first_seed: int = 0) -> list[Snapshot]:
    """Render unseen scenes with the expert's path; every other one where the route may turn."""
    if first_seed < 0 or first_seed + count > TRAINING_SEEDS:
        raise OwledError(f"seeds up to {first_seed + count - 1}: evaluation scenes have seeds below {TRAINING_SEEDS}")
    camera = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
    return [sample_snapshot(first_seed + index, camera, index % 2 == 1, True) for index in range(count)]


def score_paths(model: Any, directory: Path, scenes: Sequence[Snapshot]) -> PathScore:
    """Score a model of `owled train-mini --paths` alone, told what the navigation says."""
    paths = _answered(model, directory, scenes, [scene.command or FOLLOW for scene in scenes])
    return _score(scenes, paths, np.array([path is not None for path in paths]))


def evaluate_paths(model: Any, directory: Path, scenes: Sequence[Snapshot]) -> dict[str, PathScore]:
    """Score a model of `owled train-mini --paths` and the rows beside it."""
    told = [scene.command or FOLLOW for scene in scenes]
    answers = {
        "model": _answered(model, directory, scenes, told),
        "model, told to follow": _answered(model, directory, scenes, [FOLLOW] * len(scenes)),
    }
    vehicle = VehicleParameters()
    answers["hold"] = [_held(scene, vehicle, scene.ego.yaw_rate) for scene in scenes]
    answers["constant velocity"] = [_held(scene, vehicle, 0.0) for scene in scenes]
    common = np.array([path is not None for path in answers["model"]])
    return {name: _score(scenes, paths, common) for name, paths in answers.items()}


def _answered(
    model: Any, directory: Path, scenes: Sequence[Snapshot], told: Sequence[NavigationCommand]
) -> list[np.ndarray | None]:
    profile, familiarity = read_profile(directory), read_familiarity(directory)
    images, egos = [scene.image for scene in scenes], [scene.ego for scene in scenes]
    said = answer_paths(model, images, egos, told, profile.confidence, familiarity)
    judged = [judge_path(answer, ego) for answer, ego in zip(said, egos, strict=True)]
    return [None if answer.trajectory is None else _places(answer.trajectory) for answer in judged]


def _held(scene: Snapshot, vehicle: VehicleParameters, yaw_rate: float) -> np.ndarray:
    steering = steering_of_yaw_rate(yaw_rate, scene.ego.speed, vehicle.wheel_base)
    return _places(roll_out(Action(0.0, steering), scene.ego.speed, vehicle))


def _places(trajectory: Trajectory) -> np.ndarray:
    return trajectory.sample(TIMES).values[:, 1:3]  # (P, 2)


def _score(scenes: Sequence[Snapshot], paths: Sequence[np.ndarray | None], common: np.ndarray) -> PathScore:
    answered = np.array([path is not None for path in paths])
    counted = [int(index) for index in np.flatnonzero(answered & common)]
    off = np.full((len(scenes), POINTS), np.nan)
    for index in counted:
        path, truth = paths[index], scenes[index].path
        assert path is not None
        assert truth is not None, "scenes of path_scenes have one"
        off[index] = np.hypot(*(path - truth).T)
    turning = np.array([_turns(scene) for scene in scenes]) & answered & common
    return PathScore(
        answered=float(answered.mean()),
        ade=_mean(off[counted]),
        fde=_mean(off[counted, -1]),
        turning_ade=_mean(off[turning]),
        turning=int(turning.sum()),
    )


def _turns(scene: Snapshot) -> bool:
    assert scene.path is not None
    return scene.command is not None and scene.command.kind in TURNS and abs(float(scene.path[-1, 1])) > TURNED_M


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
