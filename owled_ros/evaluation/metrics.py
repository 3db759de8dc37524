"""Everything that is said about a model on recorded frames, as one dictionary. Needs evaluation.record.

`summarise` is pure: the same records give the same numbers. Definitions and sources: docs/evaluation.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from owled_ros.driving.answer import Light
from owled_ros.driving.prediction import Reason
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.evaluation.bootstrap import clip_numbers, interval_of_mean
from owled_ros.evaluation.displacement import JUDGED_S, biases, distance_by_time, path_table
from owled_ros.evaluation.driving_metrics import brake_onsets, comfort
from owled_ros.evaluation.frame_values import LOWER_IS_BETTER, Tolerance, curvature_of, frame_values
from owled_ros.evaluation.record import Record

SPEED_EDGES = (0.5, 4.0, 8.0, 14.0)  # [m/s]
CURVATURE_EDGES = (-0.01, -0.002, 0.002, 0.01)  # [1/m], left positive
CONFIDENCE_BINS = 10
UNREADABLE = (Reason.UNPARSED.name, Reason.INCOMPLETE.name)
PERCENTILES = (50, 95, 99)
NO_COMMAND = "NONE"  # where the route said nothing
GROUPED = (  # metrics that are also given by command and by speed
    *(f"path_{kind}_{second}s_m" for kind in ("ade", "fde") for second in (1, 2, 3)),
    "path_ade_horizon_m", "path_fde_horizon_m", "miss_share", "path_lateral_m", "path_longitudinal_m", "collision_share",
    "valid_share",
)  # fmt: skip


def summarise(
    records: Sequence[Record],
    vehicle: VehicleParameters | None = None,
    tolerance: Tolerance | None = None,
    deadline_s: float | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """Compute every metric; shares and rates are in [0, 1], None stands for "nothing to compute it from"."""
    vehicle, tolerance = vehicle or VehicleParameters(), tolerance or Tolerance()
    values = frame_values(records, vehicle, tolerance)
    summary: dict[str, Any] = {
        "frames": len(records),
        "means": {name: mean_of(column) for name, column in values.items()},
        "counted_frames": {name: int(np.isfinite(column).sum()) for name, column in values.items()},
        "answers": answer_rates(records),
        "acceleration_bias_mps2": mean_of(_signed(records, "acceleration")),
        "steering_bias_rad": mean_of(_signed(records, "steering")),
        **biases(records, vehicle),
        "by_speed_mps": binned_errors(records, values, lambda record: record.speed, SPEED_EDGES),
        "by_curvature_1pm": binned_errors(records, values, curvature_of, CURVATURE_EDGES),
        "by_command": path_table(records, values, GROUPED, lambda record: record.command or NO_COMMAND),
        "distance_by_time": distance_by_time(records, vehicle),
        "path": {"judged_s": JUDGED_S, "miss_m": tolerance.miss},
        "brake_onset": brake_onsets(records),
        "comfort": comfort(records, vehicle),
        "traffic_light_recall": light_recall(records),
        "confidence": confidence_quality(records, values["good_action_share"]),
        "timing": timing(records, deadline_s),
    }
    if intervals:
        clips = clip_numbers(records)
        summary["intervals_95"] = {name: interval_of_mean(column, clips) for name, column in values.items()}
    return summary


def mean_of(values: np.ndarray) -> float | None:
    """Average what is not NaN; None when nothing is left."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def answer_rates(records: Sequence[Record]) -> dict[str, Any]:
    """Count how often an answer could be read and used, and whether the model always says the same."""
    count = len(records)
    reasons = Counter(record.reason for record in records)
    texts = Counter(record.text for record in records if record.valid)
    valid = sum(texts.values())
    scenes = [record.scene_reason for record in records if record.scene_reason is not None]
    unreadable = sum(reasons[name] for name in UNREADABLE)
    withheld = reasons[Reason.DECLINED.name] + reasons[Reason.LOW_CONFIDENCE.name] + reasons[Reason.LATE.name]
    return {
        "parse_share": (count - unreadable) / count if count else None,
        "valid_share": valid / count if count else None,
        "withheld_share": withheld / count if count else None,
        "invalid_share": (count - valid - withheld) / count if count else None,
        "reasons": dict(sorted(reasons.items())),
        "unique_share": len(texts) / valid if valid else None,
        "most_common_share": max(texts.values()) / valid if valid else None,
        "most_common": min(texts, key=lambda text: (-texts[text], text)) if texts else None,
        "scene_parse_share": scenes.count(Reason.VALID.name) / len(scenes) if scenes else None,
    }


