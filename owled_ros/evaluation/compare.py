"""Two models on the same frames: the difference of every metric with its interval. Needs evaluation.frame_values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.bootstrap import clip_numbers, interval_of_mean
from owled_ros.evaluation.frame_values import LOWER_IS_BETTER, Tolerance, frame_values
from owled_ros.evaluation.record import Record

FILLED = ("acceleration_filled_mae_mps2", "path_ade_filled_3s_m")  # a withheld answer counts as continuing


def paired_difference(
    records_a: Sequence[Record],
    records_b: Sequence[Record],
    vehicle: VehicleParameters | None = None,
    tolerance: Tolerance | None = None,
) -> dict[str, dict[str, Any]]:
    """Compare b with a on the frames that both saw: metric -> a, b, difference b - a, interval_95, frames, clips, verdict.

    Only frames where a metric applies to both count for it. The verdict is "better", "worse" (of b; the interval leaves
    out zero), "same" or "unknown" (too few clips; or a metric that fills in for withheld answers, and one model never acted).
    Raises OwledError when no frame was seen by both.
    """
    by_key = {record.key: record for record in records_b}
    pairs = [(record, by_key[record.key]) for record in records_a if record.key in by_key]
    if not pairs:
        raise OwledError("the two results have no frame in common; evaluate both models on the same bags")
    ours = frame_values([pair[0] for pair in pairs], vehicle, tolerance)
    theirs = frame_values([pair[1] for pair in pairs], vehicle, tolerance)
    clips = clip_numbers([pair[0] for pair in pairs])
    compared = {name: _compare(name, ours[name], theirs[name], clips) for name in LOWER_IS_BETTER}
    if not all(any(pair[side].valid for pair in pairs) for side in (0, 1)):
        for name in FILLED:
            compared[name]["verdict"] = "unknown"
    return compared


def action_agreement(
    records_a: Sequence[Record], records_b: Sequence[Record], tolerance: Tolerance | None = None
) -> dict[str, float | int | None]:
    """Return how often two models do the same on the same frames: both withhold, or both act within the tolerance."""
    tolerance = tolerance or Tolerance()
    by_key = {record.key: record for record in records_b}
    agreed, acceleration, steering, count = 0, [], [], 0
    for record in records_a:
        other = by_key.get(record.key)
        if other is None:
            continue
        count += 1
        if None in (record.acceleration, record.steering, other.acceleration, other.steering):
            agreed += record.acceleration is None and other.acceleration is None
            continue
        acceleration.append(abs((record.acceleration or 0.0) - (other.acceleration or 0.0)))
        steering.append(abs((record.steering or 0.0) - (other.steering or 0.0)))
        agreed += acceleration[-1] <= tolerance.acceleration and steering[-1] <= tolerance.steering
    return {
        "frames": count,
        "agreement_share": agreed / count if count else None,
        "acceleration_difference_mps2": float(np.mean(acceleration)) if acceleration else None,
        "steering_difference_rad": float(np.mean(steering)) if steering else None,
    }


def _compare(name: str, a: np.ndarray, b: np.ndarray, clips: np.ndarray) -> dict[str, Any]:
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return {"a": None, "b": None, "difference": None, "interval_95": None, "frames": 0, "clips": 0,
                "verdict": "unknown"}  # fmt: skip
    difference = np.where(both, b - a, np.nan)
    interval = interval_of_mean(difference, clips)
    return {
        "a": float(a[both].mean()),
        "b": float(b[both].mean()),
        "difference": float(difference[both].mean()),
        "interval_95": interval,
        "frames": int(both.sum()),
        "clips": len(np.unique(clips[both])),
        "verdict": _verdict(name, interval),
    }


def _verdict(name: str, interval: list[float] | None) -> str:
    if interval is None:
        return "unknown"
    low, high = interval
    if low <= 0.0 <= high:
        return "same"
    return "better" if (high < 0.0) == LOWER_IS_BETTER[name] else "worse"
