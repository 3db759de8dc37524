"""From an image message to a trajectory or the reason why there is none: the ladder of the driving node. Needs numpy, no ROS.

Every rung can fail; whatever fails names its reason, and no action leaves. The first rungs cost microseconds, so an
image that cannot be used never reaches the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from owled_ros.devices import is_out_of_memory
from owled_ros.driving.around import Around, Localised, SurroundingsError
from owled_ros.driving.ego import NANOSECONDS, EgoState
from owled_ros.driving.engine import Engine, needs_of, recommended_floor
from owled_ros.driving.frame import Frame
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import ActionAnswer, ModelIdentity, Reason, withhold_below
from owled_ros.driving.surroundings import Surroundings
from owled_ros.driving.vector_frame import vectors_of
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.onboard.motion import EgoMotion
from owled_ros.onboard.route import Route
from owled_ros.onboard.views import Arrival, ImageViews
from owled_ros.onboard.withheld import WithheldError, long_time

__all__ = ["Arrival", "Ladder", "Limits", "Outcome", "is_out_of_memory", "needs_of"]
MAX_AHEAD_S = 0.5  # stamps farther in the future are of another clock; one that is taken holds off what comes before it
RESTART_S = 0.5  # a clock that falls by more began anew; by less it was set right, and stamps behind the last one wait
OTHER_CLOCK_S = 3_600.0  # stamps older than this are of another clock, not late
NO_MODEL = ModelIdentity("")


@dataclass(frozen=True)
class Limits:
    """What counts as too old, too late, too unsure."""

    max_frame_age_s: float
    max_ego_gap_s: float
    deadline_s: float
    confidence_floor: float  # [0, 1]; below 0: what the model recommends
    view_tolerance_s: float = 0.1  # between the stamp that a view should have and the one it has
    view_wait_s: float = 0.0  # for other cameras whose image is about to come
    command_timeout_s: float = 10.0
    vehicle: VehicleParameters = field(default_factory=VehicleParameters)  # what trajectories are held against
    simulated_time: bool = False  # only /clock tells what is late; how fast the machine is decides nothing


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
    calibrated: bool = False  # the confidence is a probability, not the raw score of the tokens

    @property
    def valid(self) -> bool:
        """True when an action may be published."""
        return self.reason is Reason.VALID


class Ladder:
    """Climbs the rungs for one image after the other; the engine may be exchanged between two of them."""

    def __init__(self, decode: Callable[[Any], np.ndarray], now: Callable[[], int], ego_source: str = "twist") -> None:
        """Take a decoder of image messages, the ROS clock [ns] and where the speed comes from (onboard.motion)."""
        self.views = ImageViews(decode)
        self.motion = EgoMotion(ego_source)
        self.route = Route()
        self.around = Around()
        self.prefix: Any = None  # of the last image that the engine saw
        self.frame: Frame | None = None  # the last image that was decoded
        self.last_error = ""  # original words of the last failed inference
        self._restarts = 0
        self._engine: Engine | None = None
        self._needs = InputNeeds()
        self._now = now
        self._clock = 0  # [ns], the latest time since it began (anew)
        self._last_stamp: int | None = None  # of the last image that the engine saw

    @property
    def engine(self) -> Engine | None:
        """The model that drives."""
        return self._engine

    @engine.setter
    def engine(self, engine: Engine | None) -> None:
        self._engine = engine
        self._needs = needs_of(engine)
        self.views.follow(self._needs)

    @property
    def clock_jumps(self) -> int:
        """How often images or ego states started over with an earlier time."""
        return self._restarts + self.motion.jumps

    def hear(self, ego: EgoState, lateral: float = 0.0, frame_id: str = "") -> None:
        """Take an ego state, the lateral speed [m/s] of its twist, and the frame of its pose."""
        self.motion.hear(ego, lateral, frame_id)

    def command(self, command: NavigationCommand | None, problem: str = "") -> None:
        """Take a navigation command, or the words why it cannot be used."""
        self.route.hear(command, problem)

    def forget(self) -> None:
        """Forget all that was heard."""
        self.views.clear()
        self.motion.clear()
        self.route.clear()
        self.around.clear()
        self._last_stamp = None

    def is_in_time(self, stamp: int, max_age_s: float) -> bool:
        """Tell whether an image of this stamp [ns] may be used now."""
        return -MAX_AHEAD_S <= (self._now() - stamp) / NANOSECONDS <= max_age_s

    def climb(self, arrival: Arrival, limits: Limits) -> Outcome:
        """Try to get a trajectory out of an image; whatever happens becomes an outcome with its reason."""
        self.prefix = None
        outcome = Outcome(arrival.stamp, arrival.frame_id, Reason.UNKNOWN, "")
        rungs = (
            (self._check_time, Reason.UNKNOWN),
            (self._look, Reason.BAD_IMAGE),
            (self._take_model, Reason.MODEL_NOT_READY),
            (self._infer, Reason.INFERENCE_ERROR),
            (self._judge, Reason.INFERENCE_ERROR),
        )
        for rung, otherwise in rungs:
            try:
                outcome = rung(outcome, arrival, limits)
            except WithheldError as withheld:
                return self._timed(replace(outcome, reason=withheld.reason, detail=str(withheld)), arrival)
            except Exception as error:  # whatever a message or a model brings, the node lives and keeps the words
                self.last_error = f"{type(error).__name__}: {error}"
                inferring = otherwise is Reason.INFERENCE_ERROR
                reason = Reason.OUT_OF_MEMORY if inferring and is_out_of_memory(error) else otherwise
                answer = (
                    None
                    if outcome.answer is None
                    else replace(outcome.answer, action=None, trajectory=None, reason=reason)
                )
                outcome = replace(outcome, reason=reason, detail=self.last_error, answer=answer)
                return self._timed(outcome, arrival)
        return outcome

    def _check_time(self, outcome: Outcome, arrival: Arrival, limits: Limits) -> Outcome:
        now = self._now()
        self._follow_clock(now)
        age = (now - arrival.stamp) / NANOSECONDS
        if now == 0:
            raise WithheldError(
                Reason.CLOCK_JUMP, "use_sim_time is set, but no /clock has come; play the bag with --clock"
            )
        if age > OTHER_CLOCK_S:
            words = f"the image's stamp is {long_time(age)} older than the node's clock"
            raise WithheldError(Reason.CLOCK_JUMP, f"{words}; play the bag with --clock and set use_sim_time")
        if age < -MAX_AHEAD_S:
            words = f"the image's stamp is {long_time(-age)} ahead of the node's clock"
            raise WithheldError(Reason.CLOCK_JUMP, f"{words}; is use_sim_time set on one side only?")
        if age > limits.max_frame_age_s:
            raise WithheldError(
                Reason.STALE_IMAGE, f"the image is {age:.3f} s old; the limit is {limits.max_frame_age_s:g} s"
            )
        if self._last_stamp is not None and arrival.stamp < self._last_stamp:
            behind = (self._last_stamp - arrival.stamp) / NANOSECONDS
            raise WithheldError(
                Reason.FALLING_STAMP,
                f"the image's stamp is {behind:.3f} s behind that of the image before; the clock did not restart",
            )
        return outcome

    def _follow_clock(self, now: int) -> None:
        """Start over when the node's clock restarts, as when a bag is played again or the clock was set back."""
        if now < self._clock - round(RESTART_S * NANOSECONDS):
            self._restarts += 1
            self._last_stamp = None
            self._clock = now
        self._clock = max(self._clock, now)

    def _look(self, outcome: Outcome, arrival: Arrival, limits: Limits) -> Outcome:
        """Put together what the profile asks for: images, ego states, command, what is around."""
        needs, started = self._needs, time.monotonic()
        image, views = self.views.gather(needs, arrival, limits.view_tolerance_s, limits.view_wait_s)
        outcome = replace(outcome, decode_ms=(time.monotonic() - started) * 1e3)
        ego, past = self.motion.at(arrival.stamp, needs, limits.max_ego_gap_s)
        command = self.route.at(arrival.stamp, needs, limits.command_timeout_s)
        around = self._look_around(arrival.stamp, limits)
        frame = self.frame = Frame(image, arrival.stamp, ego, arrival.frame_id, views, past, command, around)
        if needs.route is not None:  # what is no scene is said as that, and not as a model that failed
            try:
                vectors_of(frame)
            except OwledError as error:
                raise WithheldError(Reason.NO_SURROUNDINGS, str(error)) from error
        return replace(outcome, frame=frame)

    def _look_around(self, stamp: int, limits: Limits) -> Surroundings | None:
        vehicle = Localised(self.motion.frame_id, lambda at: self.motion.state_at(at, limits.max_ego_gap_s))
        try:
            return self.around.at(stamp, self._needs, vehicle)
        except SurroundingsError as error:
            reason = Reason.STALE_SURROUNDINGS if error.stale else Reason.NO_SURROUNDINGS
            raise WithheldError(reason, str(error)) from error

    def _take_model(self, outcome: Outcome, arrival: Arrival, limits: Limits) -> Outcome:
        if self.engine is None:
            raise WithheldError(Reason.MODEL_NOT_READY, "no model is loaded")
        if getattr(self.engine, "vehicle", limits.vehicle) != limits.vehicle:  # an engine that judges by the vehicle
            self.engine.vehicle = limits.vehicle  # type: ignore[attr-defined]
        return replace(outcome, identity=self.engine.identity, calibrated=is_calibrated(self.engine))

    def _infer(self, outcome: Outcome, arrival: Arrival, limits: Limits) -> Outcome:
        assert self.engine is not None
        assert outcome.frame is not None
        started = time.monotonic()
        self._last_stamp = arrival.stamp
        prefix = self.engine.see(outcome.frame)
        answer = self.engine.act(prefix)
        self.prefix = prefix
        inference_ms = (time.monotonic() - started) * 1e3
        return replace(outcome, reason=answer.reason, detail=answer.detail, answer=answer, inference_ms=inference_ms)

    def _judge(self, outcome: Outcome, arrival: Arrival, limits: Limits) -> Outcome:
        """Withhold what the model is unsure about and what comes too late."""
        assert self.engine is not None
        assert outcome.answer is not None
        answer = withhold_unsure(outcome.answer, self.engine, limits.confidence_floor)
        outcome = self._timed(outcome, arrival)
        late = outcome.frame_age_s if limits.simulated_time else max(outcome.frame_age_s, outcome.latency_ms / 1e3)
        if answer.valid and late > limits.deadline_s:
            detail = f"the action came {late:.3f} s after the image; the deadline is {limits.deadline_s:g} s"
            answer = replace(answer, action=None, trajectory=None, reason=Reason.LATE, detail=detail)
        return replace(outcome, answer=answer, reason=answer.reason, detail=answer.detail)

    def _timed(self, outcome: Outcome, arrival: Arrival) -> Outcome:
        return replace(
            outcome,
            frame_age_s=(self._now() - arrival.stamp) / NANOSECONDS,
            latency_ms=(time.monotonic() - arrival.arrived) * 1e3,
        )


def withhold_unsure(answer: ActionAnswer, engine: Engine, floor: float) -> ActionAnswer:
    """Withhold an action under the confidence floor [0, 1]; below 0: the floor that the model recommends."""
    return withhold_below(answer, floor if floor >= 0.0 else recommended_floor(engine))


def is_calibrated(engine: Engine) -> bool:
    """Tell whether a model brings a calibration of its confidence with it."""
    calibration = getattr(getattr(engine, "profile", None), "confidence", None)
    if calibration is None:
        return False
    fitted = (calibration.slope, calibration.offset) != (1.0, 0.0)
    return bool(getattr(calibration, "calibrated", fitted))
