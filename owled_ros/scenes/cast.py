"""Draws the people and cars of a drive: sizes, colours, kinds. Needs numpy."""

from __future__ import annotations

import math

import numpy as np

from owled_ros.driving.answer import ObjectKind
from owled_ros.scenes.look import colour
from owled_ros.scenes.road import ONCOMING_CENTRE, PARKING_CENTRE
from owled_ros.scenes.stage import Car, Pedestrian

OFFSETS = {ObjectKind.LEAD: 0.0, ObjectKind.ONCOMING: ONCOMING_CENTRE, ObjectKind.PARKED: PARKING_CENTRE}


def draw_car_actor(rng: np.random.Generator, kind: ObjectKind, s: float) -> Car:
    """Draw a car of a kind with its centre at `s` [m]."""
    box = bool(rng.random() < 0.22)
    offset = OFFSETS.get(kind, 0.0) + float(rng.uniform(-0.2, 0.2))
    return Car(
        kind=kind,
        s=s,
        offset=offset,
        heading=math.pi if kind is ObjectKind.ONCOMING else 0.0,
        length=float(rng.uniform(4.6, 5.6) if box else rng.uniform(3.8, 4.7)),
        width=float(rng.uniform(1.85, 2.05) if box else rng.uniform(1.68, 1.88)),
        height=float(rng.uniform(2.0, 2.6) if box else rng.uniform(1.38, 1.7)),
        colour=_paintwork(rng),
        box=box,
    )


def draw_person(rng: np.random.Generator, s: float, offset: float, crossing: bool) -> Pedestrian:
    """Draw a person in saturated clothes."""
    clothes = np.array([rng.uniform(0.0, 0.35), rng.uniform(0.1, 0.6), rng.uniform(0.75, 1.0)])
    heading = float(rng.choice([-math.pi / 2, math.pi / 2]) if crossing else rng.choice([0.0, math.pi]))
    return Pedestrian(
        s=s,
        offset=offset,
        heading=heading,
        crossing=crossing,
        stride=float(rng.uniform(-1, 1)),
        height=float(rng.uniform(1.65, 1.92)),
        width=float(rng.uniform(0.72, 0.88)),
        top=colour(rng.permutation(clothes) * 245),
        trousers=colour(rng.uniform(15, 95, 3)),
        skin=colour(np.array([232, 188, 160]) * rng.uniform(0.45, 1.0)),
    )


def _paintwork(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.5:  # greys, black, white
        return colour(np.full(3, rng.uniform(25, 240)) + rng.normal(0, 5, 3))
    return colour(rng.permutation(np.array([rng.uniform(10, 70), rng.uniform(20, 130), rng.uniform(110, 225)])))
