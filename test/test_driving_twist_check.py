"""A twist that contradicts the pose is found; noise, relocalisations and standing still are not taken for that."""

from __future__ import annotations

import math

import numpy as np
import pytest

from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import Reason
from owled_ros.driving.twist_check import TwistCheck
from owled_ros.onboard.motion import EgoMotion
from owled_ros.onboard.withheld import WithheldError

RATE_HZ = 20


def drive(
    heading: float,
    speed: float,
    twist: tuple[float, float],
    yaw_rate: float = 0.0,
    noise: float = 0.0,
    seconds: float = 2.0,
) -> list[tuple[EgoState, float]]:
    """Make odometry of a vehicle that begins at the origin; `twist` is what it says, (forward, left) [m/s]."""
    rng = np.random.default_rng(0)
    x = y = 0.0
    states = []
    for step in range(round(seconds * RATE_HZ)):
        wobble = rng.normal(0.0, noise, 2) if noise else (0.0, 0.0)
        pose = Pose(x + wobble[0], y + wobble[1], heading)
        states.append((EgoState(step * NANOSECONDS // RATE_HZ, twist[0], yaw_rate, pose=pose), twist[1]))
        middle = heading + 0.5 * yaw_rate / RATE_HZ
        x, y = x + speed / RATE_HZ * math.cos(middle), y + speed / RATE_HZ * math.sin(middle)
        heading += yaw_rate / RATE_HZ
    return states


def checked(states: list[tuple[EgoState, float]]) -> TwistCheck:
    check = TwistCheck()
    for state, lateral in states:
        check.add(state, lateral)
    return check


@pytest.mark.parametrize(
    ("heading", "speed", "twist", "yaw_rate"),
    [
        (0.7, 10.0, (10.0, 0.0), 0.0),
        (3.0, 10.0, (10.0, 0.0), 0.5),  # through the wrap of the heading
        (0.7, 0.0, (0.0, 0.0), 0.0),
        (0.7, -2.0, (-2.0, 0.0), 0.0),
        (0.0, 10.0, (9.0, 0.0), 0.0),  # worn tyres
        (0.7, 8.0, (8.0, 0.0), 0.0),
    ],
)
def test_a_right_twist_is_left_alone(heading: float, speed: float, twist: tuple[float, float], yaw_rate: float) -> None:
    check = checked(drive(heading, speed, twist, yaw_rate, noise=0.05))
    assert check.problem() == ""
    assert not check.pose_is_dead


def test_a_twist_of_zero_and_one_of_the_other_frame_are_told_apart() -> None:
    still = checked(drive(0.7, 10.0, (0.0, 0.0))).problem()
    assert still == "the odometry's twist says 0.0 m/s while its pose moves at 10.0 m/s"
    for heading in (0.5, 1.5, 3.1, -2.0):
        fixed = (10.0 * math.cos(heading), 10.0 * math.sin(heading))
        assert "given in the frame of the pose" in checked(drive(heading, 10.0, fixed)).problem(), heading


def test_a_twist_of_the_other_frame_is_found_before_it_does_much_harm() -> None:
    # 20 degrees: the speed is 6 % too small only, but what it says fits the other frame exactly
    fixed = (8.0 * math.cos(0.35), 8.0 * math.sin(0.35))
    assert "given in the frame of the pose" in checked(drive(0.35, 8.0, fixed)).problem()


def test_a_pose_that_is_measured_once_a_second_is_held_not_wrong() -> None:
    states = drive(0.7, 8.0, (8.0, 0.0), seconds=4.0)
    held = [
        (EgoState(s.stamp, s.speed, 0.0, pose=states[n - n % RATE_HZ][0].pose), 0.0) for n, (s, _) in enumerate(states)
    ]
    check = TwistCheck()
    for state, lateral in held:
        check.add(state, lateral)
        assert check.problem() == ""
    still = [(EgoState(s.stamp, 0.0, 0.0, pose=s.pose), 0.0) for s, _ in held]
    assert "twist says 0.0 m/s" in checked(still).problem()


def test_one_relocalisation_is_no_contradiction() -> None:
    states = drive(0.0, 10.0, (10.0, 0.0))
    moved = [
        (EgoState(s.stamp, s.speed, 0.0, pose=Pose(s.pose.x, s.pose.y + 30.0, 0.0)), 0.0)
        for s, _ in states[25:]
        if s.pose
    ]
    check = checked([*states[:25], *moved])
    assert check.problem() == ""


def test_a_pose_that_is_not_filled_in_is_no_pose() -> None:
    states = [(EgoState(s.stamp, 8.0, pose=Pose(0.0, 0.0, 0.0)), 0.0) for s, _ in drive(0.0, 0.0, (8.0, 0.0))]
    check = checked(states)
    assert check.pose_is_dead
    assert check.problem() == ""


def motion(source: str, states: list[tuple[EgoState, float]]) -> EgoMotion:
    heard = EgoMotion(source)
    for state, lateral in states:
        heard.hear(state, lateral)
    return heard


def test_the_source_of_the_speed_is_a_choice() -> None:
    states = drive(1.5, 10.0, (0.0, 0.0), yaw_rate=0.2)
    stamp = states[-1][0].stamp
    with pytest.raises(WithheldError) as caught:
        motion("twist", states).at(stamp, InputNeeds(), 0.2)
    assert caught.value.reason is Reason.BAD_EGO
    for source in ("pose", "auto"):
        ego, _ = motion(source, states).at(stamp, InputNeeds(), 0.2)
        assert (ego.speed, ego.yaw_rate) == (pytest.approx(10.0, abs=0.05), pytest.approx(0.2, abs=0.01))
    good = drive(1.5, 10.0, (9.5, 0.0))
    assert motion("auto", good).at(good[-1][0].stamp, InputNeeds(), 0.2)[0].speed == pytest.approx(9.5)


def test_a_measured_acceleration_goes_before_the_slope_of_the_speed() -> None:
    heard = EgoMotion()
    heard.hear_acceleration(0, -1.5)
    heard.hear_acceleration(0, math.nan)
    heard.hear(EgoState(NANOSECONDS // 100, 10.0))
    ego, _ = heard.at(NANOSECONDS // 100, InputNeeds(), 0.2)
    assert ego.acceleration == -1.5
