"""What the numbers of a vector scene say: who is to be seen, the light, the junction, the next turn. Needs numpy.

A vehicle counts where it moves, within 40 m and 60 degrees of straight ahead; a pedestrian within 30 m; a traffic light
within 30 m (the limits of the released LLM-Driver scenes). Angles are in degrees, right positive, as its sentences have them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.vectors import LIGHT_NAMES, METRES, SPEEDS, Ego, Pedestrian, Route, VectorScene, Vehicle

VEHICLE_RANGE, PEDESTRIAN_RANGE, LIGHT_RANGE = 40.0, 30.0, 30.0  # [m]
VIEW_DEGREES = 60.0  # to either side
NEAR_JUNCTION = 5.0  # [m], nearer is in it
MPH = 2.23694  # of 1 m/s
FULL_WHEEL_DEGREES = 455.0  # of the steering wheel
ROUNDABOUT_DEGREES = 30.0


@dataclass(frozen=True)
class Seen:
    """A road user within the limits."""

    angle: float  # [deg], right positive
    distance: float  # [m]
    travelling: float  # [deg] of its direction, right positive, 0: as the vehicle itself
    crossing: bool = False  # pedestrians only


@dataclass(frozen=True)
class Facts:
    """Everything that the sentences say."""

    vehicles: tuple[Seen, ...]  # in the order of the rows
    pedestrians: tuple[Seen, ...]
    junction: float  # [m]; 0: in it, infinite: none ahead
    roundabout: bool
    light: str  # "none", "green", "yellow", "red" or "red+yellow"
    light_distance: float | None  # [m]
    lane_offset: float  # [m] of the route from the vehicle, left positive
    lane_angle: float  # [deg] of the route against the vehicle, right positive
    speed: float  # [m/s]
    wheel: float  # [%] of the full turn of the steering wheel, left positive
    turn: float  # [deg] of the last route point, right positive
    turn_distance: float  # [m] to it
    last_pedals: tuple[float, float, float]  # accelerator, brake, steering as they were before


def facts_of(scene: VectorScene) -> Facts:
    """Read a scene."""
    vehicles = scene.vehicles[(scene.vehicles[:, Vehicle.ACTIVE] == 1) & (scene.vehicles[:, Vehicle.MOVING] == 1)]
    people = scene.pedestrians[scene.pedestrians[:, Pedestrian.ACTIVE] == 1]
    route = scene.route
    angles = _angle(route[:, Route.DX], route[:, Route.DY])  # (R,)
    distances = np.hypot(route[:, Route.X], route[:, Route.Y]) * METRES
    junctions = route[:, Route.JUNCTION] > 0
    light, light_distance = _light(route, distances)
    return Facts(
        vehicles=tuple(
            _seen(row, (Vehicle.X, Vehicle.Y, Vehicle.DX, Vehicle.DY))
            for row in vehicles if _in_view(row[Vehicle.X], row[Vehicle.Y], VEHICLE_RANGE)
        ),
        pedestrians=tuple(
            _seen(row, (Pedestrian.X, Pedestrian.Y, Pedestrian.DX, Pedestrian.DY), bool(row[Pedestrian.CROSSING] > 0))
            for row in people if _in_view(row[Pedestrian.X], row[Pedestrian.Y], PEDESTRIAN_RANGE)
        ),
        junction=0.0 if junctions[0] else float(distances[junctions].min(initial=math.inf)),
        roundabout=_is_roundabout(angles),
        light=light,
        light_distance=light_distance,
        lane_offset=float(route[0, Route.Y]) * METRES,
        lane_angle=float(angles[0]),
        speed=float(scene.ego[Ego.SPEED]) * SPEEDS,
        wheel=math.degrees(float(scene.ego[Ego.STEERING_WHEEL])) / FULL_WHEEL_DEGREES * 100.0,
        turn=float(angles[-1]),
        turn_distance=float(distances[-1]),
        last_pedals=(float(scene.ego[Ego.LAST_ACCELERATOR]), float(scene.ego[Ego.LAST_BRAKE]), float(scene.ego[Ego.LAST_STEERING])),
    )  # fmt: skip


def _seen(row: np.ndarray, columns: tuple[int, int, int, int], crossing: bool = False) -> Seen:
    x, y, dx, dy = (float(row[column]) for column in columns)
    return Seen(float(_angle(x, y)), math.hypot(x, y) * METRES, float(_angle(dx, dy)), crossing)


def _in_view(x: float, y: float, reach: float) -> bool:
    return x > 0 and abs(float(_angle(x, y))) < VIEW_DEGREES and math.hypot(x, y) * METRES <= reach


def _angle(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    return np.degrees(np.arctan2(-np.asarray(y), np.asarray(x)))


def _light(route: np.ndarray, distances: np.ndarray) -> tuple[str, float | None]:
    places = np.flatnonzero(route[:, Route.LIGHT] > 0)
    if len(places) == 0 or distances[places[0]] > LIGHT_RANGE:
        return "none", None
    for name, column in LIGHT_NAMES.items():
        if route[places[0], column] > 0:
            return name, float(distances[places[0]])
    return "none", None


def _is_roundabout(angles: np.ndarray) -> bool:
    steps = np.diff(angles)
    steps = np.where(steps > 180, steps - 360, np.where(steps < -180, steps + 360, steps))
    return bool(steps[steps > 0].sum() > ROUNDABOUT_DEGREES and -steps[steps < 0].sum() > ROUNDABOUT_DEGREES)
