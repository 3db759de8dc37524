"""What a vehicle cannot drive is withheld with the number that failed; what a human drove is not."""

import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from owled_ros.driving.answer import Action
from owled_ros.driving.ego import EgoState
from owled_ros.driving.feasibility import problem_of
from owled_ros.driving.rollout import from_acceleration_curvature, from_speed_curvature, roll_out
from owled_ros.driving.trajectory import COLUMNS, Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.waypoints import from_waypoints

VEHICLE = VehicleParameters()
TIMES = 0.5 * np.arange(1, 7)
STRAIGHT = np.column_stack([10.0 * TIMES, 0.0 * TIMES])  # 10 m/s
CURVE = np.column_stack([40.0 * np.sin(TIMES / 4.0), 40.0 * (1.0 - np.cos(TIMES / 4.0))])  # 10 m/s, radius 40 m


def problem(points: np.ndarray, speed: float = 10.0) -> str:
    return problem_of(from_waypoints(points, 0.5, speed), EgoState(0, speed), VEHICLE)


def changed(column: str, row: int, value: float) -> Trajectory:
    values = from_waypoints(STRAIGHT, 0.5, 10.0).values.copy()
    values[row, COLUMNS.index(column)] = value
    return Trajectory(values)


@settings(max_examples=150, deadline=None)
@given(
    st.floats(0.0, 30.0),
    st.tuples(st.floats(-2.0, 1.5), st.floats(0.0, 2.0), st.floats(0.3, 1.5), st.floats(0.0, 6.3)),
    st.tuples(st.floats(0.0, 3.5), st.floats(0.2, 1.2), st.floats(0.0, 6.3)),
    st.sampled_from([(0.5, 6, 1), (0.5, 8, 2), (0.5, 10, 1), (0.1, 50, 1), (0.1, 40, 4)]),
)
@example(
    1.0, (0.0, 2.0, 1.0, 4.0), (2.0, 1.0, 1.0), (0.5, 8, 2)
)  # slower than the wheels are held to before the first place
def test_a_human_drive_passes_as_coarsely_as_models_write(speed, pull, bend, written):
    """Smooth inputs, the unicycle at 10 Hz, then places with as few times and decimals as real models use."""
    step_s, count, decimals = written
    times = 0.1 * np.arange(60)
    accelerations = np.clip(pull[0] + pull[1] * np.sin(pull[2] * times + pull[3]), -5.0, 2.0)
    speeds = np.maximum(speed + 0.1 * np.cumsum(accelerations), 0.0)
    lateral = bend[0] * np.sin(bend[1] * times + bend[2])
    curvatures = np.clip(lateral / np.maximum(speeds, 3.0) ** 2, -0.2, 0.2)
    drive = from_acceleration_curvature(np.column_stack([accelerations, curvatures]), 0.1, speed)
    nodes = drive.sample(step_s * np.arange(1, count + 1))
    ego = EgoState(0, speed, steering_tire_angle=math.atan(VEHICLE.wheel_base * curvatures[0]))
    places = np.column_stack([nodes.x, nodes.y]).round(decimals)
    assert problem_of(from_waypoints(places, step_s, speed), ego, VEHICLE) == ""
    poses = np.column_stack([places, nodes.heading.round(2)])
    assert problem_of(from_waypoints(poses, step_s, speed), ego, VEHICLE) == ""


@pytest.mark.parametrize("action", [Action(-6.0, 0.0), Action(2.0, 0.05), Action(0.0, -0.1), Action(-1.2, 0.03)])
@pytest.mark.parametrize("speed", [0.0, 0.4, 3.0, 9.0])
def test_actions_of_the_vehicle_pass(action, speed):
    assert problem_of(roll_out(action, speed, VEHICLE), EgoState(0, speed), VEHICLE) == ""


@pytest.mark.parametrize(
    ("points", "speed"),
    [
        (100.0 * STRAIGHT, 10.0),  # written in centimetres
        (0.01 * STRAIGHT, 10.0),
        (3.28 * STRAIGHT, 10.0),  # in feet
        (STRAIGHT[::-1], 10.0),
        (CURVE[::-1], 10.0),
        (STRAIGHT[:, ::-1], 10.0),  # axes exchanged
        (-STRAIGHT, 10.0),
        (STRAIGHT, 0.0),  # it stands
        (STRAIGHT, 4.0),
        (0.0 * STRAIGHT, 10.0),  # the zeros of a parser that gave up
        (STRAIGHT + [5.0, 0.0], 10.0),
        (STRAIGHT + [0.0, 4.0], 10.0),
        (1e9 * STRAIGHT, 10.0),
        (0.1 * STRAIGHT[::-1], 1.0),  # also when slow
        (10.0 * STRAIGHT, 1.0),
        (0.1 * STRAIGHT[:, ::-1], 1.0),
    ],
)
def test_gross_faults_are_withheld(points, speed):
    assert problem(points, speed)
    assert problem(STRAIGHT) == problem(CURVE) == problem(0.0 * STRAIGHT, 0.0) == problem(0.1 * STRAIGHT, 1.0) == ""


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("slip", [(4.0, 0.0), (-4.0, 0.0), (0.0, 4.0), (1e9, 0.0), (0.0, -1e9)])
def test_one_number_that_slipped_is_enough(place, slip):
    points = CURVE.copy()
    points[place] += slip
    assert problem(points)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e9])
