"""Rows of a vector scene from road users in metres. Needs numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from owled_ros.driving.vectors import METRES, PEDESTRIANS, SPEEDS, VEHICLES, Pedestrian, Vehicle

CORNER_SIGNS = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]])  # along, across


def vehicle_row(
    x: float, y: float, heading: float, speed: float, size: tuple[float, float, float], moving: bool
) -> np.ndarray:
    """Write a vehicle: centre [m], heading [rad], speed [m/s], length, width and height [m]; `moving`: it is not parked."""
    row = np.zeros(VEHICLES[1], np.float32)
    half = np.array(size) / 2
    row[Vehicle.ACTIVE], row[Vehicle.MOVING], row[Vehicle.IS_CAR] = 1.0, float(moving), 1.0
    row[Vehicle.SPEED], row[Vehicle.X], row[Vehicle.Y] = speed / SPEEDS, x / METRES, y / METRES
    row[Vehicle.DX], row[Vehicle.DY] = math.cos(heading), math.sin(heading)
    row[Vehicle.HALF_LENGTH], row[Vehicle.HALF_WIDTH], row[Vehicle.HALF_HEIGHT] = half
    turn = np.array([[math.cos(heading), -math.sin(heading)], [math.sin(heading), math.cos(heading)]])
    corners = CORNER_SIGNS * half[:2] @ turn.T + [x, y]  # (4, 2) [m]
    row[Vehicle.CORNERS : Vehicle.CORNERS + 8] = corners.ravel() / METRES
    return row


def pedestrian_row(x: float, y: float, heading: float, speed: float, crossing: bool) -> np.ndarray:
    """Write a pedestrian: place [m], heading [rad], speed [m/s]."""
    row = np.zeros(PEDESTRIANS[1], np.float32)
    row[Pedestrian.ACTIVE], row[Pedestrian.SPEED] = 1.0, speed / SPEEDS
    row[Pedestrian.X], row[Pedestrian.Y] = x / METRES, y / METRES
    row[Pedestrian.DX], row[Pedestrian.DY] = math.cos(heading), math.sin(heading)
    row[Pedestrian.CROSSING] = float(crossing)
    return row


def write_nearest(rows: np.ndarray, found: Sequence[np.ndarray], x: int) -> None:
    """Fill rows nearest first; of more than there is room for, the nearest win. `x`: the column of x, y follows it."""
    near = sorted(found, key=lambda row: float(np.hypot(row[x], row[x + 1])))
    for index, row in enumerate(near[: len(rows)]):
        rows[index] = row
