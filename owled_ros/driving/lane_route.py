"""From the lanes of a route to its line and its marks: turns, straight on at junctions, lane changes. Needs driving.guidance.

Lanes are plain data here; who reads a map (nodes.lanelet_map) makes them. Two lanes follow each other where their bounds do, and lie
side by side where they share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.guidance import Mark, sound_line
from owled_ros.driving.navigation import CommandKind
from owled_ros.errors import OwledError

TURNS = {"left": CommandKind.LEFT, "right": CommandKind.RIGHT, "straight": CommandKind.STRAIGHT}
CHANGE_M = 30.0  # a lane change applies from here before the end of the lane that is left


@dataclass(frozen=True)
class Lane:
    """One lanelet."""

    number: int  # id of the map
    centre: np.ndarray  # (N, 2) [m], in driving direction
    left_bound: int  # ids of the lines beside it
    right_bound: int
    begins: tuple[int, int]  # ids of the first points of its left and right bound, in driving direction
    ends: tuple[int, int]
    turn: str = ""  # turn_direction of the map


@dataclass(frozen=True)
class Section:
    """One step of a route: the lane that is preferred, and those beside it."""

    preferred: int
    lanes: tuple[int, ...]


def line_and_marks(sections: Sequence[Section], lanes: dict[int, Lane]) -> tuple[np.ndarray, list[Mark]]:
    """Join the preferred lanes; raises OwledError for a route that is not of this map."""
    if not sections:
        raise OwledError("the route has no lanes")
    missing = [section.preferred for section in sections if section.preferred not in lanes]
    if missing:
        raise OwledError(
            f"lane {missing[0]} of the route is not in the map ({len(missing)} of {len(sections)} are not)"
        )
    points: list[np.ndarray] = []
    marks: list[Mark] = []
    length = 0.0
    for place, section in enumerate(sections):
        lane = lanes[section.preferred]
        centre = sound_line(lane.centre)
        way = centre if not points else np.concatenate([points[-1][-1:], centre])
        start, length = length, length + float(np.hypot(*np.diff(way, axis=0).T).sum())
        points.append(centre)
        kind = TURNS.get(lane.turn)
        if kind is not None:
            marks.append(Mark(start, length, kind))
        change = None if place + 1 == len(sections) else _change(lane, sections[place + 1], lanes)
        if change is not None:
            marks.append(Mark(max(start, length - CHANGE_M), length, change))
    return np.concatenate(points), _joined(marks)


def _change(lane: Lane, following: Section, lanes: dict[int, Lane]) -> CommandKind | None:
    """Return the lane change that leads from a lane to the preferred one of the next section; None where it goes straight on."""
    wanted = lanes[following.preferred]
    if wanted.begins == lane.ends:
        return None
    ahead = [lanes[number] for number in following.lanes if number in lanes and lanes[number].begins == lane.ends]
    for left, kind in ((True, CommandKind.LANE_CHANGE_LEFT), (False, CommandKind.LANE_CHANGE_RIGHT)):
        over_there = any(wanted.number in _side_by_side(beside, lanes, left) for beside in ahead)
        over_here = any(lanes[number].ends == wanted.begins for number in _side_by_side(lane, lanes, left))
        if over_there or over_here:
            return kind
    return None


def _side_by_side(lane: Lane, lanes: dict[int, Lane], left: bool) -> list[int]:
    """List the lanes to one side, the nearest first."""
    found: list[int] = []
    while True:
        bound = lane.left_bound if left else lane.right_bound
        nexts = [
            other
            for other in lanes.values()
            if (other.right_bound if left else other.left_bound) == bound and other.number not in (lane.number, *found)
        ]
        if not nexts:
            return found
        lane = nexts[0]
        found.append(lane.number)


def _joined(marks: list[Mark]) -> list[Mark]:
    """Join marks of one kind that follow each other."""
    joined: list[Mark] = []
    for mark in sorted(marks, key=lambda item: item.start):
        if joined and joined[-1].kind is mark.kind and mark.start - joined[-1].end < 1.0:
            joined[-1] = Mark(joined[-1].start, mark.end, mark.kind)
        else:
            joined.append(mark)
    return joined
