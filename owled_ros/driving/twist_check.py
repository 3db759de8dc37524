"""Does the odometry's twist say what its pose does? Finds a twist that stays zero or is given in the frame of the pose. Needs nothing.

Between two states the pose moves with a velocity; the twist, turned by the heading, should be the same. Medians over a second decide,
so that one relocalisation or one bad message does not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from statistics import median

from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose, wrapped

WINDOW_S = 1.0
STEP_S = 0.2  # poses are noisy: 10 cm of noise are 0.7 m/s over this time
MIN_STEPS = 4
ALLOWED_MPS = 1.0  # [m/s] that twist and pose may differ by
ALLOWED_SHARE = 0.3  # of the speed, added to ALLOWED_MPS
FIXED_SHARE = 0.25  # of what is off, that is left when the twist is taken to be in the frame of the pose
HELD_LEAP, HELD_SHARE = 1.5, 0.4  # a held pose leaps faster than the twist, and on the mean is as fast as it, roughly
STILL_M = 0.01  # a pose that moves less in all the window is not a pose
POSE_STEPS = 3  # of STEP_S, from which speed and yaw rate are taken where the twist is not used
POSE_LEAP_MPS = 3.0  # a step that differs more from its neighbours is a relocalisation


@dataclass(frozen=True)
class _Step:
    """What happened between two states."""

    stamp: int  # [ns], of the later one
    speed: float  # [m/s] of the pose, along the heading
    yaw_rate: float  # [rad/s] of the pose
    pose_speed: float  # [m/s] of the pose, in whatever direction
    twist_speed: float  # [m/s]
    off: float  # [m/s] between twist and pose, the twist in the vehicle's frame
    off_fixed: float  # the same, the twist in the frame of the pose


class TwistCheck:
    """Holds the last second; everything it says is about that."""

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._last: tuple[EgoState, float] | None = None  # and its lateral speed [m/s]

    def add(self, state: EgoState, lateral: float = 0.0) -> None:
        """Take a state; `lateral` is the twist's speed to the left [m/s]."""
        if state.pose is None:
            return
        if self._last is None:
            self._last = (state, lateral)
            return
        seconds = (state.stamp - self._last[0].stamp) / NANOSECONDS
        if not -STEP_S < seconds < WINDOW_S:  # another clock, or a gap
            self._steps.clear()
            self._last = (state, lateral)
        elif seconds >= STEP_S:
            self._steps.append(_step(*self._last, state, lateral, seconds))
            self._last = (state, lateral)
        while self._steps and self._steps[0].stamp < state.stamp - round((WINDOW_S + STEP_S) * NANOSECONDS):
            self._steps.popleft()

    @property
    def pose_is_dead(self) -> bool:
        """Tell whether the pose stays where it is although the twist says that the vehicle moves."""
        moved = sum(step.pose_speed * STEP_S for step in self._steps)
        return self._enough() and moved < STILL_M and median(step.twist_speed for step in self._steps) > ALLOWED_MPS

    def problem(self) -> str:
        """Say how twist and pose contradict each other; empty when they do not, or when there is no pose to tell."""
        if not self._enough() or self.pose_is_dead:
            return ""
        off, speed = median(step.off for step in self._steps), median(step.pose_speed for step in self._steps)
        twist = median(step.twist_speed for step in self._steps)
        if self._pose_is_held(twist):
            speed = sum(step.pose_speed for step in self._steps) / len(self._steps)
            off = 0.0 if twist >= HELD_SHARE * speed else speed
        fixed = median(step.off_fixed for step in self._steps)
        words = f"the odometry's twist says {twist:.1f} m/s while its pose moves at {speed:.1f} m/s"
        if off > ALLOWED_MPS < twist and fixed < FIXED_SHARE * off:
            return f"{words} in another direction: the twist is given in the frame of the pose, not in child_frame_id"
        return words if off > ALLOWED_MPS + ALLOWED_SHARE * max(speed, twist) else ""

    def from_pose(self, state: EgoState) -> EgoState | None:
        """Replace speed and yaw rate by those of the pose; None while too little is known."""
        last = list(self._steps)[-POSE_STEPS:]
        if state.pose is None or len(last) < POSE_STEPS or self.pose_is_dead:
            return None
        usual = min(last, key=lambda step: abs(step.speed - median(other.speed for other in last)))
        newest = last[-1] if abs(last[-1].speed - usual.speed) < POSE_LEAP_MPS else usual
        return replace(state, speed=newest.speed, yaw_rate=newest.yaw_rate)

    def _pose_is_held(self, twist: float) -> bool:
        """Tell whether the pose stands still between leaps: it is measured less often than the odometry is sent."""
        speeds = [step.pose_speed for step in self._steps]
        return min(speeds) == 0.0 and max(speeds) > HELD_LEAP * twist

    def _enough(self) -> bool:
        return len(self._steps) >= MIN_STEPS


def _step(before: EgoState, before_lateral: float, after: EgoState, after_lateral: float, seconds: float) -> _Step:
    assert before.pose is not None
    assert after.pose is not None
    turned = wrapped(after.pose.heading - before.pose.heading)
    middle = Pose(before.pose.x, before.pose.y, before.pose.heading + 0.5 * turned)
    moved = after.pose.seen_from(middle)
    forward, left = moved.x / seconds, moved.y / seconds
    twist = (0.5 * (before.speed + after.speed), 0.5 * (before_lateral + after_lateral))
    fixed = ((after.pose.x - before.pose.x) / seconds, (after.pose.y - before.pose.y) / seconds)
    return _Step(
        after.stamp,
        forward,
        turned / seconds,
        math.hypot(forward, left),
        math.hypot(*twist),
        math.dist(twist, (forward, left)),
        math.dist(twist, fixed),
    )
