"""Places driven through: exact for constant acceleration and on a circle, quiet where places are rounded or stand still."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.driving.waypoints import from_steps, from_waypoints, steps_of

TIMES = 0.5 * np.arange(1, 7)


@pytest.mark.parametrize(
    ("places", "speed", "expected"),
    [
        ([0.1, 0.2, 0.2, 0.2, 0.2, 0.2], 0.2, -0.4),  # would hold 0.2 m/s by its first second
        ([0.1, 0.2, 0.2, 0.2, 0.2, 0.2], 0.0, 0.0),
        ([0.0, 0.0, 0.0, 0.0, 0.1, 0.3], 0.0, 0.0),  # begins to move later
        ([0.1, 0.4, 0.9, 1.6, 2.5, 3.6], 0.0, 0.8),
    ],
)
def test_what_ends_at_rest_where_the_vehicle_is_stands(places: list[float], speed: float, expected: float) -> None:
    driven = from_waypoints(np.column_stack([places, np.zeros(6)]), 0.5, speed)
    assert driven.acceleration[0] == pytest.approx(expected)


def on_circle(radius: float, speed: float, times: np.ndarray) -> np.ndarray:
    """Places of a left turn, (N, 2)."""
    angle = speed * times / radius
    return np.column_stack([radius * np.sin(angle), radius * (1.0 - np.cos(angle))])


def test_constant_acceleration_is_exact():
    # 10 m/s, -2 m/s2: 4.75, 9, 12.75 m ...
    driven = from_waypoints(np.column_stack([10.0 * TIMES - TIMES**2, 0.0 * TIMES]), 0.5, 10.0)
    assert driven.x[1:4].tolist() == [4.75, 9.0, 12.75]
    assert driven.time.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert driven.speed == pytest.approx(10.0 - 2.0 * driven.time)
    assert driven.acceleration == pytest.approx(np.full(7, -2.0))
    assert not driven.heading.any()
    assert not driven.curvature.any()


@pytest.mark.parametrize(
    ("radius", "step_s", "count"), [(20.0, 0.5, 6), (20.0, 0.1, 50), (-50.0, 0.5, 10), (7.0, 0.5, 6)]
)
def test_a_circle_is_exact(radius, step_s, count):
    times = step_s * np.arange(1, count + 1)
    driven = from_waypoints(on_circle(radius, 5.0, times), step_s, 5.0)
    assert driven.heading == pytest.approx(5.0 * driven.time / radius, abs=1e-9)
    assert driven.curvature == pytest.approx(np.full(count + 1, 1.0 / radius))
    assert driven.speed == pytest.approx(np.full(count + 1, 5.0))
    assert driven.acceleration == pytest.approx(np.zeros(count + 1), abs=1e-9)


def test_given_headings_are_kept_and_do_not_jump():
    # a turn beyond half a circle: the model writes -pi/2 where the vehicle has turned by 3/2 pi
    times = np.arange(1, 7) * 0.5
    angle = np.pi / 4 * np.arange(1, 7)
    written = (angle + np.pi) % (2 * np.pi) - np.pi
    places = np.column_stack([on_circle(10.0, 5.0 * np.pi, times), written])
    driven = from_waypoints(places, 0.5, 5.0 * np.pi)
    assert driven.heading == pytest.approx(np.concatenate([[0.0], angle]))
    assert driven.curvature == pytest.approx(np.full(7, 0.1))
    assert driven.speed == pytest.approx(np.full(7, 5.0 * np.pi))


@pytest.mark.parametrize("jitter", [0.0, 0.01, 0.1])
def test_standing_has_no_heading(jitter):
    places = np.random.default_rng(0).uniform(-jitter, jitter, (10, 2))
    driven = from_waypoints(places, 0.5, 0.0)
    assert not driven.heading.any()
    assert not driven.curvature.any()
    assert np.abs(driven.speed).max() <= 4.0 * jitter
    assert driven.first_action(2.8).steering_tire_angle == 0.0


def test_a_stop_keeps_the_last_heading():
    # a left turn of radius 20 m, then standing with places rounded to decimetres
    places = on_circle(20.0, 5.0, np.minimum(TIMES, 1.5))
    places[3:] += [[0.1, 0.0], [0.0, 0.1], [0.0, 0.0]]
    driven = from_waypoints(places, 0.5, 5.0)
    assert driven.heading[-3:] == pytest.approx(np.full(3, 7.5 / 20.0), abs=0.08)
    assert np.abs(np.diff(driven.heading[-4:])).max() < 0.06
    assert driven.speed[-1] == pytest.approx(0.0, abs=0.2)


def test_a_stop_does_not_go_on_backwards():
    # 2 m/s with -1 m/s2: stands after 2 s at 2 m; places every 0.2 s for 2.4 s
    times = np.minimum(0.2 * np.arange(1, 13), 2.0)
    driven = from_waypoints(np.column_stack([2.0 * times - 0.5 * times**2, 0.0 * times]), 0.2, 2.0)
    assert driven.speed.min() >= 0.0
    assert driven.speed[-1] == pytest.approx(0.0, abs=0.2)


@settings(max_examples=40)
@given(st.floats(1.0, 25.0), st.floats(-3.0, 1.5), st.floats(-0.01, 0.01))
def test_rounded_places_are_read_as_what_was_driven(speed, acceleration, curvature):
    true = from_acceleration_curvature(np.tile([acceleration, curvature], (40, 1)), 0.1, speed)
    nodes = true.sample(TIMES)
    driven = from_waypoints(np.column_stack([nodes.x, nodes.y]).round(1), 0.5, speed)
    assert driven.speed[1:] == pytest.approx(nodes.speed, abs=0.5)
    moving = nodes.speed > 2.0
    assert driven.heading[1:][moving] == pytest.approx(nodes.heading[moving], abs=0.12)
    if speed + acceleration > 2.0:
        first = driven.first_action(2.8)
        assert first.acceleration == pytest.approx(acceleration, abs=0.2)
        assert math.tan(first.steering_tire_angle) / 2.8 == pytest.approx(curvature, abs=0.4 / speed**2 + 0.002)


def test_steps_are_put_end_to_end():
    # 2 m ahead and a quarter turn left, three times: three corners of a square
    driven = from_steps(np.tile([2.0, 0.0, math.pi / 2], (3, 1)), 1.0, 2.0)
    assert driven.x == pytest.approx([0.0, 2.0, 2.0, 0.0], abs=1e-9)
    assert driven.y == pytest.approx([0.0, 0.0, 2.0, 2.0], abs=1e-9)
    assert driven.heading == pytest.approx(np.pi / 2 * np.arange(4))


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(-1.0, 1.0), st.floats(-0.4, 0.4)), min_size=1, max_size=10))
def test_steps_come_back(steps):
    driven = from_steps(np.array(steps), 0.5, 8.0)
    assert steps_of(driven, 0.5, len(steps)) == pytest.approx(np.array(steps), abs=1e-6)


@given(st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)), min_size=1, max_size=10), st.floats(0.0, 40.0))
def test_any_places_give_finite_numbers(points, speed):
    driven = from_waypoints(np.array(points), 0.5, speed)
    assert np.isfinite(driven.values).all()
    assert driven.values[:, :3].tolist()[0] == [0.0, 0.0, 0.0]