def binned_errors(
    records: Sequence[Record],
    values: dict[str, np.ndarray],
    value: Callable[[Record], float],
    edges: Sequence[float],
) -> list[dict[str, Any]]:
    """Give error and bias (answer minus truth) of both parts of the action and the path's errors per bin.

    None limits are open.
    """
    bins = np.digitize([value(record) for record in records], edges)
    acceleration, steering = _signed(records, "acceleration"), _signed(records, "steering")
    limits = [None, *edges, None]
    table = []
    for number in range(len(edges) + 1):
        here = bins == number
        table.append({
            "from": limits[number],
            "to": limits[number + 1],
            "frames": int(here.sum()),
            "acceleration_mae_mps2": mean_of(np.abs(acceleration[here])),
            "acceleration_bias_mps2": mean_of(acceleration[here]),
            "steering_mae_rad": mean_of(np.abs(steering[here])),
            "steering_bias_rad": mean_of(steering[here]),
            **{name: mean_of(values[name][here]) for name in GROUPED},
        })  # fmt: skip
    return table


def light_recall(records: Sequence[Record]) -> dict[str, dict[str, float | int | None]]:
    """Return, per true state of the traffic light, how often it was told."""
    table: dict[str, dict[str, float | int | None]] = {}
    for light in (Light.NONE, Light.RED, Light.YELLOW, Light.GREEN):
        seen = [
            record for record in records
            if record.truth.scene is not None and record.truth.scene.light is light and record.scene_reason is not None
        ]  # fmt: skip
        told = sum(record.scene is not None and record.scene.light is light for record in seen)
        table[light.name.lower()] = {"frames": len(seen), "recall": told / len(seen) if seen else None}
    return table


def confidence_quality(records: Sequence[Record], good: np.ndarray) -> dict[str, Any]:
    """Compare confidence with how often the action is good: expected calibration error (arXiv 1706.04599), Brier, AUROC."""
    confidence = np.array([record.confidence for record in records])
    known = np.isfinite(good)
    confidence, good = confidence[known], good[known] > 0.5
    if not len(good):
        return {"frames": 0, "ece": None, "brier": None, "auroc": None, "bins": []}
    numbers = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    bins = []
    for number in range(CONFIDENCE_BINS):
        here = numbers == number
        if here.any():
            bins.append({
                "frames": int(here.sum()),
                "confidence": float(confidence[here].mean()),
                "good_share": float(good[here].mean()),
            })  # fmt: skip
    ece = sum(entry["frames"] * abs(entry["confidence"] - entry["good_share"]) for entry in bins) / len(good)
    brier = float(np.mean((confidence - good) ** 2))
    return {"frames": len(good), "ece": ece, "brier": brier, "auroc": auroc(confidence, good), "bins": bins}


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the chance that a positive scores above a negative, ties half (Mann-Whitney); None with one class only."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean ranks from 1
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def timing(records: Sequence[Record], deadline_s: float | None) -> dict[str, float | int | None]:
    """Return latencies of the action [ms] and tokens per second of decoding."""
    latency = np.array([record.timing.action_latency_s for record in records]) * 1e3
    tokens = sum(record.timing.action_tokens + record.timing.scene_tokens for record in records)
    seconds = sum(record.timing.act_s + record.timing.describe_s for record in records)
    table: dict[str, float | int | None] = {
        f"action_latency_p{share}_ms": float(np.percentile(latency, share)) if len(latency) else None
        for share in PERCENTILES
    }
    table["decoding_tokens_per_s"] = tokens / seconds if seconds else None
    if deadline_s is not None and len(latency):
        table["deadline_misses"] = int((latency > deadline_s * 1e3).sum())
        table["deadline_miss_share"] = float((latency > deadline_s * 1e3).mean())
    return table


def _signed(records: Sequence[Record], part: str) -> np.ndarray:
    """Return answer minus truth, (N,), NaN where one is missing."""
    pairs = [(getattr(record, part), getattr(record.truth, part)) for record in records]
    return np.array([np.nan if a is None or b is None else a - b for a, b in pairs], dtype=np.float64)


def is_better(name: str, candidate: float, other: float) -> bool:
    """Tell whether a value of a metric beats another one."""
    return candidate < other if LOWER_IS_BETTER[name] else candidate > other
