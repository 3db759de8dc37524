"""From an image message to an action or the reason why there is none: the ladder of the driving node. Needs numpy, no ROS.

Every rung can fail; whatever fails names its reason, and no action leaves. The first rungs cost microseconds, so a
image that cannot be used never reaches the model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from owled_ros.driving.engine import Engine
from owled_ros.driving.frame import NANOSECONDS, EgoHistory, EgoState, Frame
from owled_ros.driving.prediction import ActionAnswer, ModelIdentity, Reason, withhold_below
from owled_ros.errors import OwledError

DAY_S = 86_400.0
MAX_AHEAD_S = 1.0  # stamps farther in the future are of another clock
OTHER_CLOCK_S = 3_600.0  # stamps older than this are of another clock, not late
MAX_SPEED = 150.0  # [m/s]
MAX_YAW_RATE = 10.0  # [rad/s]
NO_MODEL = ModelIdentity("")


@dataclass(frozen=True)
class Limits:
    """What counts as too old, too late, too unsure."""

    max_frame_age_s: float
    max_ego_gap_s: float
    deadline_s: float
    confidence_floor: float  # [0, 1]; below 0: what the model recommends


@dataclass(frozen=True)
class Arrival:
    """An image message as it came in; decoding waits until it is the newest."""

    message: Any
    stamp: int  # [ns]
    arrived: float  # [s] monotonic
    frame_id: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    stamp: int  # [ns]
    frame_id: str
    reason: Reason
    detail: str
    frame: Frame | None = None
    answer: ActionAnswer | None = None
    identity: ModelIdentity = NO_MODEL
    frame_age_s: float = 0.0  # ROS clock, from the stamp to now
    latency_ms: float = 0.0  # monotonic, from the arrival to now
    decode_ms: float = 0.0
    inference_ms: float = 0.0

    @property
    def valid(self) -> bool:
        """True when an action may be published."""
        return self.reason is Reason.VALID


class Ladder:
    """Climbs the rungs for one image after the other; the engine may be exchanged between two of them."""

    def __init__(self, decode: Callable[[Any], np.ndarray], now: Callable[[], int]) -> None:
        """Take a decoder of image messages and the ROS clock [ns]."""
        self.engine: Engine | None = None
        self.clock_jumps = 0
        self.prefix: Any = None  # of the last image that the engine saw
        self.frame: Frame | None = None  # the last image that was decoded
        self.last_error = ""  # original words of the last failed inference
        self._decode, self._now = decode, now
        self._last_stamp: int | None = None
        self._ego = EgoHistory()
        self._bad_ego = ""  # what is wrong about the newest odometry
        self._lock = threading.Lock()  # ego states come from another thread

    def hear(self, ego: EgoState) -> None:
        """Take an ego state; one that cannot be used is remembered as such until a better one comes."""
        problem = problem_of(ego)
        with self._lock:
            self._bad_ego = problem
            if not problem:
                self.clock_jumps += not self._ego.add(ego)

    def climb(self, arrival: Arrival, limits: Limits) -> Outcome:
        """Try to get an action out of an image."""
        self.prefix = None
        base = Outcome(arrival.stamp, arrival.frame_id, Reason.UNKNOWN, "")
        self._follow_clock(arrival)
        failed = self._check_time(arrival, limits)
        if failed:
            return self._timed(replace(base, reason=failed[0], detail=failed[1]), arrival)
        started = time.monotonic()
        try:
            image = self._decode(arrival.message)
        except (OwledError, ValueError, TypeError, AttributeError, MemoryError) as error:
            return self._timed(replace(base, reason=Reason.BAD_IMAGE, detail=str(error)), arrival)
        decoded = time.monotonic()
        base = replace(base, decode_ms=(decoded - started) * 1e3)
        ego, reason, detail = self._ego_at(arrival.stamp, limits.max_ego_gap_s)
        if ego is None:
            return self._timed(replace(base, reason=reason, detail=detail), arrival)
        frame = self.frame = Frame(image, arrival.stamp, ego, arrival.frame_id)
        base = replace(base, frame=frame)
        if self.engine is None:
            return self._timed(replace(base, reason=Reason.MODEL_NOT_READY, detail="no model is loaded"), arrival)
        base = replace(base, identity=self.engine.identity)
        return self._judge(self._infer(self.engine, frame, base), arrival, limits)

    def _infer(self, engine: Engine, frame: Frame, base: Outcome) -> Outcome:
        started = time.monotonic()
        try:
            prefix = engine.see(frame)
            answer = engine.act(prefix)
        except Exception as error:  # whatever a model raises, the node lives and keeps the words
            self.last_error = f"{type(error).__name__}: {error}"
            reason = Reason.OUT_OF_MEMORY if is_out_of_memory(error) else Reason.INFERENCE_ERROR
            return replace(base, reason=reason, detail=self.last_error)
        self.prefix = prefix
        return replace(
            base,
            reason=answer.reason,
            detail=answer.detail,
            answer=answer,
            inference_ms=(time.monotonic() - started) * 1e3,
        )

    def _judge(self, outcome: Outcome, arrival: Arrival, limits: Limits) -> Outcome:
        """Withhold what the model is unsure about and what comes too late."""
        outcome = self._timed(outcome, arrival)
        if outcome.answer is None or self.engine is None:
            return outcome
        floor = limits.confidence_floor if limits.confidence_floor >= 0.0 else recommended_floor(self.engine)
        answer = withhold_below(outcome.answer, floor)
        late = max(outcome.frame_age_s, outcome.latency_ms / 1e3)
        if answer.valid and late > limits.deadline_s:
            detail = f"the action came {late:.3f} s after the image; the deadline is {limits.deadline_s:g} s"
            answer = replace(answer, action=None, reason=Reason.LATE, detail=detail)
        return replace(outcome, answer=answer, reason=answer.reason, detail=answer.detail)

    def _timed(self, outcome: Outcome, arrival: Arrival) -> Outcome:
        return replace(
            outcome,
            frame_age_s=(self._now() - arrival.stamp) / NANOSECONDS,
            latency_ms=(time.monotonic() - arrival.arrived) * 1e3,
        )

    def _follow_clock(self, arrival: Arrival) -> None:
        """Count stamps that run backwards, as when a bag begins anew; ego states of the old time are too far away by then."""
        if self._last_stamp is not None and arrival.stamp < self._last_stamp:
            self.clock_jumps += 1
        self._last_stamp = arrival.stamp

    def _check_time(self, arrival: Arrival, limits: Limits) -> tuple[Reason, str] | None:
        now = self._now()
        age = (now - arrival.stamp) / NANOSECONDS
        if now == 0:
            return Reason.CLOCK_JUMP, "use_sim_time is set, but no /clock has come; play the bag with --clock"
        if age > OTHER_CLOCK_S:
            hint = "play the bag with --clock and set use_sim_time"
            return Reason.CLOCK_JUMP, f"the image's stamp is {_long(age)} older than the node's clock; {hint}"
        if age < -MAX_AHEAD_S:
            hint = "is use_sim_time set on one side only?"
            return Reason.CLOCK_JUMP, f"the image's stamp is {_long(-age)} ahead of the node's clock; {hint}"
        if age > limits.max_frame_age_s:
            return Reason.STALE_IMAGE, f"the image is {age:.3f} s old; the limit is {limits.max_frame_age_s:g} s"
        return None

    def _ego_at(self, stamp: int, max_gap_s: float) -> tuple[EgoState | None, Reason, str]:
        with self._lock:
            newest, ego = self._ego.newest, self._ego.at(stamp, round(max_gap_s * NANOSECONDS))
            bad = self._bad_ego
        if bad:
            return None, Reason.BAD_EGO, bad
        if newest is None:
            return None, Reason.NO_EGO, "no odometry has come"
        if ego is None:
            gap = (stamp - newest.stamp) / NANOSECONDS
            side = "older than" if gap > 0 else "newer than"
            detail = f"the newest odometry is {_long(abs(gap))} {side} the image; the limit is {max_gap_s:g} s"
            return None, Reason.STALE_EGO, detail
        return ego, Reason.VALID, ""


def problem_of(ego: EgoState) -> str:
    """Say what is wrong about an ego state; empty when it can be used."""
    if not ego.is_finite():
        return f"odometry holds numbers that are none: speed {ego.speed} m/s, yaw rate {ego.yaw_rate} rad/s"
    if abs(ego.speed) > MAX_SPEED or abs(ego.yaw_rate) > MAX_YAW_RATE:
        return f"odometry is impossible: speed {ego.speed:g} m/s, yaw rate {ego.yaw_rate:g} rad/s"
    return ""


def recommended_floor(engine: Engine) -> float:
    """Return the confidence floor [0, 1] that a model brings with it; 0 when it brings none."""
    profile = getattr(engine, "profile", None)
    return float(profile.confidence.floor) if profile is not None else 0.0


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception of a model means that memory ran out (torch raises RuntimeError on the CPU)."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def _long(seconds: float) -> str:
    return f"{seconds / DAY_S:.1f} days" if seconds > DAY_S else f"{seconds:.1f} s"
