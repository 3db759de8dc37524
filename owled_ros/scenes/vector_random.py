"""Vector scenes drawn at random, as LLM-Driver's first stage trains on (arXiv 2310.01957, section IV-B). Needs numpy.

Nobody drives like that; but counts, lights, distances and turns of such a scene follow from its numbers, so that an encoder
learns to read them wherever a world puts them.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.driving.vector_rows import pedestrian_row, vehicle_row
from owled_ros.driving.vectors import (
    LIGHT_NAMES,
    METRES,
    PEDESTRIANS,
    ROUTE,
    ROUTE_SPACING,
    ROUTE_START,
    SPEEDS,
    Ego,
    Pedestrian,
    Route,
    VectorScene,
    Vehicle,
    empty_scene,
)

JUNCTION_SHARE, LIGHT_SHARE, ROUNDABOUT_SHARE, STANDING_SHARE = 0.7, 0.5, 0.15, 0.1
FULL_WHEEL = math.radians(455.0)


def random_scene(rng: np.random.Generator) -> VectorScene:
    """Draw a scene; the same generator state gives the same scene."""
    scene = empty_scene()
    _ego(scene.ego, rng)
    _route(scene.route, rng)
    _vehicles(scene.vehicles, rng)
    _pedestrians(scene.pedestrians, rng)
    return scene


def _ego(row: np.ndarray, rng: np.random.Generator) -> None:
    row[Ego.ACCELERATION] = rng.normal(0.0, 1.5)
    row[Ego.SPEED] = 0.0 if rng.random() < STANDING_SHARE else rng.uniform(0.0, 2.6)
    wheel = rng.normal(0.0, 0.03) if rng.random() < 0.6 else rng.normal(0.0, 0.35)
    row[Ego.STEERING_WHEEL] = np.clip(wheel, -1.0, 1.0) * FULL_WHEEL
    push = float(np.clip(rng.normal(0.1, 0.6), -1.0, 1.0))
    row[Ego.LAST_ACCELERATOR], row[Ego.LAST_BRAKE] = max(push, 0.0), max(-push, 0.0)
    row[Ego.BRAKE], row[Ego.LAST_STEERING] = row[Ego.LAST_BRAKE], np.clip(rng.normal(0.0, 0.2), -1.0, 1.0)
    row[Ego.HALF_LENGTH], row[Ego.HALF_WIDTH], row[Ego.HALF_HEIGHT] = 2.3, 1.0, 0.78
    row[Ego.CLASS] = row[Ego.DYNAMICS] = 1.0
    row[Ego.LAST_BRAKE + 1 :] = rng.uniform(0.03, 1.0, len(row) - Ego.LAST_BRAKE - 1)


def _route(rows: np.ndarray, rng: np.random.Generator) -> None:
    count = ROUTE[0]
    turning = np.zeros(count)
    for _ in range(int(rng.integers(0, 3))):  # bends
        start, length = int(rng.integers(0, count)), int(rng.integers(3, 12))
        turning[start : start + length] += math.radians(rng.uniform(-110, 110)) / length
    if rng.random() < ROUNDABOUT_SHARE:
        start, side = int(rng.integers(2, 15)), float(rng.choice([-1.0, 1.0]))
        turning[start : start + 4] += side * math.radians(rng.uniform(35, 60)) / 4
        turning[start + 4 : start + 12] -= side * math.radians(rng.uniform(60, 150)) / 8
    heading = rng.normal(0.0, 0.05) + np.cumsum(turning)
    steps = ROUTE_SPACING * np.column_stack([np.cos(heading), np.sin(heading)])  # (R, 2) [m]
    points = np.cumsum(steps, axis=0) - steps[0] + [ROUTE_START * rng.uniform(0.9, 1.1), rng.normal(0.0, 0.5)]
    rows[:, Route.X], rows[:, Route.Y] = points[:, 0] / METRES, points[:, 1] / METRES
    rows[:, Route.DX], rows[:, Route.DY] = np.cos(heading), np.sin(heading)
    rows[:, Route.SPEED_LIMIT] = rng.choice([8.94, 13.41]) / SPEEDS
    rows[:, Route.WIDTH_LEFT], rows[:, Route.WIDTH_RIGHT] = rng.uniform(0.15, 0.9), rng.uniform(0.15, 0.9)
    if rng.random() < JUNCTION_SHARE:
        start = int(rng.integers(-3, count))
        rows[max(start, 0) : max(start, 0) + int(rng.integers(2, 12)), Route.JUNCTION] = 1.0
    if rng.random() < LIGHT_SHARE:
        place = int(rng.integers(0, 18 if rng.random() < 0.8 else count))
        rows[place, [Route.LIGHT, list(LIGHT_NAMES.values())[int(rng.integers(0, 4))]]] = 1.0


def _vehicles(rows: np.ndarray, rng: np.random.Generator) -> None:
    places = _places(rng, int(min(rng.geometric(0.16) - 1, len(rows))), 100.0, 40.0)
    for row, (x, y) in zip(rows, places, strict=False):
        heading = rng.choice([0.0, math.pi, rng.uniform(-math.pi, math.pi)]) + rng.normal(0.0, 0.1)
        moving = rng.random() < 0.85
        speed = rng.uniform(0.0, 11.0) if moving and rng.random() < 0.7 else 0.0
        size = (rng.uniform(3.6, 5.2), rng.uniform(1.6, 2.04), rng.uniform(1.4, 1.8))
        row[:] = vehicle_row(x, y, heading, speed, size, bool(moving))
        if row[Vehicle.SPEED] > 0.0:
            row[26:30], row[30:33] = rng.uniform(0.0, 2.2, 4), rng.integers(0, 2, 3)


def _pedestrians(rows: np.ndarray, rng: np.random.Generator) -> None:
    places = _places(rng, int(min(rng.geometric(0.2) - 1, PEDESTRIANS[0])), 50.0, 30.0)
    for row, (x, y) in zip(rows, places, strict=False):
        heading = rng.uniform(-math.pi, math.pi)
        row[:] = pedestrian_row(x, y, heading, rng.uniform(5.0, 9.0), bool(rng.random() < 0.25))
        row[Pedestrian.Y + 1] = rng.uniform(0.1, 0.2)


def _places(rng: np.random.Generator, count: int, reach: float, often: float) -> np.ndarray:
    """Draw places (N, 2) [m], most of them ahead and near, nearest first."""
    ahead = rng.random(count) < 0.7
    angle = np.where(ahead, rng.uniform(-1.3, 1.3, count), rng.uniform(-math.pi, math.pi, count))
    distance = np.where(rng.random(count) < 0.75, rng.uniform(3.0, 1.2 * often, count), rng.uniform(3.0, reach, count))
    distance = np.sort(distance)
    return np.column_stack([distance * np.cos(angle), distance * np.sin(angle)])
