"""The motion of the vehicle itself: state, pose, and the recent past of both. Needs nothing.

Frames: base_link, x forward, y left; angles left positive; poses in a fixed frame (odom or map). Stamps are nanoseconds of
the message clock.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

NANOSECONDS = 1_000_000_000
MIN_ROTATION = 0.5  # squared norm of a quaternion that is one
LATE_S = 1.0  # states out of order by no more than this are put in their place; more is a clock that started over
SLOPE_S = 0.25  # half width of the window from which a missing acceleration is taken
JUMP_M = 1.0  # [m] that a pose may be off from where the speed would have taken it
JUMP_SHARE = 0.5  # of the distance driven, added to JUMP_M: slip, curves and poor speeds are no jump


@dataclass(frozen=True)
class Pose:
    """Place and heading in a fixed frame, or in base_link of another moment."""

    x: float  # [m]
    y: float  # [m]
    heading: float  # [rad], left positive

    def seen_from(self, origin: Pose) -> Pose:
        """Express this pose in base_link of `origin`."""
        dx, dy = self.x - origin.x, self.y - origin.y
        cos, sin = math.cos(origin.heading), math.sin(origin.heading)
        return Pose(cos * dx + sin * dy, cos * dy - sin * dx, wrapped(self.heading - origin.heading))

    def is_finite(self) -> bool:
        """Tell whether every number can be used."""
        return all(math.isfinite(value) for value in (self.x, self.y, self.heading))


@dataclass(frozen=True)
class EgoState:
    """Motion of the vehicle at one moment."""

    stamp: int  # [ns]
    speed: float  # [m/s], forward positive
    yaw_rate: float = 0.0  # [rad/s], left positive
    acceleration: float | None = None  # [m/s2] along x; None where nothing measures it
    pose: Pose | None = None  # None where the source has none
    steering_tire_angle: float | None = None  # [rad], left positive; None where nothing measures it

    def is_finite(self) -> bool:
        """Tell whether every number can be used."""
        rest = (self.acceleration or 0.0, self.steering_tire_angle or 0.0, self.speed, self.yaw_rate)
        return all(math.isfinite(value) for value in rest) and (self.pose is None or self.pose.is_finite())


class EgoHistory:
    """The last ego states in order of their stamps; answers with the state at any recent moment."""

    def __init__(self, capacity: int = 400) -> None:
        self._states: list[EgoState] = []
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._states)

    def add(self, state: EgoState) -> bool:
        """Store a state in its place; one far behind the newest clears the history first. Returns False when it did."""
        newest = self.newest
        jumped = newest is not None and state.stamp < newest.stamp - round(LATE_S * NANOSECONDS)
        if jumped:
            self._states.clear()
        if not self._states or state.stamp > self._states[-1].stamp:
            self._states.append(state)
        else:
            place = bisect.bisect_left(self._states, state.stamp, key=_stamp)
            same = place < len(self._states) and self._states[place].stamp == state.stamp
            self._states[place : place + same] = [state]
        if len(self._states) > 2 * self._capacity:  # trimmed rarely, so that adding costs the same always
            del self._states[: -self._capacity]
        return not jumped

    def amend(self, since: int, until: int, **measured: float) -> None:
        """Give the states from `since` to `until` [ns] what was measured with them and came later."""
        first = bisect.bisect_left(self._states, since, key=_stamp)
        last = bisect.bisect_right(self._states, until, key=_stamp)
        for place in range(first, last):
            self._states[place] = replace(self._states[place], **measured)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()

    @property
    def newest(self) -> EgoState | None:
        """The state with the latest stamp."""
        return self._states[-1] if self._states else None

    def at(self, stamp: int, max_gap: int) -> EgoState | None:
        """Interpolate linearly to `stamp` [ns]; beyond the ends the nearest state holds for `max_gap` [ns], then None.

        A pose beyond the ends moves on with the speed.
        """
        place = bisect.bisect_right(self._states, stamp, key=_stamp)
        before = self._states[place - 1] if place else None
        after = self._states[place] if place < len(self._states) else None
        return _between(before, after, stamp, max_gap)

    def with_acceleration(self, state: EgoState) -> EgoState:
        """Fill in an acceleration that nothing measured: the slope of the speeds around."""
        return state if state.acceleration is not None else replace(state, acceleration=self._slope(state.stamp))

    def past(self, stamp: int, offsets_s: Sequence[float], max_gap: int) -> tuple[EgoState, ...] | None:
        """Return the states at `stamp` - offset for every offset [s]; None when one of them is unknown.

        Poses are given in base_link of `stamp`; None where the source has none.
        """
        now = self.at(stamp, max_gap)
        found = [self.at(stamp - round(offset * NANOSECONDS), max_gap) for offset in offsets_s]
        if now is None or any(state is None for state in found):
            return None
        return tuple(self.with_acceleration(_seen_from(state, now)) for state in found if state is not None)

    def pose_jump(self, stamp: int, window_s: float) -> float:
        """Return by how much [m] a pose in the last `window_s` lies off where speed and heading led; 0 when none does.

        A relocalisation moves the pose without the vehicle moving: what was before it must not be put beside what comes after.
        """
        begin = stamp - round(window_s * NANOSECONDS)  # the state before it counts: poses between are made of both
        first = max(bisect.bisect_right(self._states, begin, key=_stamp) - 1, 0)
        last = bisect.bisect_right(self._states, stamp, key=_stamp)
        worst = 0.0
        for before, after in zip(self._states[first:last], self._states[first + 1 : last], strict=False):
            if before.pose is None or after.pose is None:
                continue
            driven = 0.5 * (before.speed + after.speed) * (after.stamp - before.stamp) / NANOSECONDS
            heading = 0.5 * (
                before.pose.heading + before.pose.heading + wrapped(after.pose.heading - before.pose.heading)
            )
            expected = (before.pose.x + driven * math.cos(heading), before.pose.y + driven * math.sin(heading))
            off = math.dist(expected, (after.pose.x, after.pose.y))
            if off > JUMP_M + JUMP_SHARE * abs(driven):
                worst = max(worst, off)
        return worst

    def _slope(self, stamp: int) -> float | None:
        """Fit a straight line through the speeds around (least squares)."""
        half = round(SLOPE_S * NANOSECONDS)
        first = bisect.bisect_left(self._states, stamp - 2 * half, key=_stamp)
        last = bisect.bisect_right(self._states, stamp + half, key=_stamp)
        near = self._states[first:last]
        if len(near) < 2:
            return None
        times = [(state.stamp - stamp) / NANOSECONDS for state in near]
        mean_time, mean_speed = sum(times) / len(near), sum(state.speed for state in near) / len(near)
        spread = sum((time - mean_time) ** 2 for time in times)
        if spread <= 0.0:
            return None
        return (
            sum((time - mean_time) * (state.speed - mean_speed) for time, state in zip(times, near, strict=True))
            / spread
        )


def yaw_of(orientation: Any) -> float:
    """Return the heading [rad] of a geometry_msgs/Quaternion; NaN where its numbers are beyond all measure."""
    q = orientation  # ** would raise where a square is infinite
    return math.atan2(2.0 * (q.w * q.z + q.x * q.y), 1.0 - 2.0 * (q.y * q.y + q.z * q.z))


def squared_norm(orientation: Any) -> float:
    """Return the squared norm of a geometry_msgs/Quaternion: 1 for a rotation, 0 where the source fills in none."""
    q = orientation
    return float(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w)


def wrapped(angle: float) -> float:
    """Bring an angle [rad] into (-pi, pi]."""
    return math.pi - (math.pi - angle) % (2.0 * math.pi)


def _stamp(state: EgoState) -> int:
    return state.stamp


def _seen_from(state: EgoState, now: EgoState) -> EgoState:
    pose = None if state.pose is None or now.pose is None else state.pose.seen_from(now.pose)
    return replace(state, pose=pose)


def _between(before: EgoState | None, after: EgoState | None, stamp: int, max_gap: int) -> EgoState | None:
    if before is None or after is None or after.stamp - before.stamp > 2 * max_gap:
        near = [state for state in (before, after) if state is not None and abs(state.stamp - stamp) <= max_gap]
        return _moved(min(near, key=lambda state: abs(state.stamp - stamp)), stamp) if near else None
    share = (stamp - before.stamp) / max(after.stamp - before.stamp, 1)
    return EgoState(
        stamp,
        before.speed + share * (after.speed - before.speed),
        before.yaw_rate + share * (after.yaw_rate - before.yaw_rate),
        _mixed(before.acceleration, after.acceleration, share),
        _mixed_pose(before.pose, after.pose, share),
        _mixed(before.steering_tire_angle, after.steering_tire_angle, share),
    )


def _moved(state: EgoState, stamp: int) -> EgoState:
    """Carry a state on to another stamp with constant speed and yaw rate."""
    if state.pose is None:
        return replace(state, stamp=stamp)
    seconds = (stamp - state.stamp) / NANOSECONDS
    turned, driven = state.yaw_rate * seconds, state.speed * seconds
    middle = state.pose.heading + 0.5 * turned
    pose = Pose(
        state.pose.x + driven * math.cos(middle),
        state.pose.y + driven * math.sin(middle),
        wrapped(state.pose.heading + turned),
    )
    return replace(state, stamp=stamp, pose=pose)


def _mixed(before: float | None, after: float | None, share: float) -> float | None:
    return None if before is None or after is None else before + share * (after - before)


def _mixed_pose(before: Pose | None, after: Pose | None, share: float) -> Pose | None:
    if before is None or after is None:
        return None
    heading = wrapped(before.heading + share * wrapped(after.heading - before.heading))
    return Pose(before.x + share * (after.x - before.x), before.y + share * (after.y - before.y), heading)
