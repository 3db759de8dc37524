"""How far predicted paths are from the way that the vehicle took. Needs evaluation.record.

Both are compared every STEP_S at the same times, in base_link of the image. A record without a trajectory (an older result)
is judged by the bicycle driven with its constant action. What is ahead (longitudinal) and to the left (lateral) of the truth
is measured along the true heading at that time. Letters: P points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from owled_ros.driving.answer import Action
from owled_ros.driving.rollout import HORIZON_S, roll_out
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters, steering_of_yaw_rate
from owled_ros.evaluation.record import Record, Row, rounded_rows

STEP_S = 0.5  # [s] between the points of true paths and of comparisons
LONGEST_S = 8.0  # [s], beyond it nothing is compared
SECONDS = (1, 2, 3)
JUDGED_S = 3.0  # lateral, longitudinal, misses, collisions: over this horizon
MISS_M = 2.0  # [m], a path that ends farther off after JUDGED_S has missed
PATH_METRICS = (
    *(f"path_ade_{second}s_m" for second in SECONDS),
    *(f"path_fde_{second}s_m" for second in SECONDS),
    "path_ade_horizon_m",
    "path_fde_horizon_m",
    "path_ade_filled_3s_m",
    "miss_share",
    "path_lateral_m",
    "path_longitudinal_m",
)


@dataclass(frozen=True)
class Offsets:
    """Where a predicted path is, seen from the true one at the same times."""

    time: np.ndarray  # (P,) [s], STEP_S, 2 STEP_S, …
    longitudinal: np.ndarray  # (P,) [m], ahead of the truth
    lateral: np.ndarray  # (P,) [m], to its left
    horizon_s: float  # of the prediction

    @property
    def distance(self) -> np.ndarray:
        """[m], (P,)."""
        return np.hypot(self.longitudinal, self.lateral)

    def until(self, seconds: float) -> Offsets | None:
        """Cut at a time; None where either path ends before it."""
        count = round(seconds / STEP_S)
        if len(self.time) < count:
            return None
        return Offsets(self.time[:count], self.longitudinal[:count], self.lateral[:count], self.horizon_s)


def path_scores(record: Record, vehicle: VehicleParameters, miss_m: float = MISS_M) -> dict[str, float]:
    """Return the metrics of PATH_METRICS that apply to one frame."""
    scores: dict[str, float] = {}
    offsets = offsets_of(record, vehicle)
    filled = (offsets or _held_offsets(record, vehicle)) if record.truth.path else None
    if filled is not None and (judged := filled.until(JUDGED_S)):
        scores["path_ade_filled_3s_m"] = float(judged.distance.mean())
    if offsets is None:
        return scores
    for second in SECONDS:
        if part := offsets.until(second):
            scores[f"path_ade_{second}s_m"] = float(part.distance.mean())
            scores[f"path_fde_{second}s_m"] = float(part.distance[-1])
    whole = math.floor(min(offsets.horizon_s, LONGEST_S) / STEP_S + 1e-6) * STEP_S
    if whole and (part := offsets.until(whole)):
        scores["path_ade_horizon_m"] = float(part.distance.mean())
        scores["path_fde_horizon_m"] = float(part.distance[-1])
    if judged := offsets.until(JUDGED_S):
        scores["miss_share"] = float(judged.distance[-1] > miss_m)
        scores["path_lateral_m"] = float(np.abs(judged.lateral).mean())
        scores["path_longitudinal_m"] = float(np.abs(judged.longitudinal).mean())
    return scores


def offsets_of(record: Record, vehicle: VehicleParameters) -> Offsets | None:
    """Compare the path of a valid answer with the truth; None without one of them."""
    if record.truth.path is None:
        return None
    if record.trajectory is not None:
        return _offsets(record.trajectory, record.truth.path)
    if record.acceleration is None or record.steering is None:
        return None
    return _offsets(rolled_out(record.speed, record.acceleration, record.steering, vehicle), record.truth.path)


def rolled_out(
    speed: float, acceleration: float, steering: float, vehicle: VehicleParameters, horizon_s: float = HORIZON_S
) -> tuple[Row, ...]:
    """Drive the kinematic bicycle with a constant action; rows of a trajectory (driving.trajectory.COLUMNS)."""
    return rounded_rows(roll_out(Action(acceleration, steering), max(speed, 0.0), vehicle, horizon_s).values.tolist())


def biases(records: Iterable[Record], vehicle: VehicleParameters) -> dict[str, float | None]:
    """Return the mean signed errors over JUDGED_S: ahead of the truth, left of it."""
    parts = [part for record in records if (found := offsets_of(record, vehicle)) and (part := found.until(JUDGED_S))]
    return {
        "longitudinal_bias_m": float(np.mean([part.longitudinal.mean() for part in parts])) if parts else None,
        "lateral_bias_m": float(np.mean([part.lateral.mean() for part in parts])) if parts else None,
    }


def distance_by_time(records: Iterable[Record], vehicle: VehicleParameters) -> list[dict[str, float | int]]:
    """Return how far paths are off at every STEP_S, over the frames that reach so far."""
    found: dict[float, list[float]] = {}
    for record in records:
        if offsets := offsets_of(record, vehicle):
            for time, distance in zip(offsets.time.tolist(), offsets.distance.tolist(), strict=True):
                found.setdefault(time, []).append(distance)
    return [
        {"time_s": time, "distance_m": float(np.mean(values)), "frames": len(values)}
        for time, values in sorted(found.items())
    ]


def path_table(
    records: Sequence[Record], values: dict[str, np.ndarray], names: Sequence[str], name_of: Callable[[Record], str]
) -> list[dict[str, Any]]:
    """Give the means of some metrics per group of frames, in the order of the groups' names."""
    groups = np.array([name_of(record) for record in records])
    table = []
    for group in sorted(set(groups.tolist())):
        here = groups == group
        row: dict[str, Any] = {"group": group, "frames": int(here.sum())}
        for name in names:
            known = values[name][here]
            known = known[np.isfinite(known)]
            row[name] = float(known.mean()) if len(known) else None
        table.append(row)
    return table


def _held_offsets(record: Record, vehicle: VehicleParameters) -> Offsets | None:
    """Return the offsets of keeping speed and curvature: what is taken for an answer that was withheld."""
    assert record.truth.path is not None
    steering = steering_of_yaw_rate(record.yaw_rate, record.speed, vehicle.wheel_base)
    return _offsets(rolled_out(record.speed, 0.0, steering, vehicle), record.truth.path)


def _offsets(trajectory: tuple[Row, ...], path: tuple[Row, ...]) -> Offsets | None:
    said, true = Trajectory(np.array(trajectory, np.float64)), np.array(path)
    horizon = said.duration
    count = math.floor(min(horizon, float(true[-1, 0])) / STEP_S + 1e-6)
    if not count:
        return None
    time = STEP_S * np.arange(1, count + 1)  # (P,)
    true_times = np.concatenate([[0.0], true[:, 0]])
    east, north, heading = (
        np.interp(time, true_times, np.concatenate([[0.0], column])) for column in (true[:, 1], true[:, 2], true[:, 3])
    )
    there = said.sample(time)
    dx, dy = there.x - east, there.y - north
    cos, sin = np.cos(heading), np.sin(heading)
    return Offsets(time, cos * dx + sin * dy, cos * dy - sin * dx, horizon)
