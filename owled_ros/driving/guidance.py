"""From a route and the vehicle's pose to a command: "turn left in 40 m". Needs numpy.

A route is a line of places in a fixed frame with marks on it: where which command applies. Marks come from a lane map
(driving.lane_route) or, where there is none, from how sharply the line itself bends. Letters: N places, S metres of the line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.ego import Pose
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.errors import OwledError

MAX_POINTS = 100_000
MAX_LENGTH_M = 500_000.0
MIN_STEP_M = 1e-3  # nearer places are one
STEP_M = 1.0  # of the line, as it is looked at
WINDOW_M = 25.0  # a bend within this length is a turn
TURN_RAD = math.radians(50.0)  # that it changes the heading by, at least
U_TURN_RAD = math.radians(150.0)
EDGE_RAD = math.radians(10.0)  # of the change, before and after which the turn has not begun, or is over
BACK_M, AHEAD_M = 10.0, 60.0  # of where the vehicle was on the line, that it is looked for first
WORDS = {
    CommandKind.FOLLOW_LANE: "follow the lane",
    CommandKind.STRAIGHT: "go straight on",
    CommandKind.LEFT: "turn left",
    CommandKind.RIGHT: "turn right",
    CommandKind.LANE_CHANGE_LEFT: "change to the left lane",
    CommandKind.LANE_CHANGE_RIGHT: "change to the right lane",
    CommandKind.U_TURN: "make a U-turn",
    CommandKind.STOP: "stop, the goal is reached",
}


@dataclass(frozen=True)
class Mark:
    """A stretch of the line where a command applies."""

    start: float  # [m] along the line
    end: float  # [m]
    kind: CommandKind


@dataclass(frozen=True)
class GuidanceLimits:
    """When something is said."""

    announce_m: float = 50.0  # a command is given this far before it applies
    goal_m: float = 5.0  # nearer to the end the goal is reached
    off_route_m: float = 10.0  # farther from the line nothing is said


class OffRouteError(OwledError):
    """The vehicle is not on the route."""


class Guide:
    """Follows a vehicle along one route."""

    def __init__(self, points: np.ndarray, marks: Sequence[Mark] | None = None) -> None:
        """Take the line (N, 2) [m]; without marks its own bends are the turns. Raises OwledError for what is no line."""
        self._points = sound_line(points)
        steps = np.hypot(*np.diff(self._points, axis=0).T)
        self._along = np.concatenate([[0.0], np.cumsum(steps)])  # (N,) [m]
        if self._along[-1] > MAX_LENGTH_M:
            raise OwledError(
                f"the route is {self._along[-1] / 1e3:.0f} km long; at most {MAX_LENGTH_M / 1e3:.0f} km are taken"
            )
        self.marks = tuple(bends_of(self._points, self._along) if marks is None else marks)
        self._at: float | None = None  # [m] along the line

    @property
    def length(self) -> float:
        """Of the whole line [m]."""
        return float(self._along[-1])

    def command(self, pose: Pose, stamp: int, limits: GuidanceLimits) -> NavigationCommand:
        """Say what the route asks of a vehicle at `pose`; raises OffRouteError away from it."""
        at, off = self._locate(pose)
        if off > limits.off_route_m:
            self._at = None
            raise OffRouteError(f"the vehicle is {off:.1f} m off the route; the limit is {limits.off_route_m:g} m")
        self._at = at
        if self.length - at <= limits.goal_m:
            return NavigationCommand(CommandKind.STOP, self.length - at, WORDS[CommandKind.STOP], stamp)
        for mark in self.marks:
            if at < mark.end and mark.start - at <= limits.announce_m:
                distance = max(mark.start - at, 0.0)
                where = "now" if distance < STEP_M else f"in {distance:.0f} m"
                return NavigationCommand(mark.kind, distance, f"{WORDS[mark.kind]} {where}", stamp)
        return NavigationCommand(CommandKind.FOLLOW_LANE, None, WORDS[CommandKind.FOLLOW_LANE], stamp)

    def ahead(self, pose: Pose, length_m: float, step_m: float) -> tuple[Pose, ...]:
        """Return the route ahead in base_link of a vehicle at `pose`, every `step_m` for `length_m` [m]."""
        at, _ = self._locate(pose)
        places = np.arange(at, min(at + length_m, self.length) + 1e-9, step_m)
        x, y = np.interp(places, self._along, self._points[:, 0]), np.interp(places, self._along, self._points[:, 1])
        segments = np.clip(np.searchsorted(self._along, places, side="right") - 1, 0, len(self._along) - 2)
        way = np.diff(self._points, axis=0)[segments]
        headings = np.arctan2(way[:, 1], way[:, 0])
        return tuple(Pose(*row).seen_from(pose) for row in np.stack([x, y, headings], axis=1).tolist())

    def _locate(self, pose: Pose) -> tuple[float, float]:
        """Return where on the line the vehicle is [m], and how far beside it [m]: near where it was, else anywhere."""
        if not pose.is_finite():
            raise OffRouteError("the vehicle's pose holds numbers that are not finite")
        if self._at is not None:
            near = self._nearest(pose, self._at - BACK_M, self._at + AHEAD_M)
            if near is not None and near[1] <= BACK_M:
                return near
        found = self._nearest(pose, 0.0, self.length)
        assert found is not None
        return found

    def _nearest(self, pose: Pose, start: float, end: float) -> tuple[float, float] | None:
        first = max(int(np.searchsorted(self._along, start, side="right")) - 1, 0)
        last = min(int(np.searchsorted(self._along, end)) + 1, len(self._along))
        if last - first < 2:
            return None
        begins, way = self._points[first : last - 1], np.diff(self._points[first:last], axis=0)
        to = np.array([pose.x, pose.y]) - begins
        share = np.clip((to * way).sum(axis=1) / (way * way).sum(axis=1), 0.0, 1.0)
        off = np.hypot(*(to - share[:, None] * way).T)
        best = int(np.argmin(off))
        return float(self._along[first + best] + share[best] * np.hypot(*way[best])), float(off[best])


def sound_line(points: np.ndarray) -> np.ndarray:
    """Return the places (N, 2) that differ; raises OwledError for what is no line."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise OwledError(f"the route has the shape {points.shape}; expected rows of x and y")
    if len(points) > MAX_POINTS:
        raise OwledError(f"the route has {len(points)} places; at most {MAX_POINTS} are taken")
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise OwledError(f"place {bad[0]} of the route is {points[bad[0]]}; expected finite numbers")
    if len(points):
        far = np.hypot(*np.diff(points, axis=0).T) > MIN_STEP_M
        points = points[np.concatenate([[True], far])]
    if len(points) < 2:
        raise OwledError(f"the route has {len(points)} places that differ; expected at least 2")
    return points


