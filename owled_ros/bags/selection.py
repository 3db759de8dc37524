"""Which images calibrate a model and which ones judge it. Needs bags.summary.

Calibration images are spread over speeds, turns and traffic lights instead of being the first N: every stratum that
occurs gives equally many as long as it can (water filling), evenly spread over its time, shifted by the seed.
Whole drives go to one side or the other, so what a model was calibrated on never judges it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owled_ros.bags.frames import ReadOptions, Sample, read_samples
from owled_ros.bags.summary import BagSummary, FrameIndex
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.errors import OwledError

SPEED_EDGES = (0.5, 4.0, 8.0, 14.0)  # [m/s], standing / walking pace / town / arterial / faster
YAW_RATE_EDGES = (-0.15, -0.03, 0.03, 0.15)  # [rad/s], sharp right / right / straight / left / sharp left
GUARD_S = 10.0  # [s] left out between the two parts of a drive that has to be cut


@dataclass(frozen=True)
class Split:
    """Which images of each bag calibrate and which judge; one boolean array per bag, in the order of its index."""

    calibration: list[np.ndarray]
    gate: list[np.ndarray]
    shared_drive: bool  # True: the only drive had to be cut in two, with a guard between


def split_by_drive(
    bags: Sequence[BagSummary], gate_share: float = 0.3, seed: int = 0, cut_single: bool = False
) -> Split:
    """Give whole drives to calibration or gate; copies of one drive in several bags stay together.

    Raises OwledError when there is only one drive, unless `cut_single`: then its end judges, GUARD_S after the cut.
    """
    sizes: dict[str, int] = {}
    for bag in bags:
        for drive in bag.drives:
            sizes[drive.digest] = sizes.get(drive.digest, 0) + drive.images
    if len(sizes) < 2:
        if not cut_single:
            raise OwledError(
                "calibration and gate need a drive each, but the bags hold only one (images without a gap of more than "
                f"{ReadOptions.drive_gap_s:g} s); add a bag of another drive, or cut this one in two: --cut-single-drive, parameter "
                "cut_single_drive"
            )
        return _cut(bags, gate_share)
    gate = _choose_drives(sizes, gate_share, seed)
    masks = []
    for bag in bags:
        numbers = [drive.number for drive in bag.drives if drive.digest in gate]
        masks.append(np.isin(bag.frames.drive, numbers))
    return Split([~mask for mask in masks], masks, shared_drive=False)


def select_frames(frames: FrameIndex, count: int, seed: int = 0, among: np.ndarray | None = None) -> np.ndarray:
    """Choose `count` images that cover speeds, turns and lights; returns sorted image numbers (Sample.index).

    `among` (N,) bool restricts the choice; images without ego motion are never chosen.
    """
    usable = np.isfinite(frames.speed) & np.isfinite(frames.yaw_rate)
    if among is not None:
        usable &= among
    candidates = np.flatnonzero(usable)
    if not len(candidates):
        raise OwledError("no image with ego motion to choose from; record camera and ego motion together")
    strata = strata_of(frames)[candidates]
    members = [candidates[strata == stratum] for stratum in np.unique(strata)]
    quotas = fair_quotas([len(group) for group in members], count)
    rng = np.random.default_rng(seed)
    chosen = [group[_spread(len(group), quota, rng)] for group, quota in zip(members, quotas, strict=True)]
    return np.sort(frames.index[np.concatenate(chosen)])


def strata_of(frames: FrameIndex) -> np.ndarray:
    """Number the combination of speed, turn and light of every image: (N,) int64."""
    speed = np.digitize(np.nan_to_num(frames.speed), SPEED_EDGES)
    turn = np.digitize(np.nan_to_num(frames.yaw_rate), YAW_RATE_EDGES)
    return (speed * (len(YAW_RATE_EDGES) + 1) + turn) * 8 + frames.light


def fair_quotas(sizes: Sequence[int], count: int) -> list[int]:
    """Share `count` out equally; groups that are too small give all they have and the others fill up."""
    quotas = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        open_groups = [group for group, size in enumerate(sizes) if quotas[group] < size]
        share = max(1, left // len(open_groups))
        for group in open_groups:
            given = min(share, sizes[group] - quotas[group], left)
            quotas[group] += given
            left -= given
    return quotas


def contrasting(frames: FrameIndex) -> np.ndarray:
    """Choose the slowest and the fastest image, and those of the sharpest turns; returns sorted image numbers (Sample.index)."""
    usable = np.flatnonzero(np.isfinite(frames.speed) & np.isfinite(frames.yaw_rate))
    if not len(usable):
        return np.zeros(0, np.int64)
    ends = [end(values[usable]) for values in (frames.speed, frames.yaw_rate) for end in (np.argmin, np.argmax)]
    return np.unique(frames.index[usable[ends]])


def read_selected(path: Path, indices: np.ndarray, options: ReadOptions | None = None) -> Iterator[Sample]:
    """Yield only the images with these numbers; the others are not decoded."""
    return read_samples(path, options, only=frozenset(int(index) for index in indices))


def _choose_drives(sizes: dict[str, int], gate_share: float, seed: int) -> set[str]:
    """Add drives in random order while they bring the gate nearer to its share; both sides get at least one."""
    order = sorted(sizes)
    np.random.default_rng(seed).shuffle(order)
    wanted = gate_share * sum(sizes.values())
    gate: set[str] = set()
    filled = 0
    for digest in order:
        if len(gate) == len(sizes) - 1:
            break
        if not gate or abs(filled + sizes[digest] - wanted) < abs(filled - wanted):
            gate.add(digest)
            filled += sizes[digest]
    return gate


def _cut(bags: Sequence[BagSummary], gate_share: float) -> Split:
    calibration, gate = [], []
    for bag in bags:
        stamps = bag.frames.stamps
        if not len(stamps):
            raise OwledError(f"bag {bag.path} holds no image; record a camera")
        span = int(stamps[-1] - stamps[0])
        guard = min(int(GUARD_S * NANOSECONDS), span // 10)
        cut = int(stamps[-1]) - int(gate_share * span)
        calibration.append(stamps < cut - guard // 2)
        gate.append(stamps > cut + guard // 2)
    return Split(calibration, gate, shared_drive=True)


def _spread(size: int, quota: int, rng: np.random.Generator) -> np.ndarray:
    """Return `quota` positions of 0..size-1, evenly spread, shifted at random."""
    shift = rng.random()
    return np.floor((np.arange(quota) + shift) * size / max(quota, 1)).astype(np.int64)
