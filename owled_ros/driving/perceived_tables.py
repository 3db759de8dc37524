"""Objects, traffic lights and stop lines as tables of numbers, for whoever has no Autoware. Needs numpy.

Columns, SI units, in the frame of the message; what is not given is NaN or left out. Velocities are over ground.
objects: x, y, class (RoadUserClass); heading, length, width, height, velocity_x, velocity_y.
lights: x, y, light (driving.answer.Light); group. stop lines: x, y, group (of the map, as in TrafficLightGroup), a row for each
lane of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from owled_ros.driving.answer import Light
from owled_ros.driving.number_table import column_names, columns_of, is_table
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, TrafficLight
from owled_ros.errors import OwledError

MAX_SPEED = 150.0  # [m/s]
MAX_SIDE = 200.0  # [m]
OBJECTS, LIGHTS, STOP_LINES = ("x", "y", "class"), ("x", "y", "light"), ("x", "y", "group")
OBJECT_ROW = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z", "heading", "length", "width", "height", "velocity_x", "velocity_y")]
    + [("class", "<u1")]
)
LIGHT_ROW = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("group", "<i4"), ("light", "<u1")])
STOP_LINE_ROW = np.dtype([("x", "<f8"), ("y", "<f8"), ("group", "<f8")])  # of a map: large places, large numbers
SIZE = (4.5, 1.8, 1.5)  # [m], of an object whose size is not told


def is_table_of(message: Any, columns: tuple[str, ...]) -> bool:
    """Tell whether a message is a table with these columns; a table of lights is none of stop lines."""
    names = column_names(message) if is_table(message) else frozenset()
    return names >= set(columns) and not (columns is STOP_LINES and "light" in names)


def check_object(number: int, place: Sequence[float], speed: float, sides: Sequence[float]) -> None:
    """Raise OwledError for numbers that no object has."""
    if not all(map(math.isfinite, (*place, speed, *sides))):
        raise OwledError(f"object {number} holds numbers that are not finite: at x {place[0]}, y {place[1]}")
    if speed > MAX_SPEED or not 0.0 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise OwledError(f"object {number} is impossible: {speed:g} m/s, {sides[0]:g} m long, {sides[1]:g} m wide")


def users_in(message: Any) -> tuple[RoadUser, ...]:
    """Convert a table of objects; raises OwledError for numbers that cannot be."""
    columns = columns_of(message, OBJECTS)
    count = len(columns["x"])
    names = ("heading", "length", "width", "height", "velocity_x", "velocity_y")
    rest = [columns.get(name, np.full(count, np.nan)) for name in names]
    users = []
    for number, (x, y, kind, *values) in enumerate(zip(*(columns[name] for name in OBJECTS), *rest, strict=True)):
        heading, *told, velocity_x, velocity_y = (None if math.isnan(value) else float(value) for value in values)
        length, width, height = (usual if side is None else side for side, usual in zip(told, SIZE, strict=True))
        moving = velocity_x is not None and velocity_y is not None
        speed = math.hypot(velocity_x or 0.0, velocity_y or 0.0)
        check_object(number, (float(x), float(y), heading or 0.0), speed, (length, width, height))
        velocity = (velocity_x, velocity_y) if moving else (None, None)
        users.append(RoadUser(float(x), float(y), heading, length, width, *velocity, _class_of(float(kind)), height))
    return tuple(users)


def lights_in(message: Any) -> tuple[TrafficLight, ...]:
    """Convert a table of traffic lights; raises OwledError for places that are not finite."""
    columns = columns_of(message, LIGHTS)
    groups = columns.get("group", np.arange(len(columns["x"]), dtype=np.float64))
    _check_places(columns, "light")
    return tuple(
        TrafficLight(
            int(group) if math.isfinite(group) else number, _light_of(float(light)), place=(float(x), float(y))
        )
        for number, (x, y, light, group) in enumerate(zip(*(columns[name] for name in LIGHTS), groups, strict=True))
    )


def stop_lines_in(message: Any) -> dict[int, tuple[tuple[float, float], ...]]:
    """Convert a table of stop lines to group -> x, y [m] of each of its lanes; raises OwledError for numbers that are not finite."""
    columns = columns_of(message, STOP_LINES)
    _check_places(columns, "stop line", "group")
    found: dict[int, tuple[tuple[float, float], ...]] = {}
    for x, y, group in zip(*(columns[name] for name in STOP_LINES), strict=True):
        found[int(group)] = (*found.get(int(group), ()), (float(x), float(y)))
    return found


def objects_table(users: Sequence[RoadUser]) -> np.ndarray:
    """Write objects as rows of OBJECT_ROW."""

    def known(value: float | None) -> float:
        return math.nan if value is None else value

    return np.array(
        [
            (item.x, item.y, 0.0, known(item.heading), item.length, item.width, item.height,
             known(item.velocity_x), known(item.velocity_y), int(item.kind))
            for item in users
        ],
        OBJECT_ROW,
    )  # fmt: skip


def lights_table(lights: Sequence[TrafficLight]) -> np.ndarray:
    """Write lights whose place is known as rows of LIGHT_ROW."""
    rows = [(*item.place, 0.0, item.group, int(item.light)) for item in lights if item.place is not None]
    return np.array(rows, LIGHT_ROW)


def stop_lines_table(places: Sequence[tuple[float, float, int]]) -> np.ndarray:
    """Write x, y [m] and group as rows of STOP_LINE_ROW."""
    return np.array(list(places), STOP_LINE_ROW)


def _check_places(columns: dict[str, np.ndarray], what: str, *more: str) -> None:
    for number, row in enumerate(zip(*(columns[name] for name in ("x", "y", *more)), strict=True)):
        if not np.isfinite(row).all():
            raise OwledError(f"{what} {number} holds numbers that are not finite: at x {row[0]}, y {row[1]}")


def _class_of(number: float) -> RoadUserClass:
    return RoadUserClass(int(number)) if number in list(RoadUserClass) else RoadUserClass.UNKNOWN


def _light_of(number: float) -> Light:
    return Light(int(number)) if number in list(Light) else Light.UNKNOWN
