"""A route as a line: what lies ahead, by hand and against the world's own road; places along it; lines that are none."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from owled_ros.driving.ego import Pose
from owled_ros.driving.route_line import RouteLine, distance_along, places_of
from owled_ros.errors import OwledError
from owled_ros.scenes.world import World

STRAIGHT = np.array([[0.0, 0.0], [40.0, 0.0], [100.0, 0.0]])


def test_ahead_begins_beside_the_vehicle_and_not_at_a_place_of_the_line() -> None:
    # the vehicle at x 13 lies 1 m left of the line and looks along it
    ahead = RouteLine(STRAIGHT).ahead(Pose(13.0, 1.0, 0.0))
    assert (ahead[0].x, ahead[0].y, ahead[0].heading) == pytest.approx((0.0, -1.0, 0.0))
    assert (ahead[30].x, ahead[30].y) == pytest.approx((30.0, -1.0))
    assert len(ahead) == 67


def test_a_line_of_the_map_is_seen_from_the_vehicle() -> None:
    # north along x = 5; the vehicle stands on it and looks north
    (_, one, *_) = RouteLine(np.array([[5.0, -50.0], [5.0, 50.0]])).ahead(Pose(5.0, 0.0, math.pi / 2))
    assert (one.x, one.y, one.heading) == pytest.approx((1.0, 0.0, 0.0))


def test_beyond_its_end_it_goes_straight_on() -> None:
    ahead = RouteLine(STRAIGHT).ahead(Pose(95.0, 0.0, 0.0))
    assert (ahead[20].x, ahead[20].y) == pytest.approx((20.0, 0.0))
    with pytest.raises(OwledError, match=r"10\.5 m off the route"):
        RouteLine(STRAIGHT).ahead(Pose(110.5, 0.0, 0.0))


def test_where_a_route_crosses_itself_the_piece_that_is_driven_counts() -> None:
    # east along y = 0, around, and back south along x = 20: the vehicle at the crossing looks south
    line = RouteLine(np.array([[0.0, 0.0], [40.0, 0.0], [40.0, 30.0], [20.0, 30.0], [20.0, -30.0]]))
    for heading in (0.0, -math.pi / 2):
        ahead = line.ahead(Pose(20.0, 0.0, heading))
        assert (ahead[5].x, ahead[5].y) == pytest.approx((5.0, 0.0))


@pytest.mark.parametrize("seed", [0, 4])
def test_headings_are_those_of_the_road(seed: int) -> None:
    road = World(seed, turns=True).stage.road
    places = np.arange(0.0, 200.0)
    line = RouteLine(road.points(places, 0.0))
    x, y, heading = road.pose_at(50.0)
    for step, place in enumerate(line.ahead(Pose(x, y, heading))):
        there = Pose(*road.pose_at(50.0 + step)).seen_from(Pose(x, y, heading))
        assert math.dist((place.x, place.y), (there.x, there.y)) < 0.1
        assert abs(place.heading - there.heading) < 0.05


def test_distance_along_is_that_of_the_curve() -> None:
    # a quarter of a circle to the left of radius 20: its end lies 31.4 m along
    angles = np.linspace(0.0, math.pi / 2, 200)
    curve = tuple(Pose(20.0 * math.sin(a), 20.0 * (1.0 - math.cos(a)), a) for a in angles)
    assert distance_along(curve, (20.0 * math.sin(1.0), 20.0 * (1.0 - math.cos(1.0)))) == pytest.approx(20.0, abs=0.01)
    straight = tuple(Pose(float(x), 0.0, 0.0) for x in range(60))
    assert distance_along(straight, (24.3, 2.0)) == pytest.approx(24.3)
    assert distance_along((), (24.3, 2.0)) == pytest.approx(24.3)  # without a route what is straight ahead
    for beside in ((24.3, 3.5), (-1.0, 0.0), (70.0, 0.0), (math.nan, 0.0)):
        assert distance_along(straight, beside) is None


@pytest.mark.parametrize(
    ("points", "words"),
    [([[0, 0]], "1 places that differ"), ([[0, 0], [math.inf, 0]], "expected finite"), ([[1, 1], [1, 1]], "1 places")],
)
def test_what_is_no_line_is_refused(points: list[list[float]], words: str) -> None:
    with pytest.raises(OwledError, match=words):
        RouteLine(np.array(points, np.float64))


def test_places_of_the_three_messages() -> None:
    pose = SimpleNamespace(pose=SimpleNamespace(position=SimpleNamespace(x=1.0, y=2.0)))
    for message in (SimpleNamespace(poses=[pose]), SimpleNamespace(points=[pose])):
        assert places_of(message).tolist() == [[1.0, 2.0]]
    assert places_of(SimpleNamespace(poses=[])).shape == (0, 2)
    with pytest.raises(OwledError, match="at most 100000"):
        places_of(SimpleNamespace(poses=[pose] * 100_001))
