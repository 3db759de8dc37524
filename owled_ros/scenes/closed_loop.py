"""Judges drivers by where they get: routes driven in closed loop and their outcomes. Needs numpy and cv2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from owled_ros.scenes.camera import Camera
from owled_ros.scenes.perception import Perception
from owled_ros.scenes.player import PERIOD, Driver, constant_driver, expert_driver, play
from owled_ros.scenes.world import DriveEnd, World

TRUTH_ONLY = (expert_driver, constant_driver)  # drivers that need no image


@dataclass(frozen=True)
class Route:
    """How one drive went."""

    seed: int
    outcome: DriveEnd
    detail: str
    progress: float  # [0, 1] of the route
    seconds: float
    mean_speed: float  # [m/s]
    answers: int  # how often the driver was asked
    withheld: int  # how often it gave no action
    acceleration_error: float  # [m/s2], mean absolute difference to the expert in the same moments, NaN without answers
    steering_error: float  # [rad]


@dataclass(frozen=True)
class Standing:
    """How a driver did on a set of routes; shares in [0, 1]."""

    routes: int
    finished: float
    collision: float
    red_light: float
    off_road: float
    time_out: float
    progress: float
    mean_speed: float  # [m/s]
    withheld: float


def drive_route(
    seed: int,
    driver: Driver,
    camera: Camera,
    period: float = PERIOD,
    turns: bool = False,
    perception: Perception | None = None,
) -> Route:
    """Drive the world of a seed to its end; with a perception the driver is told what is around and shown no image."""
    world = World(seed, turns)
    answers = withheld = 0
    errors = [0.0, 0.0]
    image = perception is None and driver not in TRUTH_ONLY
    for moment, action in play(world, driver, camera, period, image, perception):
        answers += 1
        if action is None:
            withheld += 1
            continue
        errors[0] += abs(action.acceleration - moment.expert.acceleration)
        errors[1] += abs(action.steering_tire_angle - moment.expert.steering_tire_angle)
    valid = answers - withheld
    return Route(
        seed=seed,
        outcome=world.outcome,
        detail=world.detail,
        progress=world.progress,
        seconds=world.time,
        mean_speed=world.distance / max(world.time, 1e-9),
        answers=answers,
        withheld=withheld,
        acceleration_error=errors[0] / valid if valid else float("nan"),
        steering_error=errors[1] / valid if valid else float("nan"),
    )


def standing_of(routes: Iterable[Route]) -> Standing:
    """Summarise routes; there must be at least one."""
    driven = list(routes)
    count = len(driven)

    def share(outcome: DriveEnd) -> float:
        return sum(route.outcome is outcome for route in driven) / count

    return Standing(
        routes=count,
        finished=share(DriveEnd.FINISHED),
        collision=share(DriveEnd.COLLISION),
        red_light=share(DriveEnd.RED_LIGHT),
        off_road=share(DriveEnd.OFF_ROAD),
        time_out=share(DriveEnd.TIME_OUT),
        progress=sum(route.progress for route in driven) / count,
        mean_speed=sum(route.mean_speed for route in driven) / count,
        withheld=sum(route.withheld for route in driven) / max(sum(route.answers for route in driven), 1),
    )