def bends_of(points: np.ndarray, along: np.ndarray) -> list[Mark]:
    """Find the turns of a line: bends of at least TURN_RAD within WINDOW_M."""
    places = np.arange(0.0, along[-1], STEP_M)  # (S,)
    way = np.diff(points, axis=0)
    headings = np.unwrap(np.arctan2(way[:, 1], way[:, 0]))  # (N - 1,)
    segments = np.clip(np.searchsorted(along, places, side="right") - 1, 0, len(headings) - 1)
    heading = headings[segments]  # (S,)
    window = max(round(WINDOW_M / STEP_M), 1)
    later = heading[np.minimum(np.arange(len(heading)) + window, len(heading) - 1)]
    change = later - heading
    marks: list[Mark] = []
    index = 0
    while index < len(change):
        if abs(change[index]) < TURN_RAD:
            index += 1
            continue
        sign, end = math.copysign(1.0, change[index]), index
        while end + 1 < len(change) and change[end + 1] * sign >= TURN_RAD:
            end += 1
        marks.append(_bend(places, heading, index, min(end + window, len(heading) - 1)))
        index = end + window + 1
    return marks


def _bend(places: np.ndarray, heading: np.ndarray, first: int, last: int) -> Mark:
    total = float(heading[last] - heading[first])
    turned = np.abs(heading[first : last + 1] - heading[first])
    left = np.abs(heading[last] - heading[first : last + 1])
    start = first + int(np.argmax(turned > EDGE_RAD))
    end = first + len(left) - int(np.argmax(left[::-1] > EDGE_RAD))
    kind = CommandKind.LEFT if total > 0.0 else CommandKind.RIGHT
    kind = CommandKind.U_TURN if abs(total) >= U_TURN_RAD else kind
    return Mark(float(places[start]), float(places[min(end, last)]), kind)
