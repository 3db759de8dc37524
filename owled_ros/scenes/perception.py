"""What another perception would tell of the world: objects, traffic lights and route in base_link, with noise and gaps. Needs numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.ego import Pose
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, TrafficLight, nearest_first
from owled_ros.driving.vectors import ROUTE, ROUTE_SPACING
from owled_ros.scenes.stage import Car, Pedestrian, Stage

OBJECT_REACH, LIGHT_REACH = 100.0, 80.0  # [m]
WALKING = 1.4  # [m/s]
PERSON_SIZE = 0.6  # [m]


@dataclass(frozen=True)
class Perception:
    """How well it sees."""

    noise: float = 0.0  # [m], deviation of each coordinate of an object
    dropped: float = 0.0  # [0, 1], share of objects that are missed, drawn anew every time
    seed: int = 0


def surroundings_of(stage: Stage, perception: Perception, tick: int) -> Surroundings:
    """Tell what is around at one moment; `tick` numbers the moments of a drive, the same one is seen the same way."""
    rng = np.random.default_rng([perception.seed, tick])
    kinds = [RoadUserClass.CAR] * len(stage.cars) + [RoadUserClass.PEDESTRIAN] * len(stage.pedestrians)
    actors: list[Car | Pedestrian] = [*stage.cars, *stage.pedestrians]
    users = []
    for actor, kind in zip(actors, kinds, strict=True):
        x, y, heading = _placed(stage, actor.s, actor.offset)
        heading += actor.heading
        speed = getattr(actor, "speed", WALKING)
        size = (getattr(actor, "length", PERSON_SIZE), actor.width)
        missed, shift = rng.random() < perception.dropped, perception.noise * rng.standard_normal(2)
        if not missed and math.hypot(x, y) <= OBJECT_REACH:
            velocity = (speed * math.cos(heading), speed * math.sin(heading))
            users.append(RoadUser(x + shift[0], y + shift[1], heading, *size, *velocity, kind, actor.height))
    lights = [
        TrafficLight(number, light.state, light.stop_line - stage.ego_s, _placed(stage, light.stop_line, 0.0)[:2])
        for number, light in enumerate(stage.lights)
        if 0.0 < light.stop_line - stage.ego_s <= LIGHT_REACH
    ]
    places = stage.ego_s + ROUTE_SPACING * np.arange(ROUTE[0] + 3)
    return Surroundings(
        nearest_first(tuple(users)), tuple(lights), tuple(Pose(*_placed(stage, float(s), 0.0)) for s in places)
    )


def _placed(stage: Stage, s: float, offset: float) -> tuple[float, float, float]:
    """Return place [m] and heading [rad] of a point of the road in the ego's rear axle frame."""
    x, y, heading = stage.road.pose_at(s)
    at = Pose(x - math.sin(heading) * offset, y + math.cos(heading) * offset, heading)
    here = at.seen_from(Pose(stage.ego.x, stage.ego.y, stage.ego.heading))
    return here.x, here.y, here.heading
