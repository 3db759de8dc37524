"""The scene as the numbers that LLM-Driver reads (arXiv 2310.01957, appendix): vehicles, pedestrians, route, the vehicle itself.

Needs numpy. x forward, y left; positions in units of 10 m, speeds in units of 5 m/s. Rows of vehicles and pedestrians stand
nearest first; a row whose first number is 0 is empty. Letters: V vehicles, P pedestrians, R route points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from owled_ros.errors import OwledError

METRES = 10.0  # [m] of one unit
SPEEDS = 5.0  # [m/s] of one unit
EGO = 31
VEHICLES, PEDESTRIANS, ROUTE = (30, 33), (20, 9), (30, 17)  # rows, numbers of a row
ROUTE_SPACING = 2.0  # [m] between route points
ROUTE_START = 2.3  # [m], the first route point lies this far ahead
FIRST_ROUTE, FIRST_VEHICLE = 1, 1 + ROUTE[0]  # rows of a packed scene
FIRST_PEDESTRIAN = FIRST_VEHICLE + VEHICLES[0]
ROWS, WIDTH = FIRST_PEDESTRIAN + PEDESTRIANS[0], VEHICLES[1]  # (81, 33)
WHEEL_RATIO = 13.24  # of the steering wheel to the tires: its full turn of 455 degrees is 0.6 rad of them
LARGEST = 100.0  # no number of a scene is larger: 1 km, 500 m/s


class Vehicle(IntEnum):
    """Columns of a vehicle."""

    ACTIVE = 0
    MOVING = 1  # 0: parked
    SPEED = 2
    X = 3
    Y = 4
    DX = 6  # direction
    DY = 7
    HALF_LENGTH = 9  # [m]
    HALF_WIDTH = 10
    HALF_HEIGHT = 11
    IS_CAR = 12
    CORNERS = 18  # x and y of the four corners, to 25


class Pedestrian(IntEnum):
    """Columns of a pedestrian."""

    ACTIVE = 0
    SPEED = 1
    X = 2
    Y = 3
    DX = 5
    DY = 6
    CROSSING = 8


class Route(IntEnum):
    """Columns of a route point."""

    X = 0
    Y = 1
    DX = 3
    DY = 4
    SPEED_LIMIT = 6
    JUNCTION = 7
    WIDTH_LEFT = 8
    WIDTH_RIGHT = 9
    LIGHT = 10
    GREEN = 11  # the state: one of four
    YELLOW = 12
    RED = 13
    RED_YELLOW = 14
    ROUNDABOUT = 16


class Ego(IntEnum):
    """Places of the vehicle's own numbers."""

    ACCELERATION = 0  # [m/s2]
    SPEED = 1
    BRAKE = 2
    STEERING_WHEEL = 3  # [rad], left positive
    HALF_LENGTH = 5  # [m]
    HALF_WIDTH = 6
    HALF_HEIGHT = 7
    CLASS = 8
    DYNAMICS = 14
    LAST_ACCELERATOR = 16
    LAST_STEERING = 17
    LAST_BRAKE = 18


LIGHT_NAMES = {"green": Route.GREEN, "yellow": Route.YELLOW, "red": Route.RED, "red+yellow": Route.RED_YELLOW}


@dataclass(frozen=True, eq=False)
class VectorScene:
    """One moment in numbers."""

    ego: np.ndarray  # (31,) float32
    route: np.ndarray  # (R, 17)
    vehicles: np.ndarray  # (V, 33)
    pedestrians: np.ndarray  # (P, 9)

    def __post_init__(self) -> None:
        shapes = {"ego": (EGO,), "route": ROUTE, "vehicles": VEHICLES, "pedestrians": PEDESTRIANS}
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise OwledError(f"{name} of a vector scene has shape {values.shape}; expected {shape}")
            if not np.isfinite(values).all():
                raise OwledError(f"{name} of a vector scene holds NaN or infinities; check what it was made from")
            if np.abs(values).max() > LARGEST:
                raise OwledError(
                    f"{name} of a vector scene holds {np.abs(values).max():g}; expected at most {LARGEST:g} (positions in "
                    "units of 10 m, speeds in units of 5 m/s)"
                )

    def packed(self) -> np.ndarray:
        """Return everything as one array (81, 33) float32: ego, route, vehicles, pedestrians, each row filled up with 0."""
        rows = np.zeros((ROWS, WIDTH), np.float32)
        rows[0, :EGO] = self.ego
        rows[FIRST_ROUTE:FIRST_VEHICLE, : ROUTE[1]] = self.route
        rows[FIRST_VEHICLE:FIRST_PEDESTRIAN] = self.vehicles
        rows[FIRST_PEDESTRIAN:, : PEDESTRIANS[1]] = self.pedestrians
        return rows

    def without(self, part: str) -> VectorScene:
        """Return the scene with one part as zeros: route, vehicles, pedestrians or ego."""
        return replace(self, **{part: np.zeros_like(getattr(self, part))})


def unpack(rows: np.ndarray) -> VectorScene:
    """Take a packed scene (81, 33) apart.

    Raises:
        OwledError: another shape, NaN, or numbers that no scene has.
    """
    if rows.shape != (ROWS, WIDTH):
        raise OwledError(f"a packed vector scene has shape {rows.shape}; expected {(ROWS, WIDTH)}")
    values = rows.astype(np.float32)
    return VectorScene(
        values[0, :EGO],
        values[FIRST_ROUTE:FIRST_VEHICLE, : ROUTE[1]],
        values[FIRST_VEHICLE:FIRST_PEDESTRIAN],
        values[FIRST_PEDESTRIAN:, : PEDESTRIANS[1]],
    )


def empty_scene() -> VectorScene:
    """Return a scene in which nothing is there."""
    return VectorScene(
        np.zeros(EGO, np.float32),
        np.zeros(ROUTE, np.float32),
        np.zeros(VEHICLES, np.float32),
        np.zeros(PEDESTRIANS, np.float32),
    )
