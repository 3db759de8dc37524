"""The ego motion of a frame: state of now and of the past, from odometry that may be poor. Needs nothing.

`ego_source` says where speed and yaw rate come from: "twist" (refused while the pose contradicts it), "pose" (its displacement),
or "auto" (the twist, and the pose while it contradicts the twist).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace

from owled_ros.driving.ego import NANOSECONDS, EgoHistory, EgoState
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import Reason
from owled_ros.driving.twist_check import TwistCheck
from owled_ros.onboard.withheld import WithheldError, long_time

TWIST, POSE, AUTO = EGO_SOURCES = ("twist", "pose", "auto")
CAPACITY = 2_000  # states; odometry comes in at most 200 times a second (nodes.inputs)
MAX_SPEED = 150.0  # [m/s]
MAX_YAW_RATE = 10.0  # [rad/s]
MAX_ACCELERATION = 50.0  # [m/s2]
ACCELERATION_GAP_S = 0.1  # between a measured acceleration and the state that gets it


class EgoMotion:
    """Hears odometry in one thread, answers in another."""

    def __init__(self, source: str = TWIST) -> None:
        self.jumps = 0  # states that began anew with an earlier time
        self.source = source
        self._history = EgoHistory(CAPACITY)
        self._check = TwistCheck()
        self._accelerations: deque[tuple[int, float]] = deque(maxlen=64)  # stamp [ns], [m/s2]
        self._bad = ""  # what is wrong about the newest odometry
        self._contradiction = ""  # what is wrong about its twist
        self._lock = threading.Lock()

    @property
    def contradiction(self) -> str:
        """How twist and pose contradict each other now; empty when they do not."""
        return self._contradiction

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._history.clear()
            self._check = TwistCheck()
            self._accelerations.clear()
            self._bad = self._contradiction = ""

    def hear(self, state: EgoState, lateral: float = 0.0) -> None:
        """Take an ego state; one that cannot be used is remembered as such until a better one comes."""
        problem = problem_of(state)
        with self._lock:
            if problem:
                self._bad = problem
                return
            self._check.add(state, lateral)
            self._contradiction = self._check.problem()
            used: EgoState | None = state
            if self.source == POSE or (self.source == AUTO and self._contradiction):
                used = self._check.from_pose(state)
                self._bad = "" if used is not None else "the odometry's pose does not say yet how fast the vehicle is"
            else:
                self._bad = self._contradiction if self.source == TWIST else ""
            if used is not None:
                self.jumps += not self._history.add(self._accelerated(used))

    def hear_acceleration(self, stamp: int, acceleration: float) -> None:
        """Take a measured acceleration [m/s2]; one that cannot be is left out."""
        if abs(acceleration) <= MAX_ACCELERATION:  # NaN is not
            with self._lock:
                self._accelerations.append((stamp, acceleration))

    def at(self, stamp: int, needs: InputNeeds, max_gap_s: float) -> tuple[EgoState, tuple[EgoState, ...]]:
        """Return the state at `stamp` [ns] and the past that is needed; raises WithheldError for what is missing."""
        gap = round(max_gap_s * NANOSECONDS)
        with self._lock:
            newest, now = self._history.newest, self._history.at(stamp, gap)
            past = self._history.past(stamp, needs.ego_offsets_s, gap) if needs.ego_offsets_s else ()
            jump = self._history.pose_jump(stamp, needs.ego_past_s) if needs.needs_pose else 0.0
            bad, dead = self._bad, self._check.pose_is_dead
            now = None if now is None else self._history.with_acceleration(now)
        if bad:
            raise WithheldError(Reason.BAD_EGO, bad)
        if newest is None:
            raise WithheldError(Reason.NO_EGO, "no odometry has come")
        if now is None:
            raise WithheldError(Reason.STALE_EGO, _gap_words(stamp, newest, max_gap_s))
        if past is None:
            words = f"there is no odometry of {needs.ego_past_s:g} s ago, which the model asks for (yet)"
            raise WithheldError(Reason.NO_HISTORY, words)
        if needs.needs_pose:
            _check_poses(now, past, dead, jump)
        return now, past

    def _accelerated(self, state: EgoState) -> EgoState:
        if state.acceleration is not None or not self._accelerations:
            return state
        stamp, value = min(self._accelerations, key=lambda item: abs(item[0] - state.stamp))
        near = abs(stamp - state.stamp) <= ACCELERATION_GAP_S * NANOSECONDS
        return replace(state, acceleration=value) if near else state


def problem_of(state: EgoState) -> str:
    """Say what is wrong about an ego state; empty when it can be used."""
    if not state.is_finite():
        return f"odometry holds numbers that are not finite: speed {state.speed} m/s, yaw rate {state.yaw_rate} rad/s"
    if abs(state.speed) > MAX_SPEED or abs(state.yaw_rate) > MAX_YAW_RATE:
        return f"odometry is impossible: speed {state.speed:g} m/s, yaw rate {state.yaw_rate:g} rad/s"
    return ""


def _check_poses(now: EgoState, past: tuple[EgoState, ...], dead: bool, jump: float) -> None:
    if now.pose is None or any(state.pose is None for state in past):
        raise WithheldError(Reason.BAD_EGO, "the odometry has no pose, which the model asks for")
    if dead:
        raise WithheldError(Reason.BAD_EGO, f"the odometry's pose stays where it is at a speed of {now.speed:.1f} m/s")
    if jump > 0.0:
        raise WithheldError(
            Reason.POSE_JUMP, f"the odometry's pose jumped by {jump:.1f} m within the past that the model asks for"
        )


def _gap_words(stamp: int, newest: EgoState, max_gap_s: float) -> str:
    gap = (stamp - newest.stamp) / NANOSECONDS
    side = "older than" if gap > 0 else "newer than"
    return f"the newest odometry is {long_time(abs(gap))} {side} the image; the limit is {max_gap_s:g} s"
