"""What a good answer is, what its token probabilities say about it, and how well: the numbers of `owled calibrate`.

Needs driving.confidence. An answer is good when it lies within the tolerances of what was driven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from owled_ros.driving.confidence import Calibration, fit_calibration
from owled_ros.driving.prediction import ActionAnswer
from owled_ros.errors import OwledError
from owled_ros.evaluation.record import Truth

MIN_ANSWERS = 20  # of each part
JUDGED_S = 2.0  # of a trajectory
BY_ACTION = ("line", "pedals")  # kinds of which only the first action is judged


@dataclass(frozen=True)
class Judged:
    """One answer on one frame."""

    raw: float  # [0, 1], product of its tokens' probabilities
    valid: bool
    good: bool
    familiarity: float = 1.0  # [0, 1]


def fit(fitted: Sequence[Judged], held: Sequence[Judged], before: Calibration, floor: float) -> Calibration:
    """Fit Platt scaling on the valid answers; raises OwledError where they say too little."""
    for name, part in (("to fit on", fitted), ("on held-out drives", held)):
        valid = sum(item.valid for item in part)
        if valid < MIN_ANSWERS:
            raise OwledError(
                f"{valid} of {len(part)} answers {name} are usable, at least {MIN_ANSWERS} are needed: give longer drives, "
                "or look at the answers with `owled profile check`"
            )
    acted = [item for item in fitted if item.valid]
    good = np.array([item.good for item in acted])
    if not good.any():
        raise OwledError(
            f"none of {len(acted)} answers lies within the tolerances of what was driven: this model should not drive here. "
            "Nothing was written"
        )
    slope, offset = fit_calibration(np.array([item.raw for item in acted]), good)
    return replace(before, slope=slope, offset=offset, calibrated=True, floor=floor)


def judge(calibration: Calibration, fitted: Sequence[Judged], held: Sequence[Judged]) -> dict[str, Any]:
    """Say how the confidence does on held-out answers: Brier score beside that of a constant, and what the floor does."""
    acted = [item for item in held if item.valid]
    good = np.array([item.good for item in acted], np.float64)
    confidence = np.array([calibration.apply(item.raw) * item.familiarity for item in acted])
    constant = np.mean([item.good for item in fitted if item.valid])
    kept = confidence >= calibration.floor
    return {
        "answers": sum(item.valid for item in fitted),
        "frames": len(fitted),
        "held_out_answers": len(acted),
        "held_out_frames": len(held),
        "good_share": _rounded(good.mean()),
        "mean_confidence": _rounded(confidence.mean()),
        "brier": _rounded(((confidence - good) ** 2).mean()),
        "brier_constant": _rounded(((constant - good) ** 2).mean()),
        "kept_share": _rounded(kept.mean()),
        "good_share_kept": _rounded(good[kept].mean()) if kept.any() else None,
        "mean_familiarity": _rounded(np.mean([item.familiarity for item in acted])),
    }


def is_good(answer: ActionAnswer, truth: Truth, kind: str, tolerance: Calibration, wheel_base: float) -> bool | None:
    """Tell whether an answer is within the tolerances of what was driven; None where it is unknown."""
    if kind not in BY_ACTION:
        return _is_near(answer, truth, tolerance)
    if truth.acceleration is None:
        return None
    if answer.action is None:
        return False
    near = abs(answer.action.acceleration - truth.acceleration) <= tolerance.acceleration_tolerance
    if truth.steering is None:  # at standstill
        return near
    return near and abs(answer.action.steering_tire_angle - truth.steering) <= tolerance.steering_tolerance


def _is_near(answer: ActionAnswer, truth: Truth, tolerance: Calibration) -> bool | None:
    """Compare places at the times of the true path, up to JUDGED_S."""
    rows = [row for row in truth.path or () if row[0] <= JUDGED_S + 1e-6]
    if not rows:
        return None
    if answer.trajectory is None:
        return False
    known = [row for row in rows if row[0] <= answer.trajectory.duration + 1e-6]
    if not known:
        return None
    places = answer.trajectory.sample([row[0] for row in known])
    off = [math.hypot(x - row[1], y - row[2]) for x, y, row in zip(places.x, places.y, known, strict=True)]
    return sum(off) / len(off) <= tolerance.displacement_tolerance


def _rounded(value: Any) -> float:
    return round(float(value), 4)
