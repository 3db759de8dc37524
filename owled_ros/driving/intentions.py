"""What a trajectory is about to do, in words for others: where it turns, where and why it stops or slows down. Needs numpy.

Distances run along the path from the vehicle. Letters: N points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from owled_ros.driving.answer import Light, Manoeuvre, ObjectKind, Scene
from owled_ros.driving.navigation import CommandKind, NavigationCommand

STANDING = 0.1  # [m/s]
BRAKING = -0.5  # [m/s2]; weaker deceleration is no news
BRAKING_MPS = 1.0  # [m/s] that are taken off at least
SHIFT_M = 2.5  # [m] to the side, heading along the road again: a lane change
SHIFT_RAD = 0.15  # [rad], how much the heading may differ after it
TURN_RAD = 0.7  # [rad] of heading ...
TURN_RADIUS_M = 20.0  # ... on a radius no larger: a turn at a junction, not a bend of the road
LEFT_COMMANDS = (CommandKind.LEFT, CommandKind.LANE_CHANGE_LEFT)
RIGHT_COMMANDS = (CommandKind.RIGHT, CommandKind.LANE_CHANGE_RIGHT)
ALONG_COMMANDS = (CommandKind.FOLLOW_LANE, CommandKind.STRAIGHT, CommandKind.STOP)


class Turn(IntEnum):
    """Which indicator. Values equal autoware_vehicle_msgs/TurnIndicatorsCommand."""

    NO_COMMAND = 0
    OFF = 1
    LEFT = 2
    RIGHT = 3


class Behaviour(Enum):
    """What a factor makes the vehicle do."""

    SLOW_DOWN = "slow down"
    STOP = "stop"


@dataclass(frozen=True)
class Factor:
    """Something that makes the vehicle slow down or stop: from where to where, and why."""

    behaviour: Behaviour
    points: tuple[int, ...]  # rows of the trajectory: of the stop, or of the beginning and the end of slowing down
    distances: tuple[float, ...]  # [m] along the path to each
    detail: str


def turn_of(values: np.ndarray, command: NavigationCommand | None, near_m: float) -> Turn:
    """Choose an indicator for a trajectory (N, 7).

    A command to turn or to change lanes that applies within `near_m` [m] (or nobody knows where) decides; one to follow the road says
    that nothing is indicated. Without either the path speaks: a shift by a lane that ends along the road, or a tight turn. A bend of the
    road is neither.
    """
    kind = CommandKind.UNKNOWN if command is None else command.kind
    near = command is not None and (command.distance is None or command.distance <= near_m)
    if near and kind in LEFT_COMMANDS:
        return Turn.LEFT
    if near and kind in RIGHT_COMMANDS:
        return Turn.RIGHT
    if kind in ALONG_COMMANDS:
        return Turn.OFF
    return _turn_of_path(values)


def factors_of(values: np.ndarray, manoeuvre: int, scene: Scene | None) -> list[Factor]:
    """Find where a trajectory (N, 7) stops for good, else where it slows down; with the reason that scene and manoeuvre give."""
    way = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(values[:, 1]), np.diff(values[:, 2])))])  # (N,) [m]
    speed = np.abs(values[:, 4])
    why = reason_of(manoeuvre, scene)
    if speed[-1] < STANDING:
        moving = np.flatnonzero(speed >= STANDING)
        stop = int(moving[-1]) + 1 if len(moving) else 0
        return [Factor(Behaviour.STOP, (stop,), (float(way[stop]),), why)]
    braking = np.flatnonzero(values[:, 5] <= BRAKING)
    if not len(braking):
        return []
    begin = int(braking[0])
    ends = np.flatnonzero(values[begin:, 5] > BRAKING)
    end = begin + int(ends[0]) if len(ends) else len(values) - 1
    if speed[begin] - speed[end] < BRAKING_MPS:
        return []
    return [Factor(Behaviour.SLOW_DOWN, (begin, end), (float(way[begin]), float(way[end])), why)]


def reason_of(manoeuvre: int, scene: Scene | None) -> str:
    """Say in words why the vehicle brakes, with the distance where the model's description names one."""
    if manoeuvre == Manoeuvre.STOP:
        light = "traffic light"
        if scene is not None and scene.light in (Light.RED, Light.YELLOW):
            light = f"{scene.light.name.lower()} traffic light{_at(scene.light_distance)}"
        return light
    if manoeuvre == Manoeuvre.YIELD:
        crossing = [] if scene is None else [item for item in scene.pedestrians if item.kind is ObjectKind.CROSSING]
        return "pedestrian" + (_at(crossing[0].distance) if crossing else "")
    if manoeuvre == Manoeuvre.FOLLOW:
        lead = [] if scene is None else [item for item in scene.cars if item.kind is ObjectKind.LEAD]
        return "vehicle ahead" + (_at(lead[0].distance) if lead else "")
    return "the model gives no reason"


def _at(distance: float | None) -> str:
    return "" if distance is None else f" at {distance:.0f} m"


def _turn_of_path(values: np.ndarray) -> Turn:
    heading = values[-1, 3] - values[0, 3]
    cos, sin = math.cos(values[0, 3]), math.sin(values[0, 3])
    dx, dy = values[-1, 1:3] - values[0, 1:3]
    shift = cos * dy - sin * dx
    if abs(shift) >= SHIFT_M and abs(heading) <= SHIFT_RAD:
        return Turn.LEFT if shift > 0.0 else Turn.RIGHT
    tight = bool((np.abs(values[:, 6]) >= 1.0 / TURN_RADIUS_M).any())
    if tight and abs(heading) >= TURN_RAD:
        return Turn.LEFT if heading > 0.0 else Turn.RIGHT
    return Turn.OFF


@dataclass
class Indicator:
    """Keeps an indicator on for a while, so that it does not flicker."""

    hold_s: float
    _turn: Turn = Turn.OFF
    _until: float = -math.inf  # [s]

    def show(self, wanted: Turn, now_s: float) -> Turn:
        """Return what to show at a time [s]; a side that is wanted shows at once, and goes off `hold_s` after the last wish."""
        if wanted in (Turn.LEFT, Turn.RIGHT):
            self._turn, self._until = wanted, now_s + self.hold_s
        elif not self._until - self.hold_s <= now_s < self._until:  # over, or the clock restarted
            self._turn = wanted
        return self._turn
