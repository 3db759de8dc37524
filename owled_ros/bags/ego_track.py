"""The whole ego motion of a bag as arrays: what the future of every image is read from. Needs numpy.

Memory: 24 bytes per ego message, whatever the images weigh.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.frame import EgoState


@dataclass(frozen=True)
class EgoTrack:
    """Ego motion in the order of its stamps; N finite states, M measured tire angles (0 where the bag has none)."""

    stamps: np.ndarray  # (N,) int64 [ns], strictly rising
    speed: np.ndarray  # (N,) [m/s]
    yaw_rate: np.ndarray  # (N,) [rad/s], left positive
    steering_stamps: np.ndarray  # (M,) int64 [ns], strictly rising
    steering: np.ndarray  # (M,) [rad], left positive


class TrackCollector:
    """Collects the ego motion of one section (Sample.section) in whatever order it comes."""

    def __init__(self) -> None:
        self._stamps, self._speed, self._yaw_rate = array("q"), array("d"), array("d")
        self._steering_stamps, self._steering = array("q"), array("d")

    def add_motion(self, state: EgoState) -> None:
        """Store a state."""
        self._stamps.append(state.stamp)
        self._speed.append(state.speed)
        self._yaw_rate.append(state.yaw_rate)

    def add_steering(self, stamp: int, angle: float) -> None:
        """Store a measured tire angle [rad]."""
        self._steering_stamps.append(stamp)
        self._steering.append(angle)

    def track(self) -> EgoTrack:
        """Return what was collected, in order, without what is not finite."""
        stamps, (speed, yaw_rate) = _in_order(self._stamps, self._speed, self._yaw_rate)
        steering_stamps, (steering,) = _in_order(self._steering_stamps, self._steering)
        return EgoTrack(stamps, speed, yaw_rate, steering_stamps, steering)


def _in_order(stamps: array[int], *values: array[float]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sort by stamp, keep the first of equal stamps, leave out what is not finite."""
    times = np.array(stamps, dtype=np.int64)
    columns = [np.array(column, dtype=np.float64) for column in values]
    finite = np.logical_and.reduce([np.isfinite(column) for column in columns])
    times, columns = times[finite], [column[finite] for column in columns]
    times, order = np.unique(times, return_index=True)
    return times, [column[order] for column in columns]
