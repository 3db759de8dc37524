"""A trajectory: where the vehicle will be, when, how fast; what leaves the engine, whatever the model answered. Needs numpy.

base_link of the frame's stamp: x forward, y left, angles left positive. The first point is the vehicle now (time 0, at the
origin, heading 0, its measured speed); the others are what the model predicts. Headings do not jump by whole turns.
driving.rollout and driving.waypoints make trajectories of what models say. Letters: N points, M times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.answer import Action, Manoeuvre
from owled_ros.driving.ego import Pose
from owled_ros.errors import OwledError

COLUMNS = ("time", "x", "y", "heading", "speed", "acceleration", "curvature")
EDGE_S = 1e-6  # [s] that a time may lie outside by rounding


@dataclass(frozen=True, eq=False)
class Trajectory:
    """N points in the order of their times; one row each, one column for every name in COLUMNS."""

    values: np.ndarray  # (N, 7) float64

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trajectory) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def time(self) -> np.ndarray:
        """Seconds after the frame's stamp, (N,), strictly rising from 0."""
        return self.values[:, 0]

    @property
    def x(self) -> np.ndarray:
        """[m] forward, (N,)."""
        return self.values[:, 1]

    @property
    def y(self) -> np.ndarray:
        """[m] to the left, (N,)."""
        return self.values[:, 2]

    @property
    def heading(self) -> np.ndarray:
        """[rad], left positive, (N,)."""
        return self.values[:, 3]

    @property
    def speed(self) -> np.ndarray:
        """[m/s], (N,)."""
        return self.values[:, 4]

    @property
    def acceleration(self) -> np.ndarray:
        """[m/s2] along the path, (N,)."""
        return self.values[:, 5]

    @property
    def curvature(self) -> np.ndarray:
        """[1/m], left positive, (N,)."""
        return self.values[:, 6]

    @property
    def duration(self) -> float:
        """How far it looks ahead [s]."""
        return float(self.time[-1])

    def sample(self, times: Sequence[float] | np.ndarray) -> Trajectory:
        """Return the points at other times [s], (M, 7); raises OwledError for a time that it does not cover.

        Positions follow the cubic through places and velocities (Hermite), everything else is linear in between.
        """
        wanted = np.asarray(times, np.float64)
        if wanted.size and (wanted.min() < -EDGE_S or wanted.max() > self.duration + EDGE_S):
            raise OwledError(
                f"times {wanted.min():g} to {wanted.max():g} s asked of a trajectory of {self.duration:g} s; "
                "ask for times that it covers"
            )
        wanted = np.clip(wanted, 0.0, self.duration)
        linear = [np.interp(wanted, self.time, self.values[:, column]) for column in range(3, len(COLUMNS))]
        return Trajectory(np.column_stack([wanted, self._positions(wanted), *linear]))

    def first_action(self, wheel_base: float, manoeuvre: Manoeuvre = Manoeuvre.UNKNOWN) -> Action:
        """Return what to do now: the acceleration, and the tire angle that gives the curvature."""
        return Action(float(self.acceleration[0]), math.atan(wheel_base * float(self.curvature[0])), manoeuvre)

    def seen_from(self, pose: Pose, elapsed_s: float) -> Trajectory | None:
        """Return what is left of it `elapsed_s` later at `pose` (in base_link of its stamp); None when it is over.

        The first point is the vehicle again, with the speed that was planned for that moment. Points that are past or, for a
        vehicle that was faster than planned, lie behind are left out.
        """
        if not 0.0 <= elapsed_s < self.duration - EDGE_S:
            return None
        now = self.sample([elapsed_s]).values[0]
        rest = self.values[self.time > elapsed_s + EDGE_S].copy()
        cos, sin = math.cos(pose.heading), math.sin(pose.heading)
        dx, dy = rest[:, 1] - pose.x, rest[:, 2] - pose.y
        rest[:, 0] -= elapsed_s
        rest[:, 1], rest[:, 2] = cos * dx + sin * dy, cos * dy - sin * dx
        rest[:, 3] -= pose.heading
        ahead = np.flatnonzero(rest[:, 1] > 0.0)
        rest = rest[ahead[0] if len(ahead) else 0 :]
        return Trajectory(np.vstack([[0.0, 0.0, 0.0, 0.0, *now[4:]], rest]))

    def _positions(self, times: np.ndarray) -> np.ndarray:
        """Cubic Hermite interpolation, (M, 2)."""
        last = max(len(self) - 2, 0)
        left = np.clip(np.searchsorted(self.time, times, side="right") - 1, 0, last)
        right = np.minimum(left + 1, len(self) - 1)
        length = np.maximum(self.time[right] - self.time[left], EDGE_S)[:, None]  # (M, 1)
        u = (times - self.time[left])[:, None] / length
        place = self.values[:, 1:3]
        velocity = self.speed[:, None] * np.column_stack([np.cos(self.heading), np.sin(self.heading)])
        return (
            (1 + 2 * u) * (1 - u) ** 2 * place[left]
            + u * (1 - u) ** 2 * length * velocity[left]
            + u**2 * (3 - 2 * u) * place[right]
            + u**2 * (u - 1) * length * velocity[right]
        )
