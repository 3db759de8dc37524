"""The ego motion of a frame: state of now and of the past, from odometry that may be poor. Needs nothing.

`ego_source` says where speed and yaw rate come from: "twist" (refused while the pose contradicts it), "pose" (its displacement),
"auto" (the twist, and the pose while it contradicts the twist), or "velocity_report" (the vehicle's own report; the odometry
gives the pose alone). With the first three a velocity report counts until the first odometry comes, and never after it.
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

TWIST, POSE, AUTO, REPORT = EGO_SOURCES = ("twist", "pose", "auto", "velocity_report")
CAPACITY = 2_000  # states; odometry comes in at most 200 times a second (nodes.inputs)
MAX_SPEED = 150.0  # [m/s]
MAX_YAW_RATE = 10.0  # [rad/s]
MAX_ACCELERATION = 50.0  # [m/s2]
MAX_TIRE_ANGLE = 1.57  # [rad]
MEASURED_GAP_S = 0.1  # between a measured acceleration, tire angle or pose and the state that gets it


class EgoMotion:
    """Hears odometry and reports in one thread, answers in another."""

    def __init__(self, source: str = TWIST) -> None:
        self.jumps = 0  # states that started over with an earlier time
        self.source = source
        self.frame_id = ""  # of the poses
        self.reported = False  # speed and yaw rate are those of velocity reports
        self._odometry = False  # some has come
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._history = EgoHistory(CAPACITY)
        self._poses = EgoHistory(CAPACITY)  # of the odometry, beside reports
        self._check = TwistCheck()
        self._accelerations: deque[tuple[int, float]] = deque(maxlen=64)  # stamp [ns], [m/s2]
        self._tire_angles: deque[tuple[int, float]] = deque(maxlen=64)  # stamp [ns], [rad]
        self._bad = ""  # what is wrong about the newest state
        self._contradiction = ""  # what is wrong about its twist

    @property
    def contradiction(self) -> str:
        """How twist and pose contradict each other now; empty when they do not."""
        return self._contradiction

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._begin()
            self.reported = self._odometry = False

    def hear(self, state: EgoState, lateral: float = 0.0, frame_id: str = "") -> None:
        """Take odometry; a state that cannot be used is remembered as such until a better one comes."""
        problem = problem_of(state)
        with self._lock:
            if self.source == REPORT:
                if not problem:
                    self.frame_id = frame_id
                    self._poses.add(state)
                return
            if self.reported:  # what a report said is not mixed with this
                self._begin()
                self.reported = False
            self._odometry, self.frame_id = True, frame_id
            self._take(state, lateral, problem, self.source)

    def hear_report(self, state: EgoState, lateral: float = 0.0) -> None:
        """Take a velocity report; it gets the pose of the odometry of that moment, where there is some."""
        problem = problem_of(state, "the velocity report")
        with self._lock:
            if self.source != REPORT and self._odometry:
                return
            self.reported = True
            beside = self._poses.at(state.stamp, round(MEASURED_GAP_S * NANOSECONDS))
            self._take(replace(state, pose=None if beside is None else beside.pose), lateral, problem, REPORT)

    def hear_acceleration(self, stamp: int, acceleration: float) -> None:
        """Take a measured acceleration [m/s2], whether it comes before or after its odometry; one that cannot be is left out."""
        if abs(acceleration) <= MAX_ACCELERATION:  # NaN is not
            with self._lock:
                self._history.amend(*_nearest_to(self._accelerations, stamp), acceleration=acceleration)
                self._accelerations.append((stamp, acceleration))

    def hear_steering(self, stamp: int, tire_angle: float) -> None:
        """Take a measured tire angle [rad]; one that cannot be is left out."""
        if abs(tire_angle) <= MAX_TIRE_ANGLE:  # NaN is not
            with self._lock:
                self._history.amend(*_nearest_to(self._tire_angles, stamp), steering_tire_angle=tire_angle)
                self._tire_angles.append((stamp, tire_angle))

    def state_at(self, stamp: int, max_gap_s: float) -> EgoState | None:
        """Return the state at `stamp` [ns] where it is known."""
        with self._lock:
            return self._history.at(stamp, round(max_gap_s * NANOSECONDS))

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
            what = "velocity report" if self.source == REPORT else "odometry"
            raise WithheldError(Reason.NO_EGO, f"no {what} has come")
        if now is None:
            raise WithheldError(Reason.STALE_EGO, _gap_words(stamp, newest, max_gap_s))
        if past is None:
            words = f"there is no odometry of {needs.ego_past_s:g} s ago, which the model asks for (yet)"
            raise WithheldError(Reason.NO_HISTORY, words)
        if needs.needs_acceleration and any(state.acceleration is None for state in (now, *past)):
            words = "one state of the ego motion tells no acceleration, which the model asks for (yet)"
            raise WithheldError(Reason.NO_HISTORY, words)
        if needs.needs_pose:
            _check_poses(now, past, dead, jump)
        return now, past

    def _take(self, state: EgoState, lateral: float, problem: str, source: str) -> None:
        if problem:
            self._bad = problem
            return
        self._check.add(state, lateral)
        self._contradiction = self._check.problem()
        if source == REPORT:
            self._contradiction = self._contradiction.replace("odometry's twist", "velocity report")
        used: EgoState | None = state
        if source == POSE or (source == AUTO and self._contradiction):
            used = self._check.from_pose(state)
            self._bad = "" if used is not None else "the odometry's pose does not say yet how fast the vehicle is"
        else:
            self._bad = self._contradiction if source in (TWIST, REPORT) else ""
        if used is not None:
            self.jumps += not self._history.add(self._completed(used))

    def _completed(self, state: EgoState) -> EgoState:
        """Add what other topics measured at that moment."""
        if state.acceleration is None:
            state = replace(state, acceleration=_near(self._accelerations, state.stamp))
        return replace(state, steering_tire_angle=_near(self._tire_angles, state.stamp))


def _near(values: deque[tuple[int, float]], stamp: int) -> float | None:
    at, value = min(values, key=lambda item: abs(item[0] - stamp), default=(0, 0.0))
    return value if values and abs(at - stamp) <= MEASURED_GAP_S * NANOSECONDS else None


def _nearest_to(values: deque[tuple[int, float]], stamp: int) -> tuple[int, int]:
    """Return from when to when [ns] a new value is the nearest; one that is late changes nothing."""
    gap = round(MEASURED_GAP_S * NANOSECONDS)
    before = values[-1][0] if values else stamp - 2 * gap
    return max(stamp - gap, (before + stamp + 1) // 2), (stamp + gap if before <= stamp else -1)


def problem_of(state: EgoState, what: str = "odometry") -> str:
    """Say what is wrong about an ego state; empty when it can be used."""
    if not state.is_finite():
        return f"{what} holds numbers that are not finite: speed {state.speed} m/s, yaw rate {state.yaw_rate} rad/s"
    if abs(state.speed) > MAX_SPEED or abs(state.yaw_rate) > MAX_YAW_RATE:
        return f"{what} is impossible: speed {state.speed:g} m/s, yaw rate {state.yaw_rate:g} rad/s"
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
