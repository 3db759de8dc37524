"""What the drives hold: frames whose future is known, how much of which driving, and what is missing. Needs bags and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owled_ros.bags.ego_track import EgoTrack
from owled_ros.bags.frames import ReadOptions
from owled_ros.bags.selection import YAW_RATE_EDGES
from owled_ros.bags.summary import BagSummary, summarise_bag
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.ground_truth import truth_of_motion

LEAST_MIN = {"driving": 1.0, "turning": 0.1, "standing or stopping": 0.05}  # [min] without which tuning is hopeless
STANDING = 0.5  # [m/s]
LONGEST_GAP_S = 1.0  # between two images that counts as driving


@dataclass(frozen=True, eq=False)
class Driven:
    """A bag and which of its images can be learned from."""

    summary: BagSummary
    known: np.ndarray  # (N,) bool, in the order of the index: a frame, and the motion after it is known
    stops: np.ndarray  # (N,) bool, it stands, or will within 3 s

    @property
    def path(self) -> Path:
        return self.summary.path

    def digests(self, among: np.ndarray) -> set[str]:
        """Return the digests of the drives that some images are of."""
        numbers = set(self.summary.frames.drive[among].tolist())
        return {drive.digest for drive in self.summary.drives if drive.number in numbers}

    def of_drives(self, digests: Collection[str]) -> np.ndarray:
        """Tell which images are of drives with these digests: (N,) bool."""
        numbers = [drive.number for drive in self.summary.drives if drive.digest in digests]
        return np.isin(self.summary.frames.drive, numbers)


def read_driven(path: Path, options: ReadOptions, horizon_s: float, vehicle: VehicleParameters) -> Driven:
    """Read a bag without decoding its images and look into the future of every frame."""
    summary = summarise_bag(path, options)
    frames = summary.frames
    known, stops = np.zeros(len(frames.stamps), bool), np.zeros(len(frames.stamps), bool)
    for place in np.flatnonzero(np.isfinite(frames.speed)):
        track = _track_at(summary.tracks, int(frames.stamps[place]))
        if track is None:
            continue
        truth = truth_of_motion(track, int(frames.stamps[place]), vehicle)
        if truth.acceleration is None or truth.path is None or truth.path[-1][0] < horizon_s - 1e-6:
            continue
        known[place] = True
        stops[place] = min(frames.speed[place], *(row[4] for row in truth.path if row[0] <= 3.0)) < STANDING
    return Driven(summary, known, stops)


def minutes_of(driven: Sequence[Driven], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Return how many minutes of each kind some images of the bags show."""
    sums = dict.fromkeys(LEAST_MIN, 0.0)
    for bag, mask in zip(driven, masks, strict=True):
        frames = bag.summary.frames
        if not len(frames.stamps):
            continue
        gaps = np.diff(frames.stamps, append=frames.stamps[-1]) / NANOSECONDS
        same = np.append(np.diff(frames.drive) == 0, False)
        lasts = np.where(same & (gaps <= LONGEST_GAP_S), gaps, 0.0) / 60.0  # (N,) [min]
        here = mask & bag.known
        turning = np.abs(np.nan_to_num(frames.yaw_rate)) >= YAW_RATE_EDGES[2]
        for name, kind in (("driving", here), ("turning", here & turning), ("standing or stopping", here & bag.stops)):
            sums[name] += float(lasts[kind].sum())
    return sums


def shortage(minutes: dict[str, float]) -> str:
    """Say what is missing of each kind of driving; empty where nothing is."""
    missing = [
        f"{LEAST_MIN[name] - held:.2f} min of {name} (there are {held:.2f}, at least {LEAST_MIN[name]:g} are needed)"
        for name, held in minutes.items()
        if held < LEAST_MIN[name]
    ]
    return "; ".join(missing)


def refuse_shared(training: Iterable[tuple[Driven, np.ndarray]], judging: Iterable[tuple[Driven, np.ndarray]]) -> None:
    """Raise OwledError where a drive that judges is among those that are learned from, whatever its bag is called."""
    learned = {digest: bag for bag, mask in training for digest in bag.digests(mask)}
    for bag, mask in judging:
        for digest in sorted(bag.digests(mask) & set(learned)):
            raise OwledError(
                f"{bag.path} holds drive {digest}, and so does {learned[digest].path}: a drive that was learned from cannot "
                "judge; leave it out of one side"
            )


def _track_at(tracks: Sequence[EgoTrack], stamp: int) -> EgoTrack | None:
    return next((track for track in tracks if len(track.stamps) and track.stamps[0] <= stamp <= track.stamps[-1]), None)
