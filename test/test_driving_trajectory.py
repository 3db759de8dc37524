"""The trajectory: sampled, re-anchored, and its first action, worked by hand."""

import math

import numpy as np
import pytest

from owled_ros.driving.answer import Action, Manoeuvre
from owled_ros.driving.ego import Pose
from owled_ros.driving.rollout import from_acceleration_curvature, roll_out
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.waypoints import from_waypoints
from owled_ros.errors import OwledError

# 10 m/s, 2 m/s2: after 1 s 11 m and 12 m/s, after 2 s 24 m and 14 m/s
FASTER = from_acceleration_curvature(np.array([[2.0, 0.0], [2.0, 0.0]]), 1.0, 10.0)


def circle(radius: float, speed: float, seconds: float) -> Trajectory:
    """A left turn that is exact at every point."""
    return from_acceleration_curvature(np.tile([0.0, 1.0 / radius], (round(seconds / 0.1), 1)), 0.1, speed)


def test_between_two_points_the_motion_goes_on():
    # after 0.5 s: 10 * 0.5 + 2 * 0.25 / 2 = 5.25 m, 11 m/s; after 1.5 s: 15 + 2.25 = 17.25 m
    sampled = FASTER.sample([0.0, 0.5, 1.5, 2.0])
    assert sampled.x == pytest.approx([0.0, 5.25, 17.25, 24.0])
    assert sampled.speed == pytest.approx([10.0, 11.0, 13.0, 14.0])
    assert sampled.time.tolist() == [0.0, 0.5, 1.5, 2.0]


@pytest.mark.parametrize("time", [-0.1, 2.1])
def test_what_it_does_not_cover_is_not_made_up(time):
    with pytest.raises(OwledError, match="covers"):
        FASTER.sample([time])


def test_the_first_action_is_the_acceleration_and_the_tire_angle_of_the_curvature():
    # radius 20 m, wheel base 2.8 m: atan(0.14)
    action = circle(20.0, 5.0, 3.0).first_action(2.8, Manoeuvre.CRUISE)
    assert action == Action(0.0, pytest.approx(math.atan(0.14)), Manoeuvre.CRUISE)


@pytest.mark.parametrize("action", [Action(-1.2, 0.03), Action(1.0, -0.2), Action(-6.0, 0.0)])
def test_an_action_rolled_out_begins_with_itself(action):
    first = roll_out(action, 8.0, VehicleParameters()).first_action(2.8)
    assert first.acceleration == action.acceleration
    assert first.steering_tire_angle == pytest.approx(action.steering_tire_angle)


def test_seen_from_where_it_led_a_straight_way_is_shorter():
    # half a second later the vehicle is 5.25 m further: 5.75 and 18.75 m remain
    rest = FASTER.seen_from(Pose(5.25, 0.0, 0.0), 0.5)
    assert rest.time == pytest.approx([0.0, 0.5, 1.5])
    assert rest.x == pytest.approx([0.0, 5.75, 18.75])
    assert rest.speed == pytest.approx([11.0, 12.0, 14.0])


def test_seen_from_within_a_circle_it_is_the_same_circle():
    turn = circle(20.0, 5.0, 4.0)
    half = turn.sample([2.0])
    rest = turn.seen_from(Pose(half.x[0], half.y[0], half.heading[0]), 2.0)
    assert rest.values[:, 1:] == pytest.approx(turn.values[:21, 1:], abs=1e-9)
    assert rest.time == pytest.approx(turn.time[:21])


def test_seen_from_a_turned_vehicle_the_rest_lies_to_the_side():
    # the vehicle turned left by 90 degrees: what was ahead lies to its right
    rest = FASTER.seen_from(Pose(5.0, 0.0, math.pi / 2), 0.5)
    assert rest.y[-1] == pytest.approx(-19.0)
    assert rest.heading[-1] == pytest.approx(-math.pi / 2)


def test_what_lies_behind_a_faster_vehicle_is_cut():
    # 12 m driven instead of 5.25: the point at 11 m lies behind
    rest = FASTER.seen_from(Pose(12.0, 0.0, 0.0), 0.5)
    assert rest.x == pytest.approx([0.0, 12.0])
    assert rest.time == pytest.approx([0.0, 1.5])


def test_a_standing_vehicle_keeps_standing():
    standing = from_waypoints(np.zeros((6, 2)), 0.5, 0.0)
    rest = standing.seen_from(Pose(0.0, 0.0, 0.0), 0.7)
    assert rest.time == pytest.approx([0.0, 0.3, 0.8, 1.3, 1.8, 2.3])
    assert not rest.x.any()


@pytest.mark.parametrize("elapsed", [2.0, 9.0, -0.1])
def test_nothing_is_left_of_what_is_over(elapsed):
    assert FASTER.seen_from(Pose(0.0, 0.0, 0.0), elapsed) is None
