"""Commands from a route: turns of a bare line and of lanes, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.ego import Pose
from owled_ros.driving.guidance import GuidanceLimits, Guide, Mark, OffRouteError
from owled_ros.driving.lane_route import Lane, Section, line_and_marks
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.errors import OwledError

LIMITS = GuidanceLimits()
CORNER = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 100.0]])  # east, then north
EAST, NORTH = 0.0, math.pi / 2


def arc(radius: float, angle: float, step: float = 0.05) -> np.ndarray:
    """Turn left by `angle` from heading east, 100 m straight on before and after."""
    turns = np.arange(0.0, angle + 1e-9, step)
    bend = np.stack([100.0 + radius * np.sin(turns), radius * (1.0 - np.cos(turns))], axis=1)
    out = bend[-1] + 100.0 * np.array([math.cos(angle), math.sin(angle)])
    return np.concatenate([[[0.0, 0.0]], bend, [out]])


def said(guide: Guide, x: float, y: float = 0.0, heading: float = EAST) -> tuple[CommandKind, float | None, str]:
    command = guide.command(Pose(x, y, heading), 7, LIMITS)
    assert command.stamp == 7
    return command.kind, None if command.distance is None else round(command.distance, 6), command.text


def test_a_corner_is_a_turn_that_is_announced_and_ends() -> None:
    guide = Guide(CORNER)
    assert said(guide, 20.0) == (CommandKind.FOLLOW_LANE, None, "follow the lane")
    assert said(guide, 60.0, 1.5) == (CommandKind.LEFT, 40.0, "turn left in 40 m")
    assert said(guide, 99.8)[:1] == (CommandKind.LEFT,)
    assert said(guide, 99.8)[2] == "turn left now"
    assert said(guide, 100.0, 30.0, NORTH) == (CommandKind.FOLLOW_LANE, None, "follow the lane")
    assert said(guide, 100.0, 96.0, NORTH) == (CommandKind.STOP, 4.0, "stop, the goal is reached")


def test_the_mirrored_corner_is_a_turn_to_the_right() -> None:
    assert said(Guide(CORNER * [1.0, -1.0]), 60.0) == (CommandKind.RIGHT, 40.0, "turn right in 40 m")


def test_a_curve_of_the_road_is_no_turn_and_a_tight_one_is() -> None:
    # 90 degrees on a radius of 100 m: 25 m of it turn by 14 degrees; on 10 m: all of it within 16 m
    assert Guide(arc(100.0, math.pi / 2)).marks == ()
    (mark,) = Guide(arc(10.0, math.pi / 2)).marks
    assert mark.kind is CommandKind.LEFT
    # it begins where the heading has changed by 10 degrees, 1.7 m into 15.7 m, and ends as far before its end
    assert mark.start == pytest.approx(101.7, abs=1.5)
    assert mark.end == pytest.approx(114.0, abs=1.5)


def test_turning_back_is_a_u_turn() -> None:
    (mark,) = Guide(arc(5.0, math.pi)).marks
    assert mark.kind is CommandKind.U_TURN


def test_two_turns_are_two_commands() -> None:
    guide = Guide(np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 100.0], [200.0, 100.0]]))
    assert [mark.kind for mark in guide.marks] == [CommandKind.LEFT, CommandKind.RIGHT]
    assert said(guide, 100.0, 60.0, NORTH) == (CommandKind.RIGHT, 40.0, "turn right in 40 m")


def test_a_route_that_crosses_itself_is_followed_in_order() -> None:
    """A loop through (50, 0): the second passage is not the first one."""
    loop = np.array([[0.0, 0.0], [150.0, 0.0], [150.0, 80.0], [50.0, 80.0], [50.0, -80.0]])
    guide = Guide(loop)
    for x in range(0, 150, 10):
        guide.command(Pose(float(x), 0.0, EAST), 0, LIMITS)
    assert said(guide, 120.0) == (CommandKind.LEFT, 30.0, "turn left in 30 m")
    for x, y in ((150.0, 30.0), (150.0, 70.0), (110.0, 80.0), (60.0, 80.0), (50.0, 50.0), (50.0, 20.0)):
        guide.command(Pose(x, y, 0.0), 0, LIMITS)
    assert said(guide, 50.0, 0.0, -NORTH)[0] is CommandKind.FOLLOW_LANE


def test_away_from_the_route_nothing_is_said() -> None:
    guide = Guide(CORNER)
    with pytest.raises(OffRouteError, match=r"20\.0 m off the route; the limit is 10 m"):
        guide.command(Pose(50.0, 20.0, 0.0), 0, LIMITS)
    with pytest.raises(OffRouteError, match="not finite"):
        guide.command(Pose(math.nan, 0.0, 0.0), 0, LIMITS)
    assert said(guide, 60.0)[0] is CommandKind.LEFT, "and back on it, it is"


def test_the_route_ahead_is_seen_from_the_vehicle() -> None:
    ahead = Guide(CORNER).ahead(Pose(90.0, 1.0, EAST), 20.0, 10.0)
    assert ahead == (
        Pose(0.0, -1.0, 0.0),
        Pose(10.0, -1.0, pytest.approx(NORTH)),
        Pose(10.0, 9.0, pytest.approx(NORTH)),
    )


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (np.zeros((0, 2)), "0 places that differ"),
        (np.zeros((5, 2)), "1 places that differ"),
        (np.zeros((5, 3)), "shape"),
        (np.array([[0.0, 0.0], [math.nan, 1.0]]), "place 1 of the route is"),
        (np.zeros((100_001, 2)), "100001 places; at most 100000"),
        (np.array([[0.0, 0.0], [1e7, 0.0]]), "10000 km long"),
    ],
)
def test_what_is_no_line_is_refused(points: np.ndarray, words: str) -> None:
    with pytest.raises(OwledError, match=words):
        Guide(points)


@given(st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=2, max_size=30), st.integers(0, 20))
def test_on_any_line_there_is_a_command_or_a_reason(places: list[tuple[float, float]], at: int) -> None:
    try:
        guide = Guide(np.array(places))
    except OwledError:
        return
    command = guide.command(Pose(*places[at % len(places)], 0.0), 0, LIMITS)
    assert isinstance(command, NavigationCommand)
    assert command.distance is None or 0.0 <= command.distance <= LIMITS.announce_m


# Lanes: two side by side, 1 (right) and 2 (left), then 3 (right) and 4 (left), then 5 turns left behind 4


def lane(number: int, x: float, y: float, left: int, right: int, turn: str = "", points: object = None) -> Lane:
    """Make a lane of 50 m to the east; the bounds begin at points x * 1000 + bound."""
    centre = np.array([[x, y], [x + 50.0, y]]) if points is None else np.array(points)
    begin = round(x)
    return Lane(
        number, centre, left * 100 + begin, right * 100 + begin,
        (left * 1000 + begin, right * 1000 + begin), (left * 1000 + begin + 50, right * 1000 + begin + 50), turn,
    )  # fmt: skip


LANES = {
    item.number: item
    for item in (
        lane(1, 0.0, 0.0, 2, 1),
        lane(2, 0.0, 3.5, 3, 2),
        lane(3, 50.0, 0.0, 2, 1),
        lane(4, 50.0, 3.5, 3, 2),
        lane(5, 100.0, 3.5, 3, 2, "left", [[100.0, 3.5], [110.0, 13.5]]),
        lane(6, 100.0, 0.0, 2, 1, "straight"),
    )
}


def test_lanes_give_turns_and_lane_changes() -> None:
    line, marks = line_and_marks([Section(1, (1, 2)), Section(4, (3, 4)), Section(5, (5,))], LANES)
    # lane 1 is 50 m, the way over to lane 4 is 3.5 m, lane 4 is 50 m, lane 5 is 14.142 m
    assert len(line) == 6
    change, turn = marks
    assert (change.kind, change.start, change.end) == (CommandKind.LANE_CHANGE_LEFT, 20.0, 50.0)
    assert (turn.kind, turn.start) == (CommandKind.LEFT, pytest.approx(103.5))
    assert turn.end == pytest.approx(103.5 + math.hypot(10.0, 10.0))
    guide = Guide(line, marks)
    assert said(guide, 5.0) == (CommandKind.LANE_CHANGE_LEFT, 15.0, "change to the left lane in 15 m")
    assert said(guide, 80.0, 3.5) == (CommandKind.LEFT, 20.0, "turn left in 20 m")


def test_the_other_way_round_is_a_change_to_the_right_and_straight_on_is_said() -> None:
    _, marks = line_and_marks([Section(2, (1, 2)), Section(3, (3, 4)), Section(6, (6,))], LANES)
    assert marks == [
        Mark(20.0, 50.0, CommandKind.LANE_CHANGE_RIGHT),
        Mark(pytest.approx(103.5), pytest.approx(153.5), CommandKind.STRAIGHT),  # type: ignore[arg-type]
    ]


def test_a_lane_that_ends_is_left_to_the_lane_beside_it() -> None:
    """Nothing follows lane 1; lane 4 follows lane 2, to its left."""
    there = {number: LANES[number] for number in (1, 2, 4)}
    _, marks = line_and_marks([Section(1, (1, 2)), Section(4, (4,))], there)
    assert [mark.kind for mark in marks] == [CommandKind.LANE_CHANGE_LEFT]


def test_without_a_change_nothing_is_said() -> None:
    assert line_and_marks([Section(1, (1, 2)), Section(3, (3, 4))], LANES)[1] == []


def test_a_route_of_another_map_is_said() -> None:
    with pytest.raises(OwledError, match=r"lane 9 of the route is not in the map \(1 of 2"):
        line_and_marks([Section(1, (1,)), Section(9, (9,))], LANES)
    with pytest.raises(OwledError, match="no lanes"):
        line_and_marks([], LANES)
