"""Which images of the bags calibrate a candidate and which judge it; the bags themselves stay on the disk. Needs bags.

Calibration images cover speeds, turns and lights (bags.selection); gate images are evenly spread over whole drives that
the calibration never sees, so that their means are those of the drives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owled_ros.bags.frames import ReadOptions, Sample
from owled_ros.bags.selection import read_selected, select_frames, split_by_drive
from owled_ros.bags.summary import BagSummary, summarise_bag
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.errors import OwledError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """Image numbers (Sample.index) per bag."""

    bags: tuple[BagSummary, ...]
    names: tuple[str, ...]  # of the bags, each once
    calibration: tuple[np.ndarray, ...]
    gate: tuple[np.ndarray, ...]
    shared_drive: bool  # the only drive was cut in two

    @property
    def held_out_s(self) -> float:
        """Driving time of the drives that judge [s]; of the judging part, where the only drive was cut."""
        total = 0.0
        for bag, indices in zip(self.bags, self.gate, strict=True):
            stamps = bag.frames.stamps[np.isin(bag.frames.index, indices)]
            numbers = set(bag.frames.drive[np.isin(bag.frames.index, indices)].tolist())
            whole = sum((drive.end - drive.start) / NANOSECONDS for drive in bag.drives if drive.number in numbers)
            cut = float(np.ptp(stamps)) / NANOSECONDS if len(stamps) else 0.0
            total += min(whole, cut) if self.shared_drive else whole
        return total

    def drives(self, chosen: Sequence[np.ndarray]) -> list[str]:
        """Return the digests of the drives that chosen images come from."""
        found: list[str] = []
        for bag, indices in zip(self.bags, chosen, strict=True):
            numbers = set(bag.frames.drive[np.isin(bag.frames.index, indices)].tolist())
            found.extend(drive.digest for drive in bag.drives if drive.number in numbers)
        return sorted(set(found))


def choose_material(
    paths: Sequence[Path],
    options: ReadOptions,
    calibration_frames: int,
    gate_frames: int,
    gate_share: float,
    seed: int,
    cut_single: bool,
    step: Callable[[int], None],
) -> Material:
    """Read every bag once without decoding images, split it by drive and choose; `step` is told the bags done.

    Raises OwledError for a bag that gives nothing, and for drives that hold too few images with ego motion.
    """
    bags = []
    for number, path in enumerate(paths):
        bags.append(summarise_bag(path, options))
        step(number + 1)
    split = split_by_drive(bags, gate_share, seed, cut_single)
    if split.shared_drive:
        logger.warning("the bags hold one drive only: its end judges what its beginning calibrated")
    calibration = _shares(
        [int((mask & _usable(bag)).sum()) for bag, mask in zip(bags, split.calibration, strict=True)],
        calibration_frames,
    )
    chosen = [
        select_frames(bag.frames, count, seed + number, among=mask) if count else np.zeros(0, np.int64)
        for number, (bag, mask, count) in enumerate(zip(bags, split.calibration, calibration, strict=True))
    ]
    gate = _shares([int((mask & _usable(bag)).sum()) for bag, mask in zip(bags, split.gate, strict=True)], gate_frames)
    judged = [_evenly(bag, mask, count) for bag, mask, count in zip(bags, split.gate, gate, strict=True)]
    for name, indices in (("calibration", chosen), ("the gate", judged)):
        if sum(map(len, indices)) < 2:
            raise OwledError(
                f"the bags leave {sum(map(len, indices))} images for {name}; record longer drives, at least two of them"
                + "".join(f"; {bag.path.name}: {note}" for bag in bags for note in bag.notes)
            )
    return Material(tuple(bags), _names(bags), tuple(chosen), tuple(judged), split.shared_drive)


def read_chosen(material: Material, chosen: Sequence[np.ndarray], options: ReadOptions) -> Iterator[tuple[int, Sample]]:
    """Yield (number of the bag, sample) of chosen images; a bag without any is not opened."""
    for number, (bag, indices) in enumerate(zip(material.bags, chosen, strict=True)):
        if len(indices):
            for sample in read_selected(bag.path, indices, options):
                yield number, sample


def _usable(bag: BagSummary) -> np.ndarray:
    return np.isfinite(bag.frames.speed) & np.isfinite(bag.frames.yaw_rate)


def _shares(sizes: list[int], count: int) -> list[int]:
    """Share `count` out in proportion to what each bag has, at most that."""
    total = sum(sizes)
    if total <= count:
        return sizes
    edges = np.round(np.cumsum([0, *sizes]) * count / total).astype(int)
    return [int(share) for share in np.diff(edges)]


def _evenly(bag: BagSummary, mask: np.ndarray, count: int) -> np.ndarray:
    usable = bag.frames.index[mask & _usable(bag)]
    return (
        np.sort(usable[np.linspace(0, len(usable) - 1, count).round().astype(int)]) if count else np.zeros(0, np.int64)
    )


def _names(bags: Sequence[BagSummary]) -> tuple[str, ...]:
    names: list[str] = []
    for bag in bags:
        name, number = bag.path.name, 2
        while name in names:
            name, number = f"{bag.path.name} ({number})", number + 1
        names.append(name)
    return tuple(names)
