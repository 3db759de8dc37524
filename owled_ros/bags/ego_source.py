"""Ego states out of the messages that a bag has for them, whatever those are. Needs bags.ego_topics.

A twist is believed as long as the pose in the same message does not contradict it (driving.twist_check). To know that, states
wait for a moment; those that are contradicted are left out, counted, and said.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rosbags.interfaces import Connection

from owled_ros.bags import message_types as types
from owled_ros.bags.conversions import ACCELERATION_CONVERTERS, EGO_CONVERTERS, pose_of, unstamped_twist_to_ego
from owled_ros.bags.ego_topics import CAN, GNSS, POSE, TWIST
from owled_ros.bags.pose_motion import LocalPlane, PoseMotion
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.topics import TopicChoice
from owled_ros.driving.frame import NANOSECONDS, EgoState
from owled_ros.driving.twist_check import TwistCheck

NEAR = NANOSECONDS // 10  # [ns] between a state and the acceleration or yaw rate that belongs to it
WAIT_S = 0.6  # half of what the check looks at: a state is judged by what is around it
DECIDED_S = 1.3  # of poses, then the check knows enough
PLACES_WAIT_S = 1.7  # the next satellite fix
FIX_GAP_S = 1.1  # satellite fixes may be this far apart on each side
POSE_BESIDE = NANOSECONDS // 5  # [ns] between a twist and the pose of another topic
MAX_TIRE_ANGLE = 1.57  # [rad]
NO_FIX = -1  # NavSatStatus
BESIDE = 4096  # accelerations and yaw rates that are kept for states that wait


class EgoSource:
    """Takes the messages in the order of the recording; gives states in the order of their stamps, a moment later."""

    def __init__(self, topics: TopicChoice) -> None:
        self.contradicted = 0  # states left out
        self.contradiction = ""  # the first one, in words
        self._topics = topics
        self._judged = topics.ego_kind == TWIST and (topics.ego_type == types.ODOMETRY or topics.pose != "")
        self._accelerations: deque[tuple[int, float]] = deque(maxlen=BESIDE)
        self._yaw_rates: deque[tuple[int, float]] = deque(maxlen=BESIDE)
        self._tire_angles: deque[tuple[int, float]] = deque(maxlen=BESIDE)
        self._plane = LocalPlane()
        self._motion = PoseMotion(course=topics.ego_kind == GNSS)
        self._readers: dict[str, Callable[[Any, int], list[EgoState]]] = {
            TWIST: self._from_twist, POSE: self._from_pose, GNSS: self._from_fix, CAN: self._from_speed
        }  # fmt: skip
        self.clear()

    @property
    def delay_s(self) -> float:
        """How much later than its message a state comes, at most."""
        return WAIT_S if self._judged else PLACES_WAIT_S if self._topics.ego_kind in (POSE, GNSS) else 0.0

    @property
    def waits_since(self) -> int | None:
        """Stamp [ns] of the first state that was heard of and has not come; None when none waits."""
        return self._waiting[0].stamp if self._waiting else self._motion.waits_since

    def is_part(self, connection: Connection) -> bool:
        """Tell whether the ego motion is made of this topic."""
        topics = self._topics
        return connection.topic in (topics.ego, topics.pose, topics.acceleration, topics.gyro)

    def add(self, connection: Connection, message: Any, stamp: int) -> list[EgoState]:
        """Take one message with its stamp [ns]; returns the states that are ready."""
        topics = self._topics
        if connection.topic == topics.ego:
            return [self._completed(state) for state in self._readers[topics.ego_kind](message, stamp)]
        if connection.topic == topics.pose:
            self._hear_pose(connection, message, stamp)
        elif connection.topic == topics.acceleration:
            self._accelerations.append((stamp, ACCELERATION_CONVERTERS[connection.msgtype](message)))
        else:
            self._yaw_rates.append((stamp, float(message.angular_velocity.z)))
        return []

    def hear_steering(self, stamp: int, tire_angle: float) -> None:
        """Take a measured tire angle [rad]; one that cannot be is left out."""
        if abs(tire_angle) <= MAX_TIRE_ANGLE:  # NaN is not
            self._tire_angles.append((stamp, tire_angle))

    def state_of(self, message: Any, stamp: int) -> EgoState:
        """Convert a twist as it is, unchecked."""
        return EGO_CONVERTERS[self._topics.ego_type](message, stamp)

    def hurry(self) -> list[EgoState]:
        """Return the states that still wait, by what is known so far."""
        waiting = list(self._motion.finish())
        if not self._decided:
            self._problem = self._check.problem()
        while self._waiting:
            waiting.extend(self._passed(self._waiting.popleft()))
        return [self._completed(state) for state in waiting]

    def finish(self) -> list[EgoState]:
        """Return the states that still wait: nothing more comes, or the clock ran backwards; starts over."""
        waiting = self.hurry()
        self.clear()
        return waiting

    def clear(self) -> None:
        """Forget everything."""
        self._accelerations.clear()
        self._yaw_rates.clear()
        self._tire_angles.clear()
        self._motion.finish()
        self._check = TwistCheck()
        self._waiting: deque[EgoState] = deque()
        self._since: int | None = None  # [ns], first state since the last gap
        self._newest = 0
        self._decided = False
        self._problem = ""
        self._told: tuple[EgoState, float] | None = None  # the newest twist, and its speed to the left [m/s]

    def _from_twist(self, message: Any, stamp: int) -> list[EgoState]:
        unstamped = self._topics.ego_type == types.UNSTAMPED_TWIST
        state = unstamped_twist_to_ego(message, stamp) if unstamped else self.state_of(message, stamp)
        if not self._judged:
            return [state]
        self._judge(state, _lateral(message))
        ready = []
        while self._decided and self._waiting and self._waiting[0].stamp <= stamp - round(WAIT_S * NANOSECONDS):
            ready.extend(self._passed(self._waiting.popleft()))
        return ready

    def _judge(self, state: EgoState, lateral: float) -> None:
        self._waiting.append(state)
        if self._since is None or not 0 <= state.stamp - self._newest < NANOSECONDS:
            self._since = state.stamp
        self._newest = state.stamp
        self._told = (state, lateral)
        if state.is_finite() and math.isfinite(lateral):
            self._check.add(state, lateral)
        known = state.stamp - self._since >= round(DECIDED_S * NANOSECONDS)
        if known:
            self._problem = self._check.problem()
        self._decided = self._decided or known

    def _hear_pose(self, connection: Connection, message: Any, stamp: int) -> None:
        """Put the pose of another topic beside the newest twist."""
        pose = pose_of(message.pose if connection.msgtype == types.POSE else message.pose.pose)
        if pose is None or self._told is None or abs(self._told[0].stamp - stamp) > POSE_BESIDE:
            return
        state, lateral = self._told
        if state.is_finite() and math.isfinite(lateral):
            self._check.add(replace(state, stamp=stamp, pose=pose), lateral)

    def _passed(self, state: EgoState) -> list[EgoState]:
        """Let a state through unless its twist is contradicted."""
        if self._problem:
            self.contradicted += 1
            self.contradiction = self.contradiction or self._problem
            return []
        return [replace(state, pose=None) if self._check.pose_is_dead else state]

    def _from_pose(self, message: Any, stamp: int) -> list[EgoState]:
        pose = pose_of(message.pose if self._topics.ego_type == types.POSE else message.pose.pose)
        if pose is None:
            return []
        before = self._motion.sideways
        states = self._motion.add(stamp, pose)
        self.contradicted += self._motion.sideways - before
        if self._motion.sideways:
            self.contradiction = self.contradiction or "the pose moves sideways to its own heading"
        return states

    def _from_fix(self, message: Any, stamp: int) -> list[EgoState]:
        if message.status.status <= NO_FIX or not math.isfinite(message.latitude + message.longitude):
            return []
        return self._motion.add(stamp, self._plane.pose(message.latitude, message.longitude))

    def _from_speed(self, message: Any, stamp: int) -> list[EgoState]:
        assert self._topics.speed is not None
        return [EgoState(stamp, *self._topics.speed.read(message))]

    def _completed(self, state: EgoState) -> EgoState:
        """Add what other topics measure."""
        if (yaw_rate := _nearest(self._yaw_rates, state.stamp)) is not None:
            state = replace(state, yaw_rate=yaw_rate)
        acceleration = _nearest(self._accelerations, state.stamp)
        state = replace(state, steering_tire_angle=_nearest(self._tire_angles, state.stamp))
        return state if acceleration is None else replace(state, acceleration=acceleration)


def _lateral(message: Any) -> float:
    """Return the speed to the left [m/s] that a twist or a velocity report tells."""
    if hasattr(message, "lateral_velocity"):
        return float(message.lateral_velocity)
    twist = getattr(message, "twist", message)
    return float(getattr(twist, "twist", twist).linear.y)


def ego_gap_s(topics: TopicChoice, options: ReadOptions) -> float:
    """Return how far [s] an image may be from the nearest ego state."""
    return max(options.max_ego_gap_s, FIX_GAP_S) if topics.ego_kind == GNSS else options.max_ego_gap_s


def contradiction_note(source: EgoSource, topics: TopicChoice) -> str:
    """Say that states were left out, why, and what can be done."""
    way_out = "take another topic with --ego-topic"
    if topics.ego_type == types.ODOMETRY and topics.ego_kind == TWIST:
        way_out = f"take speed and yaw rate from its pose with --ego-from pose, or {way_out}"
    elif topics.pose:
        way_out = f"its pose is that of {topics.pose}: --ego-from pose --ego-topic {topics.pose} takes that, --ego-from twist believes the twist"
    return f"{source.contradicted} states of {topics.ego} are left out: {source.contradiction}; {way_out}"


def _nearest(values: deque[tuple[int, float]], stamp: int) -> float | None:
    """Return the value measured nearest to a stamp [ns], within NEAR."""
    best = None
    for at, value in reversed(values):
        if best is None or abs(at - stamp) < abs(best[0] - stamp):
            best = (at, value)
        elif at < stamp - NEAR:
            break
    return best[1] if best is not None and abs(best[0] - stamp) <= NEAR else None
