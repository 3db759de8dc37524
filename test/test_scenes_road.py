"""The centre line and its coordinates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.scenes.road import MAX_CURVATURE, STEP, Road, build_road


def circle(radius: float, length: float) -> Road:
    s = np.arange(int(length / STEP) + 1) * STEP
    return Road(radius * np.sin(s / radius), radius * (1 - np.cos(s / radius)), s / radius, np.full(len(s), 1 / radius))


def test_points_beside_a_circle_lie_on_a_circle_of_another_radius() -> None:
    road = circle(50.0, 60.0)
    points = road.points(np.linspace(0, 59, 30), 3.5)  # left of a left bend: radius 46.5 about (0, 50)
    assert np.hypot(points[:, 0], points[:, 1] - 50) == pytest.approx(46.5, abs=0.01)


def test_beyond_its_ends_the_road_goes_on_straight() -> None:
    road = circle(50.0, 20.0)
    x, y, heading = road.pose_at(20.0)
    far_x, far_y, far_heading = road.pose_at(30.0)
    assert far_heading == pytest.approx(heading)
    assert math.hypot(far_x - x, far_y - y) == pytest.approx(10.0, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), s=st.floats(5, 150), offset=st.floats(-3, 3))
def test_locate_inverts_points(seed: int, s: float, offset: float) -> None:
    road = build_road(np.random.default_rng(seed), 160.0)
    x, y = road.points(np.array([s]), offset)[0]
    found_s, found_offset, _ = road.locate(float(x), float(y), s + 3.0)
    assert found_s == pytest.approx(s, abs=0.15)
    assert found_offset == pytest.approx(offset, abs=0.05)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), s=st.floats(-5, 170))
def test_one_place_and_many_places_agree(seed: int, s: float) -> None:
    road = build_road(np.random.default_rng(seed), 160.0)
    assert [float(value) for value in road.pose(s)] == pytest.approx(list(road.pose_at(s)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_bends_are_drivable_and_join_smoothly(seed: int) -> None:
    road = build_road(np.random.default_rng(seed), 200.0, stop_lines=(100.0,))
    assert np.abs(road.curvature).max() <= MAX_CURVATURE + 1e-9
    assert np.abs(np.diff(road.curvature)).max() <= 2 * MAX_CURVATURE * STEP / 12 + 1e-9
    assert np.hypot(np.diff(road.x), np.diff(road.y)) == pytest.approx(STEP, abs=1e-3)
    at_junction = road.curvature[int(100 / STEP) : int(115 / STEP)]
    assert np.abs(at_junction).max() <= 0.15 * MAX_CURVATURE + 1e-9
