"""The whole ego motion of a bag as arrays: what the future of every image is read from. Needs numpy.

Memory: 80 bytes per ego message, whatever the images weigh.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.frame import EgoState

MAX_SPEED = 150.0  # [m/s], as in the node
MAX_YAW_RATE = 10.0  # [rad/s]


@dataclass(frozen=True)
class EgoTrack:
    """Ego motion in the order of its stamps; N finite states, M measured tire angles (0 where the bag has none).

    What a source does not tell is NaN: a pose, an acceleration, the time of recording. Poses are in the fixed frame of the source.
    """

    stamps: np.ndarray  # (N,) int64 [ns], strictly rising
    speed: np.ndarray  # (N,) [m/s]
    yaw_rate: np.ndarray  # (N,) [rad/s], left positive
    steering_stamps: np.ndarray  # (M,) int64 [ns], strictly rising
    steering: np.ndarray  # (M,) [rad], left positive
    x: np.ndarray = None  # type: ignore[assignment]  # (N,) [m]
    y: np.ndarray = None  # type: ignore[assignment]  # (N,) [m]
    heading: np.ndarray = None  # type: ignore[assignment]  # (N,) [rad], left positive, in (-pi, pi]
    acceleration: np.ndarray = None  # type: ignore[assignment]  # (N,) [m/s2], measured
    received: np.ndarray = None  # type: ignore[assignment]  # (N,) int64 [ns], when it was recorded; the stamp where unknown

    def __post_init__(self) -> None:
        for name in ("x", "y", "heading", "acceleration"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self.stamps), np.nan))
        if self.received is None:
            object.__setattr__(self, "received", self.stamps)

    @property
    def has_poses(self) -> bool:
        """True when every state has a pose."""
        return len(self.stamps) > 0 and bool(np.isfinite(self.x + self.y + self.heading).all())


def is_possible(state: EgoState) -> bool:
    """Tell whether a state is made of numbers that a road vehicle can have."""
    return state.is_finite() and abs(state.speed) <= MAX_SPEED and abs(state.yaw_rate) <= MAX_YAW_RATE


class TrackCollector:
    """Collects the ego motion of one section (Sample.section) in whatever order it comes."""

    def __init__(self) -> None:
        self._stamps, self._received = array("q"), array("q")
        self._speed, self._yaw_rate, self._acceleration = array("d"), array("d"), array("d")
        self._x, self._y, self._heading = array("d"), array("d"), array("d")
        self._steering_stamps, self._steering = array("q"), array("d")

    def add_motion(self, state: EgoState, received: int | None = None) -> None:
        """Store a state, and when it was recorded [ns]."""
        if not is_possible(state):
            return
        self._stamps.append(state.stamp)
        self._received.append(state.stamp if received is None else received)
        self._speed.append(state.speed)
        self._yaw_rate.append(state.yaw_rate)
        self._acceleration.append(math.nan if state.acceleration is None else state.acceleration)
        pose = state.pose
        self._x.append(math.nan if pose is None else pose.x)
        self._y.append(math.nan if pose is None else pose.y)
        self._heading.append(math.nan if pose is None else pose.heading)

    def add_steering(self, stamp: int, angle: float) -> None:
        """Store a measured tire angle [rad]."""
        if math.isfinite(angle):
            self._steering_stamps.append(stamp)
            self._steering.append(angle)

    def track(self) -> EgoTrack:
        """Return what was collected, in order of the stamps; the first of equal stamps."""
        stamps, order = np.unique(np.array(self._stamps, dtype=np.int64), return_index=True)
        steering_stamps, turns = np.unique(np.array(self._steering_stamps, dtype=np.int64), return_index=True)

        def ordered(column: array[float]) -> np.ndarray:
            return np.array(column, dtype=np.float64)[order]

        return EgoTrack(
            stamps=stamps,
            speed=ordered(self._speed),
            yaw_rate=ordered(self._yaw_rate),
            steering_stamps=steering_stamps,
            steering=np.array(self._steering, dtype=np.float64)[turns],
            x=ordered(self._x),
            y=ordered(self._y),
            heading=ordered(self._heading),
            acceleration=ordered(self._acceleration),
            received=np.array(self._received, dtype=np.int64)[order],
        )
