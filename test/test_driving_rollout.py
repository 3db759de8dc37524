"""Motions driven: by hand, and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.answer import Action
from owled_ros.driving.rollout import (
    acceleration_curvature_of,
    action_of_pedals,
    from_acceleration_curvature,
    from_speed_curvature,
    roll_out,
    speed_curvature_of,
)
from owled_ros.driving.vehicle import VehicleParameters, VehicleState, bicycle_step

VEHICLE = VehicleParameters(
    wheel_base=2.5,
    max_steering_tire_angle=0.5,
    max_acceleration=2.0,
    max_deceleration=5.0,
    max_lateral_acceleration=4.0,
)


def test_an_action_is_the_bicycle_step_by_step():
    driven = roll_out(Action(-1.0, 0.1), 8.0, VEHICLE, horizon_s=2.0)
    state = VehicleState(speed=8.0)
    for row in driven.values[1:]:
        state = bicycle_step(state, -1.0, 0.1, 0.1, 2.5)
        assert row[1:5] == pytest.approx([state.x, state.y, state.heading, state.speed])
    assert driven.duration == pytest.approx(2.0)


def test_braking_ends_at_standstill():
    # 4 m/s with -2 m/s2: 3 m after 1 s, stands after 2 s at 4 m
    driven = roll_out(Action(-2.0, 0.0), 4.0, VEHICLE).sample([1.0, 2.0, 3.0])
    assert driven.x == pytest.approx([3.0, 4.0, 4.0])
    assert driven.speed == pytest.approx([2.0, 0.0, 0.0])
    assert driven.acceleration[-1] == 0.0


def test_nobody_accelerates_out_of_a_curve():
    # tan(0.25) / 2.5 = 0.1021 1/m; 4 m/s2 sideways are reached at sqrt(4 / 0.1021) = 6.26 m/s
    driven = roll_out(Action(2.0, 0.25), 5.0, VEHICLE, horizon_s=3.0)
    assert driven.speed[-1] == pytest.approx(math.sqrt(4.0 / (math.tan(0.25) / 2.5)))
    assert (np.diff(driven.speed) >= -1e-12).all()
    assert roll_out(Action(2.0, 0.0), 5.0, VEHICLE, horizon_s=3.0).speed[-1] == pytest.approx(11.0)


def test_speeds_and_curvatures_are_reached_at_the_end_of_each_step():
    # 4 to 6 m/s in 1 s: 5 m; then 6 m on a quarter turn of radius 12 / pi, curvature 0 and pi / 6 on average
    driven = from_speed_curvature(np.array([[6.0, 0.0], [6.0, math.pi / 6.0]]), 1.0, 4.0)
    assert driven.x[1] == pytest.approx(5.0)
    assert driven.acceleration.tolist() == [2.0, 0.0, 0.0]
    assert driven.heading[2] == pytest.approx(math.pi / 2)
    radius = 12.0 / math.pi
    assert (driven.x[2], driven.y[2]) == (pytest.approx(5.0 + radius), pytest.approx(radius))


def test_accelerations_and_curvatures_hold_during_each_step():
    # 10 m/s, -2 m/s2 straight for 1 s: 9 m, 8 m/s; then 8 m on half a circle of radius 8 / pi: 2 radii to the left
    driven = from_acceleration_curvature(np.array([[-2.0, 0.0], [0.0, math.pi / 8.0]]), 1.0, 10.0)
    assert driven.speed.tolist() == [10.0, 8.0, 8.0]
    assert (driven.x[2], driven.y[2]) == (pytest.approx(9.0), pytest.approx(16.0 / math.pi))
    assert driven.heading[2] == pytest.approx(math.pi)
    assert driven.curvature.tolist() == [0.0, math.pi / 8.0, math.pi / 8.0]


def test_a_vehicle_does_not_roll_backwards():
    driven = from_acceleration_curvature(np.tile([-4.0, 0.0], (4, 1)), 0.5, 3.0)
    assert driven.speed.tolist() == [3.0, 1.0, 0.0, 0.0, 0.0]
    assert driven.x.tolist() == [0.0, 1.0, 1.25, 1.25, 1.25]


def test_pedals_are_shares_of_what_the_vehicle_can_do():
    assert action_of_pedals(0.5, 0.0, 0.2, VEHICLE) == Action(1.0, pytest.approx(0.1))
    assert action_of_pedals(0.0, 0.3, -1.0, VEHICLE) == Action(-1.5, -0.5)


PAIRS = st.lists(st.tuples(st.floats(-2.0, 2.0), st.floats(-0.05, 0.05)), min_size=1, max_size=12)


@given(PAIRS)
def test_accelerations_and_curvatures_come_back(pairs):
    driven = from_acceleration_curvature(np.array(pairs), 0.1, 8.0)
    assert acceleration_curvature_of(driven, 0.1, len(pairs)) == pytest.approx(np.array(pairs), abs=1e-9)


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(-0.05, 0.05)), min_size=1, max_size=12))
def test_speeds_and_curvatures_come_back(pairs):
    driven = from_speed_curvature(np.array(pairs), 0.5, 8.0)
    assert speed_curvature_of(driven, 0.5, len(pairs)) == pytest.approx(np.array(pairs), abs=1e-9)
