"""A route as a line of places: what of it lies ahead of the vehicle, and how far along it something stands. Needs numpy.

Headings are those of the line itself: many planners leave the orientations of their points empty. Letters: N places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from owled_ros.driving.ego import Pose
from owled_ros.driving.guidance import MAX_POINTS, sound_line
from owled_ros.errors import OwledError

AHEAD_M, STEP_M = 66.0, 1.0  # of the route that a frame holds
OFF_ROUTE_M = 10.0  # farther from the line the vehicle is on another way
WRONG_WAY_M = 5.0  # that a piece across the vehicle's heading counts as farther away: routes may cross themselves
BESIDE_M = 3.0  # what stands farther beside the line belongs to another lane


class RouteLine:
    """One route in the frame of its message."""

    def __init__(self, points: np.ndarray) -> None:
        """Take the places (N, 2) [m]; raises OwledError for what is no line."""
        self._points = sound_line(points)
        self._way = np.diff(self._points, axis=0)
        self._steps = np.hypot(*self._way.T)
        self._along = np.concatenate([[0.0], np.cumsum(self._steps)])
        pieces = np.unwrap(np.arctan2(self._way[:, 1], self._way[:, 0]))  # (N - 1,) [rad]
        middles = (self._along[1:] + self._along[:-1]) / 2
        self._headings = np.interp(self._along, middles, pieces)  # (N,), at the places
        self._headings[[0, -1]] += (pieces[[0, -1]] - self._headings[[1, -2]]) * (len(pieces) > 1)  # goes on bending

    def ahead(self, pose: Pose) -> tuple[Pose, ...]:
        """Return the route from beside a vehicle at `pose` on, in its base_link; beyond its end it goes straight on.

        Raises:
            OwledError: the vehicle is not on the route.
        """
        if not pose.is_finite():
            raise OwledError("the vehicle's pose holds numbers that are not finite")
        at, off = self._beside(pose)
        if off > OFF_ROUTE_M:
            raise OwledError(f"the vehicle is {off:.1f} m off the route; the limit is {OFF_ROUTE_M:g} m")
        places = at + np.arange(0.0, AHEAD_M + STEP_M / 2, STEP_M)
        columns = (self._points[:, 0], self._points[:, 1], self._headings)
        x, y, heading = (np.interp(places, self._along, column) for column in columns)
        beyond = np.maximum(places - self._along[-1], 0.0)
        x, y = x + beyond * np.cos(heading), y + beyond * np.sin(heading)
        return tuple(Pose(*row).seen_from(pose) for row in np.column_stack([x, y, heading]).tolist())

    def _beside(self, pose: Pose) -> tuple[float, float]:
        """Return where along the line the vehicle is, and how far it is off [m]."""
        share, off = _feet(self._points, self._way, pose.x, pose.y)
        turned = np.arctan2(self._way[:, 1], self._way[:, 0]) - pose.heading
        best = int(np.argmin(off + WRONG_WAY_M * (1.0 - np.cos(turned))))
        return float(self._along[best] + share[best] * self._steps[best]), float(off[best])


def places_of(message: Any) -> np.ndarray:
    """Return the places (N, 2) of a nav_msgs/Path, or of Autoware's Path or Trajectory.

    Raises:
        OwledError: too many places.
    """
    items = message.poses if hasattr(message, "poses") else message.points
    if len(items) > MAX_POINTS:
        raise OwledError(f"the route has {len(items)} places; at most {MAX_POINTS} are taken")
    return np.array([(item.pose.position.x, item.pose.position.y) for item in items], np.float64).reshape(-1, 2)


def distance_along(route: Sequence[Pose], place: tuple[float, float]) -> float | None:
    """Return how far [m] ahead along a route in base_link a place lies; None where it lies behind, beyond, or beside another lane."""
    points = np.array([[pose.x, pose.y] for pose in route] or [[0.0, 0.0], [AHEAD_M, 0.0]])
    if len(points) < 2:
        return None
    way = np.diff(points, axis=0)
    share, off = _feet(points, way, *place)
    steps, best = np.hypot(*way.T), int(np.argmin(off))
    distance = float(steps[:best].sum() + share[best] * steps[best])
    ends = distance <= 0.0 or distance >= float(steps.sum())
    return None if ends or off[best] > BESIDE_M or not math.isfinite(distance) else distance


def _feet(points: np.ndarray, way: np.ndarray, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Return for every piece the share [0, 1] of it that lies before the place, and the distance to it [m]."""
    to = np.array([x, y]) - points[:-1]
    share = np.clip((to * way).sum(axis=1) / np.maximum((way * way).sum(axis=1), 1e-12), 0.0, 1.0)
    return share, np.hypot(*(to - share[:, None] * way).T)
