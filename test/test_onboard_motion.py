"""Where speed, pose, acceleration and tire angle of a frame come from: odometry, the vehicle's own reports, or both."""

from __future__ import annotations

import math

import pytest

from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import Reason
from owled_ros.onboard.motion import AUTO, POSE, REPORT, TWIST, EgoMotion
from owled_ros.onboard.withheld import WithheldError

NOW = 100 * NANOSECONDS
TENTH = NANOSECONDS // 10
PAST = InputNeeds(ego_offsets_s=(0.5,), needs_pose=True)


def speed(motion: EgoMotion, stamp: int = NOW) -> float:
    return motion.at(stamp, InputNeeds(), 0.2)[0].speed


def reason(motion: EgoMotion, needs: InputNeeds | None = None) -> tuple[Reason, str]:
    with pytest.raises(WithheldError) as caught:
        motion.at(NOW, needs or InputNeeds(), 0.2)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("source", [TWIST, POSE, AUTO, REPORT])
def test_a_report_alone_drives(source: str) -> None:
    motion = EgoMotion(source)
    motion.hear_report(EgoState(NOW, 7.0, 0.1))
    assert motion.at(NOW, InputNeeds(), 0.2)[0] == EgoState(NOW, 7.0, 0.1)
    assert motion.reported
    assert reason(motion, PAST)[0] is Reason.NO_HISTORY


def test_an_acceleration_that_is_asked_for_needs_two_states() -> None:
    motion, needs = EgoMotion(), InputNeeds(needs_acceleration=True)
    motion.hear(EgoState(NOW - TENTH, 6.8))
    assert reason(motion, needs) == (
        Reason.NO_HISTORY,
        "one state of the ego motion tells no acceleration, which the model asks for (yet)",
    )
    motion.hear(EgoState(NOW, 7.0))
    assert motion.at(NOW, needs, 0.2)[0].acceleration == pytest.approx(2.0)


def test_odometry_takes_over_from_the_report_and_is_not_mixed_with_it() -> None:
    motion = EgoMotion()
    motion.hear_report(EgoState(NOW - TENTH, 7.0))
    motion.hear(EgoState(NOW, 9.0))
    assert speed(motion, NOW - TENTH // 2) == 9.0, "not between 7 and 9"
    motion.hear_report(EgoState(NOW + TENTH, 7.0))
    assert speed(motion, NOW + TENTH) == 9.0
    assert not motion.reported
    motion.clear()
    motion.hear_report(EgoState(NOW, 7.0))
    assert speed(motion) == 7.0


def test_with_ego_source_velocity_report_the_odometry_gives_the_pose_alone() -> None:
    motion = EgoMotion(REPORT)
    for tenth in range(-6, 1):
        stamp = NOW + tenth * TENTH
        motion.hear(EgoState(stamp, 99.0, pose=Pose(tenth * 0.8, 0.0, 0.0)), 0.0, "map")
        motion.hear_report(EgoState(stamp, 8.0))
    now, past = motion.at(NOW, PAST, 0.2)
    assert (now.speed, now.pose, motion.frame_id) == (8.0, Pose(0.0, 0.0, 0.0), "map")
    assert (past[0].speed, past[0].pose) == (8.0, Pose(pytest.approx(-4.0), 0.0, 0.0))
    alone = EgoMotion(REPORT)
    alone.hear(EgoState(NOW, 9.0))
    assert reason(alone) == (Reason.NO_EGO, "no velocity report has come")


@pytest.mark.parametrize("bad", [EgoState(NOW, math.nan), EgoState(NOW, 5.0, math.inf), EgoState(NOW, 400.0)])
def test_a_report_that_cannot_be_is_said(bad: EgoState) -> None:
    motion = EgoMotion()
    motion.hear_report(EgoState(NOW, 7.0))
    motion.hear_report(bad)
    why, words = reason(motion)
    assert why is Reason.BAD_EGO
    assert words.startswith("the velocity report")
    motion.hear_report(EgoState(NOW, 7.0))
    assert speed(motion) == 7.0


def test_odometry_that_cannot_be_spoils_no_report() -> None:
    motion = EgoMotion(REPORT)
    motion.hear(EgoState(NOW, math.nan))
    motion.hear_report(EgoState(NOW, 7.0))
    assert speed(motion) == 7.0


def test_a_report_that_the_pose_contradicts_is_said() -> None:
    motion = EgoMotion(REPORT)
    for tenth in range(-20, 1):  # the pose moves with 10 m/s, the report says 2
        stamp = NOW + tenth * TENTH
        motion.hear(EgoState(stamp, 10.0, pose=Pose(float(tenth), 0.0, 0.0)))
        motion.hear_report(EgoState(stamp, 2.0))
    why, words = reason(motion)
    assert why is Reason.BAD_EGO
    assert "velocity report says 2.0 m/s while its pose moves at 10.0 m/s" in words


def test_measured_tire_angle_and_acceleration_belong_to_the_states_near_them() -> None:
    motion = EgoMotion()
    motion.hear_acceleration(NOW, -1.5)
    motion.hear_steering(NOW - TENTH, 0.1)
    motion.hear_steering(NOW, 0.2)
    for bad in (math.nan, 3.0):
        motion.hear_steering(NOW, bad)
    motion.hear(EgoState(NOW, 5.0))
    assert motion.at(NOW, InputNeeds(), 0.2)[0] == EgoState(NOW, 5.0, 0.0, -1.5, steering_tire_angle=0.2)
    motion.hear(EgoState(NOW + 2 * TENTH, 5.0))
    later = motion.at(NOW + 2 * TENTH, InputNeeds(), 0.2)[0]
    assert later.steering_tire_angle is None, "0.2 s old"


def test_what_is_measured_with_a_state_counts_though_it_comes_behind_it() -> None:
    motion = EgoMotion()
    for number, measured in enumerate((0.0, -1.0, 2.0)):  # odometry first, as a bag may hold them
        motion.hear(EgoState(NOW + number * TENTH, 5.0))
        motion.hear_acceleration(NOW + number * TENTH, measured)
        motion.hear_steering(NOW + number * TENTH, 0.1 * measured)
    motion.hear_acceleration(NOW, 9.0)  # late: others are nearer
    past = InputNeeds(ego_offsets_s=(0.2, 0.1))
    now, before = motion.at(NOW + 2 * TENTH, past, 0.05)
    assert [state.acceleration for state in (*before, now)] == [0.0, -1.0, 2.0]
    assert [state.steering_tire_angle for state in (*before, now)] == [0.0, -0.1, 0.2]
