"""Intervals of means over frames that hang together: bootstrap by clip. Needs numpy.

Neighbouring frames are nearly the same image, so whole clips of CLIP_S are drawn with replacement, not frames
(block bootstrap; Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 8.6). Percentile intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from owled_ros.driving.frame import NANOSECONDS
from owled_ros.evaluation.record import Record

CLIP_S = 5.0
DRAWS = 1000
SEED = 0
LEVEL = (2.5, 97.5)  # [%]
MIN_CLIPS = 2


def clip_numbers(records: Sequence[Record]) -> np.ndarray:
    """Number the clip of every record, (N,) int64; a clip never reaches over the end of a drive."""
    start: dict[tuple[str, int], int] = {}
    for record in records:
        key = (record.bag, record.drive)
        start[key] = min(start.get(key, record.stamp), record.stamp)
    names: dict[tuple[str, int, int], int] = {}
    numbers = []
    for record in records:
        key = (record.bag, record.drive)
        clip = int((record.stamp - start[key]) / (CLIP_S * NANOSECONDS))
        numbers.append(names.setdefault((*key, clip), len(names)))
    return np.array(numbers, dtype=np.int64)


def interval_of_mean(values: np.ndarray, clips: np.ndarray) -> list[float] | None:
    """Return the 95 % interval of the mean of what is not NaN; None with fewer than two clips."""
    finite = np.isfinite(values)
    names, numbers = np.unique(clips[finite], return_inverse=True)
    if len(names) < MIN_CLIPS:
        return None
    sums = np.bincount(numbers, weights=values[finite])  # (C,)
    counts = np.bincount(numbers)  # (C,)
    draws = np.random.default_rng(SEED).integers(0, len(names), (DRAWS, len(names)))  # (B, C)
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(means, LEVEL)
    return [float(low), float(high)]
