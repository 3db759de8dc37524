"""A trajectory put down in a fixed frame and cut where the vehicle is; worked by hand and as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.anchoring import AnchoredTrajectory, anchored, cut
from owled_ros.driving.ego import Pose
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.driving.trajectory import COLUMNS, Trajectory
from owled_ros.driving.waypoints import from_waypoints

SECOND = 1_000_000_000
ORIGIN = Pose(0.0, 0.0, 0.0)
STEADY = from_acceleration_curvature(np.zeros((3, 2)), 1.0, 10.0)  # 10 m/s straight on for 3 s


def ground(trajectory: Trajectory = STEADY, pose: Pose = ORIGIN, step_s: float = 0.5) -> AnchoredTrajectory:
    return anchored(trajectory, pose, 100 * SECOND, step_s)


def test_points_are_put_where_the_vehicle_was_and_no_farther_apart_than_asked() -> None:
    # at (5, 7) facing +y, 10 m/s: every half second 5 m further up
    plan = ground(pose=Pose(5.0, 7.0, math.pi / 2))
    assert plan.values[:, 0] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert plan.values[:, 1] == pytest.approx(np.full(7, 5.0))
    assert plan.values[:, 2] == pytest.approx(7.0 + 5.0 * np.arange(7))
    assert plan.values[:, 3] == pytest.approx(np.full(7, math.pi / 2))


def test_the_cut_begins_at_the_vehicle_and_the_rest_stays_where_it_is() -> None:
    # 0.7 s later at 7 m: the start is (7, 0), the point of 1.0 s (10 m) is 0.3 s away
    rest = cut(ground(), Pose(7.0, 0.0, 0.0), 100 * SECOND + 7 * SECOND // 10, 2.0)
    assert rest is not None
    assert rest.values[:, 0] == pytest.approx([0.0, 0.3, 0.8, 1.3, 1.8, 2.3])
    assert rest.values[:, 1] == pytest.approx([7.0, 10.0, 15.0, 20.0, 25.0, 30.0])
    assert rest.stamp == 100 * SECOND + 7 * SECOND // 10


def test_a_vehicle_that_lags_or_drives_beside_begins_at_its_own_place_on_the_path() -> None:
    # at 6 m instead of 7, half a metre to the left: begins at (6, 0), the point at 10 m is 0.4 s away
    rest = cut(ground(), Pose(6.0, 0.5, 0.0), 100 * SECOND + 7 * SECOND // 10, 2.0)
    assert rest is not None
    assert rest.values[0, 1:3] == pytest.approx([6.0, 0.0])
    assert rest.values[1, :2] == pytest.approx([0.4, 10.0])


def test_a_vehicle_ahead_of_the_plan_does_not_push_it_on() -> None:
    rest = cut(ground(), Pose(8.0, 0.0, 0.0), 100 * SECOND + 7 * SECOND // 10, 2.0)
    assert rest is not None
    assert rest.values[0, 1:3] == pytest.approx([7.0, 0.0])


def test_a_wait_is_not_cut_short_by_a_vehicle_that_stands_a_little_ahead() -> None:
    # 2 s of standing, then on; 0.3 m ahead after half a second: 1.5 s of standing are left
    waiting = from_waypoints(np.array([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0], [6.0, 0.0]]), 1.0, 0.0)
    rest = cut(ground(waiting, step_s=0.1), Pose(0.3, 0.0, 0.0), 100 * SECOND + SECOND // 2, 2.0)
    assert rest is not None
    standing = rest.values[rest.values[:, 1] < 1e-6]
    assert standing[-1, 0] == pytest.approx(1.5)


def test_what_is_over_or_has_not_begun_leaves_nothing() -> None:
    assert cut(ground(), Pose(0.0, 0.0, 0.0), 99 * SECOND, 2.0) is None
    assert cut(ground(), Pose(30.0, 0.0, 0.0), 103 * SECOND, 2.0) is None


def test_the_distance_is_to_the_place_of_now() -> None:
    # after 1 s it should be at 10 m; it is at (7, 4): 3-4-5
    assert ground().distance(Pose(7.0, 4.0, 0.0), 101 * SECOND) == pytest.approx(5.0)


numbers = st.floats(-1.0, 1.0)


@st.composite
def drives(draw: st.DrawFn) -> AnchoredTrajectory:
    controls = np.array(draw(st.lists(st.tuples(numbers, st.floats(-0.1, 0.1)), min_size=4, max_size=8)))
    trajectory = from_acceleration_curvature(controls, 0.5, draw(st.floats(0.0, 20.0)))
    pose = Pose(draw(st.floats(-1e4, 1e4)), draw(st.floats(-1e4, 1e4)), draw(st.floats(-3.1, 3.1)))
    return anchored(trajectory, pose, 100 * SECOND, 0.1)


def along(plan: AnchoredTrajectory, seconds: float, lag_s: float, off_m: float) -> tuple[Pose, int]:
    """A vehicle `lag_s` behind the plan and `off_m` beside it."""
    place = plan.at(max(seconds - lag_s, 0.0))
    x, y = place[1] - off_m * math.sin(place[3]), place[2] + off_m * math.cos(place[3])
    return Pose(float(x), float(y), float(place[3])), 100 * SECOND + round(seconds * SECOND)


@given(drives(), st.floats(0.0, 1.9), st.floats(0.0, 0.3), st.floats(-0.5, 0.5))
def test_points_of_the_rest_are_points_of_the_plan(
    plan: AnchoredTrajectory, seconds: float, lag: float, off: float
) -> None:
    rest = cut(plan, *along(plan, seconds, lag, off), 2.0)
    assert rest is not None
    kept = plan.values[len(plan.values) - len(rest.values) + 1 :]
    assert np.array_equal(rest.values[1:, 1:], kept[:, 1:])  # every place in the world, to the last bit
    assert np.allclose(np.diff(rest.values[1:, 0]), np.diff(kept[:, 0]), atol=1e-9)
    assert (np.diff(rest.values[:, 0]) > 0.0).all()
    assert rest.values[0, 0] == 0.0
    start = plan.at(rest.duration and plan.duration - rest.duration)  # the beginning lies on the plan
    assert np.allclose(rest.values[0, 1:3], start[1:3], atol=1e-6)


@given(drives(), st.floats(0.0, 0.9), st.floats(0.0, 0.9), st.floats(-0.3, 0.3))
def test_cutting_twice_is_cutting_once(plan: AnchoredTrajectory, first: float, more: float, off: float) -> None:
    once = cut(plan, *along(plan, first + more, 0.0, off), 2.0)
    half = cut(plan, *along(plan, first, 0.0, off), 2.0)
    assert half is not None
    twice = cut(half, *along(plan, first + more, 0.0, off), 2.0)
    assert once is not None
    assert twice is not None
    assert abs(len(once.values) - len(twice.values)) <= 1  # the beginning may fall on a point, or just before it
    shared = min(len(once.values), len(twice.values)) - 1
    assert np.allclose(once.values[-shared:, 1:], twice.values[-shared:, 1:], atol=1e-9)
    assert np.allclose(once.values[0, 1:3], twice.values[0, 1:3], atol=0.3)  # [m], 0.01 s at 25 m/s
    assert abs(once.duration - twice.duration) < 0.021


def test_the_columns_are_those_of_a_trajectory() -> None:
    assert ground().values.shape[1] == len(COLUMNS)
