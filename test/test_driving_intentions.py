"""Indicators and planning factors of trajectories, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from owled_ros.driving.answer import Light, Manoeuvre, ObjectKind, Scene, SceneObject
from owled_ros.driving.intentions import Behaviour, Indicator, Turn, factors_of, reason_of, turn_of
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.rollout import from_acceleration_curvature

STRAIGHT = from_acceleration_curvature(np.zeros((30, 2)), 0.1, 10.0).values


def bend(radius: float, seconds: float = 3.0, speed: float = 10.0) -> np.ndarray:
    return from_acceleration_curvature(np.tile([0.0, 1.0 / radius], (round(seconds / 0.1), 1)), 0.1, speed).values


def lane_change() -> np.ndarray:
    """3.5 m to the left and along the road again: 0.7 s each of curvature 0.07, at 10 m/s: 2 * 7^2 * 0.07 / 2 = 3.4 m."""
    controls = np.array([[0.0, 0.07]] * 7 + [[0.0, -0.07]] * 7 + [[0.0, 0.0]] * 10)
    return from_acceleration_curvature(controls, 0.1, 10.0).values


def command(kind: CommandKind, distance: float | None = None) -> NavigationCommand:
    return NavigationCommand(kind, distance)


@pytest.mark.parametrize(
    ("values", "given", "turn"),
    [
        (STRAIGHT, None, Turn.OFF),
        (STRAIGHT, command(CommandKind.LEFT, 20.0), Turn.LEFT),
        (STRAIGHT, command(CommandKind.LEFT, 80.0), Turn.OFF),
        (STRAIGHT, command(CommandKind.LANE_CHANGE_RIGHT), Turn.RIGHT),
        (bend(50.0), None, Turn.OFF),  # a bend of the road: 34 degrees, 9 m to the side
        (bend(12.0, 2.0, 6.0), None, Turn.LEFT),  # 57 degrees on a radius of 12 m
        (bend(-12.0, 2.0, 6.0), None, Turn.RIGHT),
        (bend(12.0, 2.0, 6.0), command(CommandKind.FOLLOW_LANE), Turn.OFF),
        (lane_change(), None, Turn.LEFT),
    ],
)
def test_the_indicator_follows_the_command_and_else_the_path(
    values: np.ndarray, given: NavigationCommand | None, turn: Turn
) -> None:
    assert turn_of(values, given, 30.0) is turn


def test_a_path_is_judged_in_its_own_direction() -> None:
    turned = lane_change()
    turned[:, 1], turned[:, 2] = -turned[:, 2].copy(), turned[:, 1].copy()
    turned[:, 3] += math.pi / 2
    assert turn_of(turned, None, 30.0) is Turn.LEFT


def test_an_indicator_does_not_flicker() -> None:
    indicator = Indicator(1.0)
    assert indicator.show(Turn.LEFT, 10.0) is Turn.LEFT
    assert indicator.show(Turn.OFF, 10.9) is Turn.LEFT
    assert indicator.show(Turn.OFF, 11.1) is Turn.OFF
    assert indicator.show(Turn.LEFT, 12.0) is Turn.LEFT
    assert indicator.show(Turn.OFF, 5.0) is Turn.OFF  # the clock restarted


def test_a_stop_is_where_the_vehicle_comes_to_rest() -> None:
    # from 10 m/s with 5 m/s2: 2 s and 10 m
    stopping = from_acceleration_curvature(np.array([[-5.0, 0.0]] * 20 + [[0.0, 0.0]] * 10), 0.1, 10.0).values
    scene = Scene(light=Light.RED, light_distance=12.0)
    (factor,) = factors_of(stopping, Manoeuvre.STOP, scene)
    assert factor.behaviour is Behaviour.STOP
    assert factor.distances == pytest.approx((10.0,), abs=0.1)
    assert stopping[factor.points[0], 4] < 0.1
    assert factor.detail == "red traffic light at 12 m"


def test_a_standing_vehicle_stops_here() -> None:
    standing = from_acceleration_curvature(np.zeros((10, 2)), 0.1, 0.0).values
    (factor,) = factors_of(standing, Manoeuvre.YIELD, None)
    assert (factor.points, factor.distances, factor.detail) == ((0,), (0.0,), "pedestrian")


def test_slowing_down_has_a_beginning_and_an_end() -> None:
    # 1 s at 10 m/s (10 m), 2 s of -2 m/s2 (16 m), on with 6 m/s
    controls = np.array([[0.0, 0.0]] * 10 + [[-2.0, 0.0]] * 20 + [[0.0, 0.0]] * 10)
    values = from_acceleration_curvature(controls, 0.1, 10.0).values
    scene = Scene(cars=(SceneObject(ObjectKind.PARKED, 8.0), SceneObject(ObjectKind.LEAD, 20.0)))
    (factor,) = factors_of(values, Manoeuvre.FOLLOW, scene)
    assert factor.behaviour is Behaviour.SLOW_DOWN
    assert factor.distances == pytest.approx((10.0, 26.0), abs=1.1)
    assert factor.detail == "vehicle ahead at 20 m"


def test_a_free_road_has_no_factor() -> None:
    assert factors_of(STRAIGHT, Manoeuvre.CRUISE, None) == []


def test_words_name_only_what_the_description_names() -> None:
    crossing = Scene(pedestrians=(SceneObject(ObjectKind.SIDEWALK, 5.0), SceneObject(ObjectKind.CROSSING, 14.0)))
    assert reason_of(Manoeuvre.YIELD, crossing) == "pedestrian at 14 m"
    assert reason_of(Manoeuvre.STOP, Scene(light=Light.GREEN, light_distance=9.0)) == "traffic light"
    assert reason_of(Manoeuvre.UNKNOWN, crossing) == "the model gives no reason"
