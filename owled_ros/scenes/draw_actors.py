"""Cars, pedestrians, traffic lights, houses and trees as flat faces. Needs numpy.

Every function returns faces in the camera's road frame; `Local` places an object's own frame (x along its heading,
y left, z up) there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.answer import Light
from owled_ros.scenes.look import Building, Colour, Tree
from owled_ros.scenes.paint import Sketch
from owled_ros.scenes.stage import Car, Pedestrian

LAMP_RADIUS = 0.38  # [m]
LAMP_HEIGHTS = ((Light.RED, 4.25), (Light.YELLOW, 3.4), (Light.GREEN, 2.55))  # [m]
LAMP_COLOURS: dict[Light, Colour] = {Light.RED: (255, 30, 25), Light.YELLOW: (255, 205, 20), Light.GREEN: (20, 255, 95)}
GLASS: Colour = (38, 46, 56)
TYRE: Colour = (22, 22, 24)
ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)  # (20, 2)


@dataclass(frozen=True)
class Local:
    """Pose of an object in the camera's road frame."""

    x: float
    y: float
    heading: float

    def place(self, points: Sequence[tuple[float, float, float]] | np.ndarray) -> np.ndarray:
        """Bring points (N, 3) of the object's frame into the camera's road frame."""
        own = np.asarray(points, dtype=np.float64)
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        placed = np.empty_like(own)
        placed[:, 0] = self.x + own[:, 0] * cos - own[:, 1] * sin
        placed[:, 1] = self.y + own[:, 0] * sin + own[:, 1] * cos
        placed[:, 2] = own[:, 2]
        return placed

    def camera(self) -> tuple[float, float]:
        """Return where the camera is in the object's frame."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return -self.x * cos - self.y * sin, self.x * sin - self.y * cos


def draw_car(car: Car, local: Local, label: int) -> Sketch:
    """Draw a saloon or a van with its lamps; only the sides that face the camera."""
    sketch = Sketch()
    l, w, h = car.length / 2, car.width / 2, car.height  # noqa: E741
    waist = h * (0.62 if car.box else 0.56)
    eye_x, eye_y = local.camera()
    end = -1.0 if eye_x < -l else (1.0 if eye_x > l else 0.0)
    side = 1.0 if eye_y > w else (-1.0 if eye_y < -w else 0.0)
    top_w = w * (0.97 if car.box else 0.76)
    top_back, top_front = (-l * 0.98, l * 0.55) if car.box else (-l * 0.62, l * 0.22)
    low_back, low_front = (-l, l * 0.75) if car.box else (-l * 0.9, l * 0.52)
    sketch.add(local.place([(-l - 0.1, -w, 0), (l + 0.1, -w, 0), (l + 0.1, w, 0), (-l - 0.1, w, 0)]), (28, 28, 30))
    if side:
        y = side * w
        sketch.add(
            local.place([(-l, y, 0.28), (l, y, 0.28), (l, y, waist * 0.9), (low_front, y, waist), (-l, y, waist)]),
            _shade(car.colour, 0.68),
            label,
        )
        cabin = [(low_back, y, waist), (low_front, y, waist), (top_front, side * top_w, h), (top_back, side * top_w, h)]
        sketch.add(local.place(cabin), _shade(car.colour, 0.62) if car.box else GLASS, label)
        for axle in (-l * 0.62, l * 0.62):
            wheel = np.stack(
                [axle + 0.33 * CIRCLE[:, 0], np.full(len(CIRCLE), y * 1.01), 0.33 + 0.33 * CIRCLE[:, 1]], axis=1
            )
            sketch.add(local.place(wheel), TYRE, label)
    if end:
        x = end * l
        sketch.add(local.place([(x, -w, 0.28), (x, w, 0.28), (x, w, waist), (x, -w, waist)]), car.colour, label)
        low, top = (low_front, top_front) if end > 0 else (low_back, top_back)
        window = [(low, -w * 0.96, waist), (low, w * 0.96, waist), (top, top_w, h), (top, -top_w, h)]
        sketch.add(local.place(window), GLASS, label)
        if car.box:
            sketch.add(
                local.place([(x, -w, h * 0.86), (x, w, h * 0.86), (top, top_w, h), (top, -top_w, h)]), car.colour, label
            )
        sketch.add(local.place([(x, -w, 0.2), (x, w, 0.2), (x, w, 0.42), (x, -w, 0.42)]), (34, 34, 36), label)
        _add_lamps(sketch, local, car, end, waist, label)
    return sketch


def _add_lamps(sketch: Sketch, local: Local, car: Car, end: float, waist: float, label: int) -> None:
    x, w = end * (car.length / 2 + 0.01), car.width / 2
    lamp: Colour = (255, 252, 215) if end > 0 else ((255, 18, 18) if car.braking else (112, 16, 22))
    low = waist * (0.5 if car.braking and end < 0 else 0.62)
    inner = w * (0.42 if car.braking and end < 0 else 0.52)
    for sign in (-1.0, 1.0):
        corners = [
            (x, sign * w, low),
            (x, sign * inner, low),
            (x, sign * inner, waist * 0.95),
            (x, sign * w, waist * 0.95),
        ]
        sketch.add(local.place(corners), lamp, label)
    if end < 0 and car.braking:
        z = car.height * 0.9
        third = [
            (x + 0.3, -w * 0.4, z - 0.14),
            (x + 0.3, w * 0.4, z - 0.14),
            (x + 0.3, w * 0.4, z),
            (x + 0.3, -w * 0.4, z),
        ]
        sketch.add(local.place(third), lamp, label)


def draw_pedestrian(person: Pedestrian, local: Local, label: int) -> Sketch:
    """Draw a person as cut-outs that face the camera; a crossing one has the legs apart and an arm forward."""
    sketch = Sketch()
    facing = Local(local.x, local.y, math.atan2(local.y, local.x))
    h, half = person.height, person.width / 2
    hip, shoulder = 0.47 * h, 0.82 * h
    if person.crossing:
        apart = 0.18 + 0.2 * abs(person.stride)
        for sign in (-1.0, 1.0):
            leg = [(0, sign * apart - 0.1, 0), (0, sign * apart + 0.1, 0), (0, 0.14, hip), (0, -0.14, hip)]
            sketch.add(facing.place(leg), person.trousers, label)
        arm = [
            (0, -half - 0.18, 0.6 * h),
            (0, half + 0.18, 0.6 * h),
            (0, half * 0.8, shoulder),
            (0, -half * 0.8, shoulder),
        ]
        sketch.add(facing.place(arm), person.top, label)
        half *= 0.72
    else:
        half *= 0.75
        sketch.add(
            facing.place([(0, -half * 0.6, 0), (0, half * 0.6, 0), (0, half * 0.65, hip), (0, -half * 0.65, hip)]),
            person.trousers,
            label,
        )
    sketch.add(
        facing.place([(0, -half, hip), (0, half, hip), (0, half, shoulder), (0, -half, shoulder)]), person.top, label
    )
    sketch.add(_disc(facing, 0.0, h - 0.16, 0.17), person.skin, label)
    return sketch


def draw_light(state: Light, local: Local, label: int) -> Sketch:
    """Draw a pole with a dark housing and three lamps, one of them lit."""
    sketch = Sketch()
    facing = Local(local.x, local.y, math.atan2(local.y, local.x))
    sketch.add(facing.place([(0.1, -0.09, 0), (0.1, 0.09, 0), (0.1, 0.09, 2.1), (0.1, -0.09, 2.1)]), (70, 72, 76), 0)
    sketch.add(facing.place([(0, -0.58, 2.0), (0, 0.58, 2.0), (0, 0.58, 4.8), (0, -0.58, 4.8)]), (16, 17, 19), label)
    for colour, height in LAMP_HEIGHTS:
        lit = colour is state
        bulb = LAMP_COLOURS[colour] if lit else _shade(LAMP_COLOURS[colour], 0.16)
        sketch.add(_disc(facing, 0.0, height, LAMP_RADIUS * (1.05 if lit else 0.8)), bulb, label)
    return sketch


def draw_building(building: Building, corners: np.ndarray) -> Sketch:
    """Draw the facade and the gable that face the camera; corners (4, 2): front start, front end, back end, back start."""
    sketch = Sketch()
    for first, second, tone in ((0, 3, 0.72), (0, 1, 1.0)):
        a, b = corners[first], corners[second]
        sketch.add(_wall(a, b, 0.0, building.height), _shade(building.colour, tone), 0)
        for floor in range(building.floors):
            low = building.height * (floor + 0.35) / max(building.floors, 1)
            high = low + 0.4 * building.height / max(building.floors, 1)
            sketch.add(
                _wall(a + 0.08 * (b - a), a + 0.92 * (b - a), low, high), _shade(building.colour, 0.55 * tone), 0
            )
    return sketch


def draw_tree(tree: Tree, local: Local) -> Sketch:
    """Draw a trunk and a crown that face the camera."""
    sketch = Sketch()
    facing = Local(local.x, local.y, math.atan2(local.y, local.x))
    sketch.add(
        facing.place([(0, -0.15, 0), (0, 0.15, 0), (0, 0.12, tree.height), (0, -0.12, tree.height)]), (72, 56, 42), 0
    )
    sketch.add(_disc(facing, 0.0, tree.height, tree.radius), tree.colour, 0)
    sketch.add(
        _disc(facing, 0.25 * tree.radius, tree.height + 0.3 * tree.radius, 0.6 * tree.radius),
        _shade(tree.colour, 1.2),
        0,
    )
    return sketch


def _disc(facing: Local, y: float, z: float, radius: float) -> np.ndarray:
    return facing.place(
        np.stack([np.full(len(CIRCLE), -0.01), y + radius * CIRCLE[:, 0], z + radius * CIRCLE[:, 1]], axis=1)
    )


def _wall(a: np.ndarray, b: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.array([(a[0], a[1], low), (b[0], b[1], low), (b[0], b[1], high), (a[0], a[1], high)])


def _shade(colour: Colour, factor: float) -> Colour:
    return (min(int(colour[0] * factor), 255), min(int(colour[1] * factor), 255), min(int(colour[2] * factor), 255))
