"""Speed and yaw rate out of places alone: a pose without a twist, or satellite fixes. Needs driving.ego.

Each state is taken from its neighbours about SPAN_S before and behind. A relocalisation moves the place without the vehicle
moving, so of two sides that disagree the one that continues as before counts.
"""

from __future__ import annotations

import math
from collections import deque

from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose, wrapped

SPAN_S = 0.1
MAX_STEP_S = 1.6  # neighbours further apart do not belong together
LEAP_MPS, LEAP_SHARE = 3.0, 0.5  # by which two sides may differ
LEAP_SPEED = 100.0  # [m/s], faster is a relocalisation
SIDEWAYS = 0.5  # cosine of 60 degrees between heading and course
MOVING_MPS = 1.0  # slower, the course of a satellite fix is noise
EARTH_RADIUS = 6_378_137.0  # [m], WGS 84


class PoseMotion:
    """Takes places in the order of their stamps, gives the states that are complete."""

    def __init__(self, course: bool = False) -> None:
        """With `course` the heading is where the vehicle moves to, not what the pose says."""
        self.sideways = 0  # states left out: the vehicle moves across its own heading
        self._course = course
        self._places: deque[tuple[int, Pose]] = deque()
        self._next = 0  # place of the one whose state comes next
        self._speed: float | None = None
        self._heading: float | None = None

    @property
    def waits_since(self) -> int | None:
        """Stamp [ns] of the first place whose state is not complete; None when there is none."""
        return self._places[self._next][0] if self._next < len(self._places) else None

    def add(self, stamp: int, pose: Pose) -> list[EgoState]:
        """Take a place at `stamp` [ns]; returns the states that it completes."""
        if self._places and stamp <= self._places[-1][0]:
            return []
        self._places.append((stamp, pose))
        span = round(SPAN_S * NANOSECONDS)
        done = []
        while self._next < len(self._places) and self._places[self._next][0] + span <= stamp:
            done.append(self._state())
        return [state for state in done if state is not None]

    def finish(self) -> list[EgoState]:
        """Return the last states, and start over."""
        done = []
        while self._next < len(self._places):
            done.append(self._state())
        self._places.clear()
        self._next, self._speed = 0, None
        return [state for state in done if state is not None]

    def _state(self) -> EgoState | None:
        number = self._next
        self._next += 1
        stamp, pose = self._places[number]
        before, behind = self._neighbour(number, -1), self._neighbour(number, 1)
        sides = [side for side in ((before, number), (number, behind)) if side[0] != side[1]]
        if not sides:
            return None
        moves = [self._move(*side) for side in sides]
        speeds = [move[0] for move in moves]
        leap = abs(speeds[0] - speeds[-1]) > LEAP_MPS + LEAP_SHARE * min(map(abs, speeds))
        if leap and self._speed is not None:
            usual = self._speed
            speed, yaw_rate, heading = min(moves, key=lambda move: abs(move[0] - usual))
        else:
            speed, yaw_rate, heading = self._move(before, behind)
        if not self._course and self._is_sideways(before, behind, speed):
            self.sideways += 1
            return None
        self._speed = speed
        if self._course:
            self._heading = heading if abs(speed) > MOVING_MPS or self._heading is None else self._heading
            pose = Pose(pose.x, pose.y, self._heading)
            yaw_rate = self._course_rate(before, number, behind)
        self._trim()
        return EgoState(stamp, speed, yaw_rate, pose=pose)

    def _is_sideways(self, before: int, behind: int, forward: float) -> bool:
        """Tell whether a place moves where no wheels roll: its heading is not that of the vehicle."""
        (start, origin), (end, goal) = self._places[before], self._places[behind]
        total = math.dist((origin.x, origin.y), (goal.x, goal.y)) * NANOSECONDS / (end - start)
        return MOVING_MPS < total < LEAP_SPEED and abs(forward) < SIDEWAYS * total

    def _neighbour(self, number: int, way: int) -> int:
        """Find the nearest place at least SPAN_S away, or the last one within MAX_STEP_S; the place itself where there is none."""
        stamp, found = self._places[number][0], number
        other = number + way
        while 0 <= other < len(self._places):
            seconds = abs(self._places[other][0] - stamp) / NANOSECONDS
            if seconds > MAX_STEP_S:
                break
            found = other
            if seconds >= SPAN_S:
                break
            other += way
        return found

    def _move(self, first: int, last: int) -> tuple[float, float, float]:
        """Return speed [m/s], yaw rate [rad/s] and course [rad] between two places."""
        (start, origin), (end, goal) = self._places[first], self._places[last]
        seconds = (end - start) / NANOSECONDS
        dx, dy = goal.x - origin.x, goal.y - origin.y
        course = math.atan2(dy, dx)
        turned = wrapped(goal.heading - origin.heading)
        if self._course:
            return math.hypot(dx, dy) / seconds, 0.0, course
        heading = origin.heading + 0.5 * turned
        return (dx * math.cos(heading) + dy * math.sin(heading)) / seconds, turned / seconds, course

    def _course_rate(self, before: int, number: int, behind: int) -> float:
        if before == number or behind == number:
            return 0.0
        (one, _, from_course), (two, _, to_course) = self._move(before, number), self._move(number, behind)
        seconds = (self._places[behind][0] - self._places[before][0]) / NANOSECONDS
        return wrapped(to_course - from_course) / (0.5 * seconds) if min(one, two) > MOVING_MPS else 0.0

    def _trim(self) -> None:
        oldest = self._places[self._next - 1][0] - round(MAX_STEP_S * NANOSECONDS)
        while self._next > 1 and self._places[0][0] < oldest:
            self._places.popleft()
            self._next -= 1


class LocalPlane:
    """Turns latitude and longitude into metres east and north of the first fix."""

    def __init__(self) -> None:
        self._origin: tuple[float, float] | None = None

    def pose(self, latitude: float, longitude: float) -> Pose:
        """Return the place of a fix [deg]."""
        here = (math.radians(latitude), math.radians(longitude))
        self._origin = self._origin or here
        east = EARTH_RADIUS * wrapped(here[1] - self._origin[1]) * math.cos(self._origin[0])
        return Pose(east, EARTH_RADIUS * (here[0] - self._origin[0]), 0.0)
