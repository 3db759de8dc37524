"""The last valid trajectory, kept fresh, and every reason to give it up; worked by hand, without ROS."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from owled_ros.driving.ego import EgoState, Pose
from owled_ros.driving.prediction import Reason
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.onboard.candidates import Candidate, CandidateKeeper, CandidateLimits, HeardTrajectory, Why, Without
from owled_ros.onboard.relocation import jump_between

SECOND = 1_000_000_000
START = 1_000 * SECOND
STEADY = from_acceleration_curvature(np.zeros((4, 2)), 1.0, 10.0)  # 10 m/s straight on for 4 s


class Drive:
    """A vehicle on a straight road at 10 m/s with odometry at 50 Hz, and a keeper that hears it; times in seconds from START."""

    def __init__(self, **limits: float) -> None:
        self.keeper = CandidateKeeper(replace(CandidateLimits(), **limits))
        self.time = 0.0
        self.said: list[Candidate | Without] = []
        self.off = 0.0  # [m] that the localisation is beside the truth

    def state(self, time: float) -> EgoState:
        return EgoState(START + round(time * SECOND), 10.0, pose=Pose(10.0 * time, self.off, 0.0))

    def until(self, end: float, frame_id: str = "map") -> Candidate | Without:
        """Drive on; returns the last thing said."""
        while self.time < end - 1e-9:
            self.time = round(self.time + 0.02, 6)
            self.hear(self.state(self.time), frame_id)
        return self.said[-1]

    def hear(self, state: EgoState, frame_id: str = "map", now: int | None = None) -> Candidate | Without | None:
        said = self.keeper.hear_odometry(state, frame_id, state.stamp if now is None else now)
        if said is not None:
            self.said.append(said)
        return said

    def plan(self, time: float, model: str = "m") -> str:
        """The model answers about the image of a moment."""
        return self.keeper.hear_plan(HeardTrajectory(START + round(time * SECOND), STEADY, model))

    def why(self) -> Why:
        """Why nothing may be published at the next odometry."""
        self.said.clear()
        said = self.until(self.time + 0.12)
        assert isinstance(said, Without), "there is a candidate"
        return said.why


def driving(**limits: float) -> Drive:
    """An image at 1.0 s, its answer at 1.5 s, and a candidate at 1.6 s."""
    drive = Drive(**limits)
    drive.until(1.5)
    assert drive.plan(1.0) == ""
    assert isinstance(drive.until(1.62), Candidate)
    return drive


def test_a_trajectory_is_anchored_where_its_image_was_taken_and_cut_at_the_newest_pose() -> None:
    drive = driving()
    candidate = next(said for said in drive.said if isinstance(said, Candidate))
    # the image's place is 10 m; its end is 4 s and 40 m further
    assert candidate.stamp == START + round(1.6 * SECOND)
    assert candidate.age_s == pytest.approx(0.6)
    assert candidate.distance_m == pytest.approx(0.0, abs=1e-6)
    assert candidate.rest.values[0, 1] == pytest.approx(16.0)
    assert candidate.rest.values[-1, :2] == pytest.approx([3.4, 50.0])


def test_a_model_of_two_hertz_leaves_no_gap_at_ten() -> None:
    drive = Drive()
    drive.until(1.5)
    for answer in range(8):
        drive.plan(1.0 + 0.5 * answer)
        drive.until(2.0 + 0.5 * answer)
    stamps = [said.stamp for said in drive.said if isinstance(said, Candidate)]
    assert len(stamps) == pytest.approx(40, abs=1)
    assert max(np.diff(stamps)) == pytest.approx(0.1 * SECOND, rel=0.21)  # odometry comes every 0.02 s
    assert min(np.diff(stamps)) > 0


def test_odometry_slower_than_the_rate_is_all_used() -> None:
    drive = driving()
    drive.said.clear()
    for step in range(5):
        drive.hear(drive.state(1.7 + 0.125 * step))
    assert len(drive.said) == 5


def test_an_image_newer_than_the_odometry_waits_for_its_pose() -> None:
    drive = Drive()
    drive.until(1.0)
    assert drive.plan(1.01) == ""
    assert drive.keeper.plan is None
    assert isinstance(drive.until(1.3), Candidate)


def test_an_image_without_a_pose_of_its_moment_gives_nothing() -> None:
    drive = Drive()
    drive.until(1.0)
    assert "before the poses" in drive.plan(-0.5)
    assert drive.why() is Why.NO_POSE


@pytest.mark.parametrize(
    ("limits", "why"),
    [({"max_age_s": 0.8}, Why.TOO_OLD), ({"min_horizon_s": 3.3}, Why.TOO_SHORT)],
)
def test_a_plan_ends_with_its_age_or_when_too_little_is_left(limits: dict[str, float], why: Why) -> None:
    drive = driving(**limits)
    said = drive.until(1.98)
    assert isinstance(said, Without)
    assert said.why is why
    assert drive.keeper.ended == 1


def test_a_vehicle_that_leaves_the_plan_ends_it() -> None:
    drive = driving(pose_jump_m=1.0)
    for step in range(60):  # 5 cm more to the side every 20 ms: no jump, but away
        drive.off = 0.05 * step
        drive.until(drive.time + 0.02)
    said = drive.said[-1]
    assert isinstance(said, Without)
    assert (said.why, drive.keeper.ended) == (Why.TOO_FAR, 1)


@pytest.mark.parametrize("off", [1.2, -30.0])
def test_a_jump_of_the_localisation_drops_everything_at_once(off: float) -> None:
    drive = driving()
    drive.off = off
    drive.hear(drive.state(drive.time + 0.02))
    assert drive.keeper.plan is None
    assert drive.keeper.without.why is Why.POSE_JUMP
    assert f"{abs(off):.2f} m" in drive.keeper.without.words
    assert "before the poses" in drive.plan(1.5)  # an image of before the jump
    drive.time += 0.02
    drive.until(2.2)
    assert drive.plan(2.0) == ""
    assert isinstance(drive.until(2.4), Candidate)


def test_a_turn_of_the_localisation_is_a_jump_too() -> None:
    drive = driving()
    state = drive.state(drive.time + 0.02)
    drive.hear(replace(state, pose=Pose(10.0 * (drive.time + 0.02), 0.0, 0.5)))
    assert drive.keeper.without.why is Why.POSE_JUMP


@pytest.mark.parametrize(("yaw_rate", "jumps"), [(0.0, True), (10.0 * math.pi / 2, False)])
def test_a_turn_that_the_yaw_rate_explains_is_none(yaw_rate: float, jumps: bool) -> None:
    # 90 degrees within 0.1 s, with the yaw rate that makes them and without
    before = EgoState(0, 0.0, yaw_rate, pose=Pose(0.0, 0.0, 0.0))
    after = EgoState(SECOND // 10, 0.0, yaw_rate, pose=Pose(0.0, 0.0, math.pi / 2))
    assert bool(jump_between(before, after, 1.0, 0.3)) is jumps


def test_bad_odometry_says_nothing_and_the_plan_goes_on_after_it() -> None:
    drive = driving()
    for pose in (Pose(math.nan, 0.0, 0.0), None):
        said = drive.hear(replace(drive.state(drive.time + 0.02), pose=pose))
        assert isinstance(said, Without)
        assert said.why is Why.BAD_ODOMETRY
    assert isinstance(drive.until(1.9), Candidate)


def test_odometry_that_stops_says_nothing_and_begins_anew_after_the_gap() -> None:
    drive = driving()
    assert drive.keeper.silent(START + round(1.9 * SECOND)) is None
    silent = drive.keeper.silent(START + round(2.3 * SECOND))
    assert silent is not None
    assert silent.why is Why.STALE_ODOMETRY
    drive.time = 3.0
    drive.hear(drive.state(3.0))
    assert drive.keeper.without.why is Why.ODOMETRY_GAP


def test_odometry_of_another_clock_is_not_used() -> None:
    drive = driving()
    said = drive.hear(drive.state(drive.time + 0.02), now=START + 100 * SECOND)
    assert isinstance(said, Without)
    assert (said.why, "older than the node's clock" in said.words) == (Why.STALE_ODOMETRY, True)


def test_another_frame_of_the_odometry_drops_everything() -> None:
    drive = driving()
    drive.hear(drive.state(drive.time + 0.02), "odom")
    assert drive.keeper.without.why is Why.OTHER_FRAME


@pytest.mark.parametrize("reason", [Reason.INFEASIBLE, Reason.LOW_CONFIDENCE, Reason.DECLINED, Reason.POSE_JUMP])
def test_a_newer_image_that_means_danger_ends_the_plan_at_once(reason: Reason) -> None:
    drive = driving()
    drive.keeper.hear_withheld(START + round(1.5 * SECOND), reason, "why")
    assert drive.keeper.plan is None
    assert drive.keeper.without.why is Why.WITHHELD
    assert reason.name in drive.keeper.without.words


@pytest.mark.parametrize("reason", [Reason.STALE_IMAGE, Reason.LATE, Reason.UNPARSED, Reason.MISSING_VIEW])
def test_a_newer_image_that_says_nothing_lets_the_plan_age(reason: Reason) -> None:
    drive = driving()
    drive.keeper.hear_withheld(START + round(1.5 * SECOND), reason, "why")
    assert isinstance(drive.until(2.4), Candidate)
    assert drive.until(2.7) == Without(Why.TOO_OLD, drive.keeper.without.words)


def test_an_older_image_that_was_withheld_changes_nothing() -> None:
    drive = driving()
    drive.keeper.hear_withheld(START + round(0.5 * SECOND), Reason.INFEASIBLE, "why")
    assert isinstance(drive.until(1.9), Candidate)


def test_a_dangerous_image_counts_also_when_it_is_heard_of_after_a_newer_one() -> None:
    drive = driving()
    drive.keeper.hear_withheld(START + round(1.5 * SECOND), Reason.LATE, "why")
    drive.keeper.hear_withheld(START + round(1.4 * SECOND), Reason.INFEASIBLE, "why")
    assert drive.keeper.without.why is Why.WITHHELD


def test_a_dangerous_image_can_be_held_out_and_a_newer_trajectory_takes_over() -> None:
    drive = driving(hold_withheld_s=0.5)
    drive.keeper.hear_withheld(START + round(1.5 * SECOND), Reason.LOW_CONFIDENCE, "why")
    assert isinstance(drive.until(1.9), Candidate)
    assert isinstance(drive.until(2.1), Without)
    other = driving(hold_withheld_s=0.5)
    other.keeper.hear_withheld(START + round(1.5 * SECOND), Reason.LOW_CONFIDENCE, "why")
    other.plan(1.6)
    assert isinstance(other.until(2.1), Candidate)


def test_a_trajectory_of_before_a_dangerous_image_comes_too_late() -> None:
    drive = driving()
    drive.keeper.hear_withheld(START + round(1.58 * SECOND), Reason.INFEASIBLE, "why")
    assert "not newer" in drive.plan(1.5)
    assert drive.why() is Why.WITHHELD


def test_another_model_ends_the_plan_and_the_old_one_is_not_heard_again() -> None:
    drive = driving()
    drive.keeper.hear_model("m", True)
    assert drive.keeper.plan is not None
    drive.keeper.hear_model("n", True)
    assert drive.keeper.without.why is Why.OTHER_MODEL
    assert "of m, but n drives" in drive.plan(1.5)
    assert drive.plan(1.55, "n") == ""
    drive.keeper.hear_model("", False)
    assert drive.keeper.plan is None
    assert "but nothing drives" in drive.plan(1.6, "n")


def test_a_trajectory_may_come_before_the_news_of_its_model() -> None:
    drive = driving()
    drive.keeper.hear_model("m", True)
    assert drive.plan(1.5, "n")
    assert isinstance(drive.until(1.9), Candidate)  # m still drives
    drive.keeper.hear_model("n", True)
    assert drive.keeper.plan is not None
    assert drive.keeper.plan.model == "n"


def test_a_trajectory_without_a_name_is_of_what_drives() -> None:
    drive = Drive()
    drive.until(1.5)
    drive.plan(1.0, "")
    drive.keeper.hear_model("m", True)
    assert isinstance(drive.until(1.7), Candidate)
    assert drive.plan(1.5, "") == ""
    drive.keeper.hear_model("n", True)
    assert drive.keeper.without.why is Why.OTHER_MODEL


@pytest.mark.parametrize("by", ["odometry", "clock"])
def test_a_clock_that_begins_anew_drops_everything_and_stamps_may_begin_anew(by: str) -> None:
    drive = driving()
    if by == "clock":
        drive.hear(drive.state(drive.time), now=START - 50 * SECOND)
        assert drive.keeper.without.why is Why.CLOCK_JUMP
    drive.time = -50.0
    drive.hear(drive.state(-50.0))
    assert drive.keeper.without.why is Why.CLOCK_JUMP
    drive.said.clear()
    drive.until(-49.0)
    assert drive.plan(-49.5) == ""
    said = drive.until(-48.8)
    assert isinstance(said, Candidate)


def test_odometry_out_of_order_never_lets_stamps_fall() -> None:
    drive = driving()
    assert drive.hear(drive.state(drive.time - 0.5)) is None
    drive.until(2.0)
    stamps = [said.stamp for said in drive.said if isinstance(said, Candidate)]
    assert stamps == sorted(set(stamps))
