"""Metrics over the course of a drive: brake onsets and comfort. Needs evaluation.record.

Brake onset: the acceleration falls below BRAKING; an answer's onset counts when the truth has one within ONSET_WINDOW_S.
Comfort: the bounds of nuPlan's ego_is_comfortable (arXiv 2106.11810; nuplan-devkit, ego_*_statistics metrics).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from owled_ros.driving.frame import NANOSECONDS
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.evaluation.record import Record

BRAKING = -1.0  # [m/s2]
ONSET_WINDOW_S = 1.0
MAX_STEP_S = 1.0  # frames further apart are not one movement
COMFORT_BOUNDS = {  # (lowest, highest)
    "longitudinal_acceleration_mps2": (-4.05, 2.40),
    "lateral_acceleration_mps2": (-4.89, 4.89),
    "yaw_rate_radps": (-0.95, 0.95),
    "yaw_acceleration_radps2": (-1.93, 1.93),
    "longitudinal_jerk_mps3": (-4.13, 4.13),
}


def drives_of(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Cut records into drives, each in the order of time."""
    drives: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        drives.setdefault((record.bag, record.drive), []).append(record)
    for drive in drives.values():
        yield sorted(drive, key=lambda record: record.stamp)


def brake_onsets(records: Sequence[Record]) -> dict[str, float | int | None]:
    """Match the onsets of answers and truth one to one, nearest first come; precision and recall are None without onsets."""
    true_count = answered_count = matched = 0
    for drive in drives_of(records):
        truth = _onsets([(record.stamp, record.truth.acceleration) for record in drive])
        answers = _onsets([(record.stamp, record.acceleration) for record in drive])
        true_count += len(truth)
        answered_count += len(answers)
        matched += _matches(truth, answers, round(ONSET_WINDOW_S * NANOSECONDS))
    return {
        "true_onsets": true_count,
        "answered_onsets": answered_count,
        "matched": matched,
        "precision": matched / answered_count if answered_count else None,
        "recall": matched / true_count if true_count else None,
    }


def comfort(records: Sequence[Record], vehicle: VehicleParameters) -> dict[str, float | int | None]:
    """Return the share of answered frames within every bound, and within all of them."""
    inside: dict[str, list[bool]] = {name: [] for name in COMFORT_BOUNDS}
    all_inside: list[bool] = []
    for drive in drives_of(records):
        before: Record | None = None
        for record in drive:
            if record.acceleration is None or record.steering is None:
                before = None
                continue
            values = _movement(before, record, vehicle)
            held = {name: COMFORT_BOUNDS[name][0] <= value <= COMFORT_BOUNDS[name][1] for name, value in values.items()}
            for name, fine in held.items():
                inside[name].append(fine)
            all_inside.append(all(held.values()))
            before = record
    shares: dict[str, float | int | None] = {
        f"{name}_inside_share": float(np.mean(fine)) if fine else None for name, fine in inside.items()
    }
    return {
        "frames": len(all_inside),
        "comfortable_share": float(np.mean(all_inside)) if all_inside else None,
        **shares,
    }


def _movement(before: Record | None, record: Record, vehicle: VehicleParameters) -> dict[str, float]:
    acceleration, yaw_rate = _pace(record, vehicle)
    values = {
        "longitudinal_acceleration_mps2": acceleration,
        "lateral_acceleration_mps2": record.speed * yaw_rate,
        "yaw_rate_radps": yaw_rate,
    }
    step = (record.stamp - before.stamp) / NANOSECONDS if before else math.inf
    if before is not None and 0 < step <= MAX_STEP_S:
        acceleration_before, yaw_rate_before = _pace(before, vehicle)
        values["longitudinal_jerk_mps3"] = (acceleration - acceleration_before) / step
        values["yaw_acceleration_radps2"] = (yaw_rate - yaw_rate_before) / step
    return values


def _pace(record: Record, vehicle: VehicleParameters) -> tuple[float, float]:
    """Return acceleration [m/s2] and yaw rate [rad/s] of a valid answer."""
    return record.acceleration or 0.0, record.speed * math.tan(record.steering or 0.0) / vehicle.wheel_base


def _onsets(course: list[tuple[int, float | None]]) -> list[int]:
    """Return the stamps where a known acceleration falls below BRAKING after one that did not."""
    onsets, before = [], None
    for stamp, acceleration in course:
        if acceleration is not None and acceleration < BRAKING and before is not None and before >= BRAKING:
            onsets.append(stamp)
        before = acceleration if acceleration is not None else before
    return onsets


def _matches(truth: list[int], answers: list[int], window: int) -> int:
    left, matched = list(answers), 0
    for stamp in truth:
        near = [answer for answer in left if abs(answer - stamp) <= window]
        if near:
            left.remove(min(near, key=lambda answer: (abs(answer - stamp), answer)))
            matched += 1
    return matched
