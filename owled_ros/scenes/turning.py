"""Turns at junctions: their arcs, how fast they are driven, and what the navigation says before them. Needs numpy.

Everything is measured from the stop line, in the straight frame of the road before it. Right-hand traffic: the crossing street
has its near lane 9.5 m and its far lane 13.5 m behind the line; a right turn ends in the near one, a left turn in the far one.
The curvature is a trapezoid with ramps of RAMP metres, so that the wheels need not jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from owled_ros.driving.navigation import CommandKind, NavigationCommand

RAMP = 2.0  # [m] over which the curvature grows and falls
NEAR_LANE, FAR_LANE = 9.5, 13.5  # [m] behind the stop line, centres of the crossing street's lanes
TURN_LATERAL = 2.2  # [m/s2], what a turn is driven with
COMFORTABLE, MARGIN = 1.5, 4.0  # [m/s2], [m]: how the others slow down before a turn
ONCOMING_SPEED = 10.0  # [m/s]
COMMAND_RANGE = 40.0  # [m] before the stop line, from where on the navigation says where to go
STRAIGHT_END = 16.0  # [m] after the line, where a junction is passed straight on
FINE = 0.01  # [m], for integrating an arc


class Way(IntEnum):
    """Where the route goes at a junction; the value is the sign of the turn."""

    RIGHT = -1
    STRAIGHT = 0
    LEFT = 1


COMMANDS = {Way.RIGHT: CommandKind.RIGHT, Way.STRAIGHT: CommandKind.STRAIGHT, Way.LEFT: CommandKind.LEFT}
Junctions = tuple[tuple[float, Way], ...]  # stop lines [m] and where the route goes there, in order


@dataclass(frozen=True)
class Turn:
    """A quarter turn."""

    sign: int  # 1 left, -1 right
    radius: float  # [m]
    start: float  # [m] after the stop line
    length: float  # [m] of the arc with its ramps

    @property
    def end(self) -> float:
        """Where the turn is done [m], along the route after the stop line."""
        return self.start + self.length

    @property
    def speed(self) -> float:
        """How fast it is driven [m/s]."""
        return math.sqrt(TURN_LATERAL * self.radius)

    def curvature(self, after_line: np.ndarray, step: float) -> np.ndarray:
        """Return the curvature [1/m] at places after the stop line [m], `step` apart; it sums to a quarter of a circle."""
        into = after_line - self.start
        share = np.clip(np.minimum(into, self.length - into) / RAMP, 0.0, 1.0)
        total = float(share.sum()) * step
        complete = bool(len(share)) and share[0] == 0.0 and share[-1] == 0.0 and total > 0.0
        return self.sign * share * (math.pi / 2 / total if complete else 1.0 / self.radius)


def _turn(sign: int, radius: float, lane: float) -> Turn:
    """Begin the turn where it ends in a lane that is `lane` [m] behind the stop line."""
    length = radius * math.pi / 2 + RAMP
    place = np.arange(0.0, length, FINE)
    share = np.clip(np.minimum(place, length - place) / RAMP, 0.0, 1.0)
    reach = float(np.cos(np.cumsum(share) * FINE / radius).sum()) * FINE
    return Turn(sign, radius, lane - reach, length)


TURNS = {Way.RIGHT: _turn(-1, 6.0, NEAR_LANE), Way.LEFT: _turn(1, 9.0, FAR_LANE)}


def next_turn(junctions: Junctions, s: float) -> tuple[Turn, float] | None:
    """Return the turn that lies ahead of a place on the route or is being driven there, and how far it is [m] (negative: in it)."""
    for line, way in junctions:
        turn = TURNS.get(way)
        if turn is not None and s < line + turn.end:
            return turn, line + turn.start - s
    return None


def in_a_turn(junctions: Junctions, s: float, before: float = 0.0, behind: float = 0.0) -> bool:
    """Tell whether a place on the route is bent by a turn, or nearer than so many metres to one."""
    return any(
        line + TURNS[way].start - before < s < line + TURNS[way].end + behind for line, way in junctions if way in TURNS
    )


def command_at(junctions: Junctions, s: float, front: float) -> NavigationCommand | None:
    """Return what the navigation says to a vehicle whose rear axle is at `s` and whose bumper at `front`; None without junctions.

    From COMMAND_RANGE before a stop line until the junction is passed it says where to go, else to follow the lane.
    """
    for line, way in junctions:
        end = line + (TURNS[way].end if way in TURNS else STRAIGHT_END)
        if line - COMMAND_RANGE <= front and s < end:
            return NavigationCommand(COMMANDS[way], max(line - front, 0.0))
    return NavigationCommand(CommandKind.FOLLOW_LANE) if junctions else None


def speed_before_turn(junctions: Junctions, s: float) -> float:
    """Return how fast [m/s] a car of the route may be at `s` to be slow enough in its next turn; infinite without one."""
    turn = next_turn(junctions, s)
    return math.inf if turn is None else math.sqrt(turn[0].speed ** 2 + 2.0 * COMFORTABLE * max(turn[1] - MARGIN, 0.0))


def speed_after_turn(junctions: Junctions, s: float) -> float:
    """Return the same for an oncoming car, which drives every turn from its end; ONCOMING_SPEED without one."""
    speed = ONCOMING_SPEED
    for line, way in junctions:
        turn = TURNS.get(way)
        if turn is not None and s > line + turn.start:
            way_to_go = max(s - line - turn.end - MARGIN, 0.0)
            speed = min(speed, math.sqrt(turn.speed**2 + 2.0 * COMFORTABLE * way_to_go))
    return speed
