"""Metrics that are means over frames, as one number per frame: the common ground of tables, intervals and comparisons.

Needs evaluation.record. A frame that a metric does not apply to (no truth, no valid answer) is NaN.
E_car, E_ped, Acc_TL, D_TL, E_lon, E_lat follow LLM-Driver (arXiv 2310.01957, section V) and OWLed (arXiv 2411.07711).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.answer import AnswerError, Light, parse_action
from owled_ros.driving.prediction import Reason
from owled_ros.driving.vehicle import Controls, VehicleParameters, controls_of, steering_of_yaw_rate
from owled_ros.evaluation.collision import collisions
from owled_ros.evaluation.displacement import MISS_M, PATH_METRICS, path_scores
from owled_ros.evaluation.record import Record

NAN = math.nan
LOWER_IS_BETTER = {  # every metric here, and its direction
    "acceleration_mae_mps2": True,
    "acceleration_filled_mae_mps2": True,
    "acceleration_raw_mae_mps2": True,
    "steering_mae_rad": True,
    "E_lon": True,
    "E_lat": True,
    "good_action_share": False,
    "manoeuvre_accuracy": False,
    **dict.fromkeys(PATH_METRICS, True),
    "collision_share": True,
    "E_car": True,
    "E_ped": True,
    "Acc_TL": False,
    "D_TL_m": True,
    "valid_share": False,
}


@dataclass(frozen=True)
class Tolerance:
    """How far a good answer may be from the truth."""

    acceleration: float = 1.0  # [m/s2]
    steering: float = 0.03  # [rad]
    miss: float = MISS_M  # [m] after three seconds


def frame_values(
    records: Sequence[Record], vehicle: VehicleParameters | None = None, tolerance: Tolerance | None = None
) -> dict[str, np.ndarray]:
    """Return every metric of LOWER_IS_BETTER as (N,) float64, NaN where it does not apply."""
    vehicle, tolerance = vehicle or VehicleParameters(), tolerance or Tolerance()
    values = {name: np.full(len(records), NAN) for name in LOWER_IS_BETTER}
    for row, record in enumerate(records):
        scores = {
            "valid_share": float(record.valid),
            **_action_scores(record, vehicle, tolerance),
            **path_scores(record, vehicle, tolerance.miss),
            **_scene_scores(record),
        }
        for name, value in scores.items():
            values[name][row] = value
    values["collision_share"] = collisions(records, vehicle)
    return values


def _action_scores(record: Record, vehicle: VehicleParameters, tolerance: Tolerance) -> dict[str, float]:
    truth, scores = record.truth, {}
    if truth.acceleration is not None:
        held = record.acceleration if record.acceleration is not None else 0.0  # the vehicle keeps on as it was
        scores["acceleration_filled_mae_mps2"] = abs(held - truth.acceleration)
        raw = _raw_acceleration(record)
        if raw is not None:
            scores["acceleration_raw_mae_mps2"] = abs(raw - truth.acceleration)
    if record.acceleration is None or record.steering is None:
        return scores
    good = True
    if truth.acceleration is not None:
        error = abs(record.acceleration - truth.acceleration)
        scores["acceleration_mae_mps2"] = error
        scores["E_lon"] = abs(_pedal(record.acceleration, vehicle) - _pedal(truth.acceleration, vehicle))
        good = error <= tolerance.acceleration
        scores["good_action_share"] = float(good)
    if truth.steering is not None:
        error = abs(record.steering - truth.steering)
        scores["steering_mae_rad"] = error
        scores["E_lat"] = abs(_wheel(record.steering, vehicle) - _wheel(truth.steering, vehicle))
        scores["good_action_share"] = float(good and error <= tolerance.steering)
    if truth.manoeuvre is not None and record.manoeuvre is not None:
        scores["manoeuvre_accuracy"] = float(truth.manoeuvre == record.manoeuvre)
    return scores


def _raw_acceleration(record: Record) -> float | None:
    """Return what the model answered, also where its confidence was too low to use it."""
    if record.reason != Reason.LOW_CONFIDENCE.name:
        return record.acceleration
    try:
        action = parse_action(record.text)
    except AnswerError:
        return None
    return action.acceleration if action else None


def _scene_scores(record: Record) -> dict[str, float]:
    truth, scene = record.truth.scene, record.scene
    if truth is None or scene is None:
        return {}
    scores = {
        "E_car": float(abs(len(scene.cars) - len(truth.cars))),
        "E_ped": float(abs(len(scene.pedestrians) - len(truth.pedestrians))),
    }
    if truth.light is not Light.UNKNOWN:
        scores["Acc_TL"] = float(scene.light == truth.light)
    if truth.light_distance is not None and scene.light_distance is not None:
        scores["D_TL_m"] = abs(scene.light_distance - truth.light_distance)
    return scores


def _pedal(acceleration: float, vehicle: VehicleParameters) -> float:
    """Return throttle minus brake, [-1, 1]."""
    controls: Controls = controls_of(acceleration, 0.0, vehicle)
    return controls.throttle - controls.brake


def _wheel(steering: float, vehicle: VehicleParameters) -> float:
    """Return the normalised steering, [-1, 1]."""
    return controls_of(0.0, steering, vehicle).steering


def curvature_of(record: Record) -> float:
    """Return the curvature [1/m] that the vehicle drives at; 0 at standstill."""
    return math.tan(steering_of_yaw_rate(record.yaw_rate, record.speed, 1.0))
