"""The last valid trajectory, kept fresh: anchored where its image was taken, cut at the newest pose, given up with a reason. Needs numpy.

Hears odometry, trajectories, withheld frames and which model drives; says after every odometry what may be published now. Stamps are
those of the odometry and never fall, unless the clock itself restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from owled_ros.driving.anchoring import AnchoredTrajectory, anchored, cut
from owled_ros.driving.ego import LATE_S, NANOSECONDS, EgoHistory, EgoState
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.prediction import Reason
from owled_ros.driving.trajectory import Trajectory
from owled_ros.onboard.motion import problem_of
from owled_ros.onboard.relocation import jump_between
from owled_ros.onboard.withheld import long_time

EARLY = 0.25  # of a period that a candidate may come before it is due: odometry is not in step with us
DANGEROUS = (  # the newest image, or the pose itself, says that the last plan is not to be driven on
    Reason.UNKNOWN,
    Reason.INFEASIBLE,
    Reason.LOW_CONFIDENCE,
    Reason.DECLINED,
    Reason.BAD_EGO,
    Reason.POSE_JUMP,
    Reason.CLOCK_JUMP,
    Reason.MODEL_NOT_READY,
)


class Why(StrEnum):
    """Why there is no candidate."""

    NO_ODOMETRY = "NO_ODOMETRY"
    BAD_ODOMETRY = "BAD_ODOMETRY"  # not finite, impossible, without a pose
    STALE_ODOMETRY = "STALE_ODOMETRY"  # against the node's clock
    ODOMETRY_GAP = "ODOMETRY_GAP"  # it was silent: nobody knows what lies between
    POSE_JUMP = "POSE_JUMP"
    OTHER_FRAME = "OTHER_FRAME"  # the odometry's frame changed
    CLOCK_JUMP = "CLOCK_JUMP"
    NO_PLAN = "NO_PLAN"  # no trajectory has come
    NO_POSE = "NO_POSE"  # none is known at the image's stamp
    TOO_OLD = "TOO_OLD"
    TOO_FAR = "TOO_FAR"
    TOO_SHORT = "TOO_SHORT"
    WITHHELD = "WITHHELD"  # a newer image gave a reason not to drive on
    OTHER_MODEL = "OTHER_MODEL"


@dataclass(frozen=True)
class CandidateLimits:
    """How long a trajectory may be driven on; see nodes.autoware_parameters."""

    publish_rate_hz: float = 10.0
    step_s: float = 0.1
    max_age_s: float = 1.5
    max_distance_m: float = 2.0
    min_horizon_s: float = 1.0
    hold_withheld_s: float = 0.0
    max_pose_gap_s: float = 0.2
    max_odometry_age_s: float = 0.5
    max_odometry_gap_s: float = 0.5
    pose_jump_m: float = 1.0
    heading_jump_rad: float = 0.3


@dataclass(frozen=True, eq=False)
class HeardTrajectory:
    """A valid trajectory as the driving node published it."""

    stamp: int  # [ns], of the image
    trajectory: Trajectory
    model: str = ""  # what answered: model and artifact
    manoeuvre: int = 0
    command: NavigationCommand | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """What may be published now."""

    stamp: int  # [ns], of the odometry at whose pose it is cut
    frame_id: str
    rest: AnchoredTrajectory
    plan: HeardTrajectory
    age_s: float  # since the image
    distance_m: float  # between the vehicle and where it was to be by now


@dataclass(frozen=True)
class Without:
    """Why nothing may be published now."""

    why: Why
    words: str


@dataclass
class CandidateKeeper:
    """One thread: everything is heard and said in callbacks of one executor."""

    limits: CandidateLimits = field(default_factory=CandidateLimits)
    without: Without = field(default_factory=lambda: Without(Why.NO_PLAN, "no trajectory has come yet"))
    ended: int = 0  # plans that were given up before the next one came

    def __post_init__(self) -> None:
        self._history = EgoHistory()
        self._frame_id = ""
        self._since: int | None = None  # [ns]; poses before it are of another place
        self._waiting: HeardTrajectory | None = None  # its image is newer than the odometry
        self._plan: HeardTrajectory | None = None
        self._ground: AnchoredTrajectory | None = None  # of the plan
        self._judged: int | None = None  # [ns], stamp of the newest image of which we know the verdict
        self._ends_at: tuple[int, Without] | None = None  # [ns] of odometry: a newer image was withheld
        self._due: int | None = None  # [ns]
        self._published: int | None = None  # [ns]
        self._clock = 0  # [ns]
        self._model: str | None = None  # what drives now; empty: nothing does; None: nobody said
        self._early: HeardTrajectory | None = None  # of another model, which may be the next to drive

    @property
    def plan(self) -> HeardTrajectory | None:
        """The trajectory that is driven on."""
        return self._plan

    @property
    def published(self) -> int | None:
        """Stamp [ns] of the newest candidate."""
        return self._published

    def hear_odometry(self, state: EgoState, frame_id: str, now: int) -> Candidate | Without | None:
        """Take an ego state at `now` [ns] of the node's clock; returns what to publish, why nothing, or None: not due yet."""
        self._follow(now)
        problem = problem_of(state) or ("" if state.pose is not None else "the odometry has no usable pose")
        if problem:
            return Without(Why.BAD_ODOMETRY, problem)
        newest = self._history.newest
        if newest is not None and state.stamp <= newest.stamp:
            if (newest.stamp - state.stamp) / NANOSECONDS <= LATE_S:
                return None  # out of order, or the same again
            self.begin_anew("the odometry's stamps fell: the clock restarted")
        elif newest is not None:
            self._compare(newest, state, frame_id)
        if not self._history.newest:
            self._since = state.stamp
        self._frame_id = frame_id
        self._history.add(state)
        age = (now - state.stamp) / NANOSECONDS
        if abs(age) > self.limits.max_odometry_age_s:
            side = "older than" if age > 0 else "ahead of"
            return Without(
                Why.STALE_ODOMETRY, f"the odometry is {long_time(abs(age))} {side} the node's clock; the limit is "
                f"{self.limits.max_odometry_age_s:g} s"
            )  # fmt: skip
        self._anchor_waiting(state.stamp)
        return self._say(state) if self._is_due(state.stamp) else None

    def hear_plan(self, plan: HeardTrajectory) -> str:
        """Take a valid trajectory; returns why it is not used, "" when it is or waits for odometry of its moment."""
        if not plan.model:  # then it is of what drives
            plan = replace(plan, model=self._model or "")
        if self._model is not None and plan.model != self._model:
            self._early = plan
            return f"the trajectory is of {plan.model or 'no model'}, but {self._model or 'nothing'} drives"
        if self._judged is not None and plan.stamp <= self._judged:
            return "the trajectory's image is not newer than the last one heard of"
        self._judged = plan.stamp
        if self._since is not None and plan.stamp < self._since:
            self.without = Without(Why.NO_POSE, "the image was taken before the poses that are known now")
            return self.without.words
        self._waiting = plan
        newest = self._history.newest
        if newest is not None and newest.stamp >= plan.stamp:
            return self._anchor_waiting(newest.stamp)
        return ""

    def hear_withheld(self, stamp: int, reason: Reason, words: str) -> None:
        """Take the news that an image gave no valid trajectory; one that means danger ends older plans, the others let them age."""
        self._judged = max(stamp, self._judged or stamp)
        if reason not in DANGEROUS:
            return
        without = Without(Why.WITHHELD, f"a newer image was withheld: {reason.name}: {words}")
        if self._waiting is not None and self._waiting.stamp < stamp:
            self._waiting = None
        if self._plan is None or self._plan.stamp >= stamp:
            return
        if self.limits.hold_withheld_s <= 0.0:
            self._end(without)
            return
        end = stamp + round(self.limits.hold_withheld_s * NANOSECONDS)
        if self._ends_at is None or end < self._ends_at[0]:
            self._ends_at = (end, without)

    def hear_model(self, model: str, loaded: bool) -> None:
        """Take the news of what drives; another model's plan ends. A trajectory may have come before this news."""
        first, self._model = self._model is None, model if loaded else ""
        early, self._early = self._early, None
        if self._waiting is not None and self._waiting.model != self._model:
            self._waiting = None
        if self._plan is not None and not self._plan.model and first:
            self._plan = replace(self._plan, model=self._model)
        if self._plan is not None and self._plan.model != self._model:
            words = f"the plan is of {self._plan.model or 'an unnamed model'}, but {self._model or 'nothing'} drives"
            self._end(Without(Why.OTHER_MODEL, words))
        if early is not None and early.model == self._model:
            self.hear_plan(early)

    def begin_anew(self, words: str) -> None:
        """Forget everything that belongs to an earlier time."""
        self._forget_poses(Without(Why.CLOCK_JUMP, words))
        self._judged = self._due = self._published = None

    def silent(self, now: int) -> Without | None:
        """Say whether the odometry stopped; called when nothing came."""
        newest = self._history.newest
        if newest is None:
            return Without(Why.NO_ODOMETRY, "no odometry has come")
        age = (now - newest.stamp) / NANOSECONDS
        if age <= self.limits.max_odometry_age_s:
            return None
        words = f"no odometry for {long_time(age)}; the limit is {self.limits.max_odometry_age_s:g} s"
        return Without(Why.STALE_ODOMETRY, words)

    def _follow(self, now: int) -> None:
        if now < self._clock - round(LATE_S * NANOSECONDS):
            self.begin_anew("the node's clock was set back")
        self._clock = now

    def _compare(self, before: EgoState, after: EgoState, frame_id: str) -> None:
        """Drop everything where the localisation is not the same one any more."""
        gap = (after.stamp - before.stamp) / NANOSECONDS
        jump = jump_between(before, after, self.limits.pose_jump_m, self.limits.heading_jump_rad)
        if frame_id != self._frame_id:
            self._forget_poses(
                Without(Why.OTHER_FRAME, f"the odometry's frame changed from {self._frame_id} to {frame_id}")
            )
        elif gap > self.limits.max_odometry_gap_s:
            self._forget_poses(Without(Why.ODOMETRY_GAP, f"the odometry was silent for {gap:.1f} s"))
        elif jump:
            self._forget_poses(Without(Why.POSE_JUMP, jump))

    def _forget_poses(self, without: Without) -> None:
        self._history.clear()
        self._since = None
        self._waiting = self._early = None
        self._end(without)

    def _end(self, without: Without) -> None:
        self._ends_at = None
        if self._plan is not None:
            self.ended += 1
        self._plan = self._ground = None
        self.without = without

    def _anchor_waiting(self, newest: int) -> str:
        plan = self._waiting
        if plan is None or newest < plan.stamp:
            return ""
        self._waiting = None
        state = None
        if self._since is not None and plan.stamp >= self._since:
            state = self._history.at(plan.stamp, round(self.limits.max_pose_gap_s * NANOSECONDS))
        if state is None or state.pose is None:
            words = f"no pose is known within {self.limits.max_pose_gap_s:g} s of the image's stamp"
            if self._plan is None:
                self.without = Without(Why.NO_POSE, words)
            return words
        self._ends_at = None
        self._plan = plan
        self._ground = anchored(plan.trajectory, state.pose, plan.stamp, self.limits.step_s)
        return ""

    def _is_due(self, stamp: int) -> bool:
        period = round(NANOSECONDS / self.limits.publish_rate_hz)
        if self._due is not None and stamp < self._due - round(EARLY * period):
            return False
        late = self._due is None or stamp > self._due + period
        self._due = (stamp if late else self._due or stamp) + period
        return True

    def _say(self, state: EgoState) -> Candidate | Without:
        """Cut the plan at the newest pose, or give it up."""
        if self._ends_at is not None and state.stamp >= self._ends_at[0]:
            self._end(self._ends_at[1])
        if self._plan is None or self._ground is None or state.pose is None:
            return self.without
        limits, plan = self.limits, self._plan
        age = self._ground.elapsed(state.stamp)
        if age > limits.max_age_s:
            self._end(
                Without(Why.TOO_OLD, f"the newest trajectory is {age:.2f} s old; the limit is {limits.max_age_s:g} s")
            )
            return self.without
        distance = self._ground.distance(state.pose, state.stamp)
        if distance > limits.max_distance_m:
            words = f"the trajectory lies {distance:.2f} m from the vehicle; the limit is {limits.max_distance_m:g} m"
            self._end(Without(Why.TOO_FAR, words))
            return self.without
        rest = cut(self._ground, state.pose, state.stamp, limits.max_distance_m)
        if rest is None or self._ground.duration - age < limits.min_horizon_s:
            left = max(self._ground.duration - age, 0.0)
            words = f"{left:.2f} s of the trajectory are left; at least {limits.min_horizon_s:g} s are wanted"
            self._end(Without(Why.TOO_SHORT, words))
            return self.without
        self._published = state.stamp
        return Candidate(state.stamp, self._frame_id, rest, plan, age, distance)