def test_every_number_is_checked(column, value):
    assert problem_of(changed(column, 3, value), EgoState(0, 10.0), VEHICLE)


def test_the_words_have_the_number_the_limit_and_the_time():
    # 10 to 14 m/s in half a second
    pairs = np.array([[10.0, 0.0], [14.0, 0.0], [14.0, 0.0]])
    words = problem_of(from_speed_curvature(pairs, 0.5, 10.0), EgoState(0, 10.0), VEHICLE)
    assert words == "acceleration is 8 m/s2 at 0.5 s; the limit is 2 m/s2"


@pytest.mark.parametrize(
    ("pairs", "speed", "words"),
    [  # (acceleration, curvature) every half second
        ([[0.0, 0.1]] * 6, 12.0, r"lateral acceleration is 14\.4 m/s2 at 0 s; the limit is 5 m/s2"),
        ([[-9.0, 0.0]] * 2, 12.0, r"deceleration is 9 m/s2 at 0 s; the limit is 6 m/s2"),
        ([[0.0, 0.4]] * 6, 2.0, r"curvature is 0\.4 1/m at 0 s; the limit is 0\.244 1/m"),
        ([[2.0, 0.0]] * 40, 30.0, r"speed is 70 m/s at 20 s; the limit is 50 m/s"),
        ([[2.0, 0.0], [-6.0, 0.0]] * 3, 15.0, r"jerk is 16 m/s3 at 0 s; the limit is 10 m/s3"),
        # atan(2.8 * 0.15) = 0.398 to the left, then to the right
        ([[0.0, 0.15], [0.0, -0.15]] * 3, 5.0, r"steering rate is 1\.59 rad/s at 0 s; the limit is 0\.7 rad/s"),
    ],
)
def test_each_limit_of_the_vehicle(pairs, speed, words):
    driven = from_acceleration_curvature(np.array(pairs), 0.5, speed)
    assert re.fullmatch(words, problem_of(driven, EgoState(0, speed), VEHICLE))


def test_another_vehicle_has_other_limits():
    racing = VehicleParameters(max_lateral_acceleration=20.0)
    driven = from_acceleration_curvature(np.array([[0.0, 0.1]] * 6), 0.5, 12.0)
    assert problem_of(driven, EgoState(0, 12.0), racing) == ""


def test_it_starts_where_the_vehicle_is_and_about_as_fast():
    assert "starts 2.0 m away" in problem_of(changed("x", 0, 2.0), EgoState(0, 10.0), VEHICLE)
    assert "heading +0.30 rad" in problem_of(changed("heading", 0, 0.3), EgoState(0, 10.0), VEHICLE)
    assert problem_of(changed("speed", 0, 14.0), EgoState(0, 10.0), VEHICLE).startswith("starts with 14.0 m/s")
    # the model believes 10 m/s, the vehicle drives 7: 7 + 0.5 m/s is the mean at most, and 0.85 m/s of doubt
    words = problem(STRAIGHT, 7.0)
    assert words == "starts with 10.0 m/s in the first 0.5 s while the vehicle drives 7.0 m/s; expected 4.7 to 8.3 m/s"
    assert problem(STRAIGHT, 9.6) == ""


def test_the_wheels_turn_no_faster_than_they_can_from_where_they_stand():
    # radius 40 m: atan(2.8 / 40) = 0.07 rad. In the first 0.5 s 0.7 rad/s turn them by 0.35 rad; beside that 0.05 rad and what
    # rounded places hide: 2.8 * 2.83 * 0.1 m / (5 m)^2 = 0.03 rad
    path = from_waypoints(CURVE, 0.5, 10.0)
    for angle, fine in ((0.07, True), (-0.3, True), (None, True), (-0.45, False), (0.57, False)):
        words = problem_of(path, EgoState(0, 10.0, steering_tire_angle=angle), VEHICLE)
        assert (words == "") is fine, (angle, words)
    assert re.search(r"wheels at \+0\.0\d rad while they stand at \+0\.57 rad", words)
    standing = from_waypoints(0.0 * STRAIGHT, 0.5, 0.0)
    assert problem_of(standing, EgoState(0, 0.0, steering_tire_angle=0.6), VEHICLE) == ""


def test_time_rises_strictly_from_zero():
    assert "time starts at 0.2 s" in problem_of(changed("time", 0, 0.2), EgoState(0, 10.0), VEHICLE)
    assert "from 1 to 0.5 s" in problem_of(changed("time", 3, 0.5), EgoState(0, 10.0), VEHICLE)
    assert "from 1 to 1 s" in problem_of(changed("time", 3, 1.0), EgoState(0, 10.0), VEHICLE)


@pytest.mark.parametrize("shape", [(1, 7), (0, 7), (6, 3), (7,)])
def test_the_shape_is_that_of_a_trajectory(shape):
    assert "shape" in problem_of(Trajectory(np.zeros(shape)), EgoState(0, 0.0), VEHICLE)


def test_places_lie_where_speed_and_heading_lead():
    values = from_waypoints(STRAIGHT, 0.5, 10.0).values.copy()
    values[4:, 2] += 3.0  # a jump to the left that no heading tells of
    words = problem_of(Trajectory(values), EgoState(0, 10.0), VEHICLE)
    assert words == "distance from where speed and heading lead is 3 m at 2 s; the limit is 0.65 m"
