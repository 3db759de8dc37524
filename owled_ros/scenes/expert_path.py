"""Where the expert will be in the next seconds, by what it sees now: the truth of the bundled model's trajectories. Needs numpy.

The expert is rolled forward with its own rules (scenes.expert). The others go on as they do, as far as one image tells: a car ahead
without brake lights keeps the ego's present speed, one with them comes to rest; lights keep their colour, people stay on the roadway.
Every frame plans anew, so what nobody could know is corrected by the next one. Letters: N points.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from owled_ros.driving.answer import ObjectKind
from owled_ros.driving.vehicle import bicycle_step
from owled_ros.scenes.expert import COMFORTABLE_BRAKING, WHEEL_BASE, expert_action
from owled_ros.scenes.stage import LIGHT_NEAREST, Seen, SeenObject, Stage

POINTS, STEP_S = 6, 0.5  # of a path
ROLL_S = 0.1  # step of the integration
ROLLING_SPEED = 2.0  # [m/s], a car ahead without brake lights goes at least as fast


def expert_path(stage: Stage, seen: Seen) -> np.ndarray:
    """Return the places of the rear axle every STEP_S in base_link of now, (POINTS, 2) [m]."""
    start, start_s, every = stage.ego, stage.ego_s, round(STEP_S / ROLL_S)
    now, points = replace(stage), []
    for step in range(POINTS * every):
        action = expert_action(now, _seen_later(seen, start.speed, now.ego_s - start_s, step * ROLL_S))
        now.ego = bicycle_step(now.ego, action.acceleration, action.steering_tire_angle, ROLL_S, WHEEL_BASE)
        now.ego_s = now.road.locate(now.ego.x, now.ego.y, now.ego_s)[0]
        if (step + 1) % every == 0:
            points.append((now.ego.x - start.x, now.ego.y - start.y))
    cos, sin = math.cos(start.heading), math.sin(start.heading)
    return np.array(points) @ np.array([[cos, -sin], [sin, cos]])


def _seen_later(seen: Seen, speed: float, driven: float, seconds: float) -> Seen:
    """Return what is seen after `driven` metres and so many seconds, by one who started with `speed` [m/s]."""
    light_distance = None if seen.light_distance is None else seen.light_distance - driven
    lit = light_distance is not None and light_distance > LIGHT_NEAREST
    return Seen(
        tuple(_moved(item, speed, driven, seconds) for item in seen.cars),
        tuple(replace(item, distance=item.distance - driven) for item in seen.pedestrians if item.distance > driven),
        seen.light if lit else Seen().light,
        light_distance if lit else None,
    )


def _moved(item: SeenObject, speed: float, driven: float, seconds: float) -> SeenObject:
    travelled = 0.0
    if item.kind is ObjectKind.LEAD and item.braking:
        braked = min(seconds, speed / COMFORTABLE_BRAKING)
        travelled = speed * braked - 0.5 * COMFORTABLE_BRAKING * braked**2
    elif item.kind is ObjectKind.LEAD:
        travelled = max(speed, ROLLING_SPEED) * seconds
    return replace(item, distance=item.distance + travelled - driven)
