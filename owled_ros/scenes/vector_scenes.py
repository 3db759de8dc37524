"""Our own world as LLM-Driver's vectors, with the expert's action. Needs numpy.

What the camera model reads off pixels stands here in numbers: everybody in reach, hidden or not, and the lane ahead as route.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.answer import CAR_KINDS, Action, Light, ObjectKind
from owled_ros.driving.vector_frame import JUNCTION
from owled_ros.driving.vector_rows import pedestrian_row, vehicle_row, write_nearest
from owled_ros.driving.vector_words import Pedals
from owled_ros.driving.vectors import (
    METRES,
    ROUTE,
    ROUTE_SPACING,
    ROUTE_START,
    SPEEDS,
    WHEEL_RATIO,
    Ego,
    Pedestrian,
    Route,
    VectorScene,
    Vehicle,
    empty_scene,
)
from owled_ros.driving.vehicle import VehicleParameters, controls_of
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.expert import MAX_ACCELERATION, expert_action
from owled_ros.scenes.road import LEFT_EDGE, RIGHT_EDGE
from owled_ros.scenes.sample import sample_stage
from owled_ros.scenes.stage import (
    CAR_RANGE,
    EGO_LENGTH,
    EGO_WIDTH,
    LIGHT_RANGE,
    PEDESTRIAN_RANGE,
    Car,
    Seen,
    SeenObject,
    Stage,
    half_extent,
)
from owled_ros.scenes.stage import Pedestrian as Person

VEHICLE_REACH, PERSON_REACH = 100.0, 50.0  # [m], beyond them nobody stands in the vectors
SPEED_LIMIT = 12.5  # [m/s] of the own world
WALKING = 1.4  # [m/s]
SLOWER, STANDING = 0.6, 0.5  # share of the ego's speed, [m/s]: a slower lead is one to brake for
MOUNT_FORWARD = Camera().mount_forward


@dataclass(frozen=True, eq=False)
class VectorMoment:
    """A moment of the own world in numbers."""

    scene: VectorScene
    action: Action
    pedals: Pedals


def sample_moment(seed: int) -> VectorMoment:
    """Draw one moment; the stage is that of scenes.sample for the same seed."""
    rng = np.random.default_rng(seed)
    stage = sample_stage(rng)
    _move(stage, rng)
    return moment_of(stage, _driven_before(rng))


def moment_of(stage: Stage, before: Action) -> VectorMoment:
    """Describe a stage; `before` is what the vehicle is just doing."""
    action = expert_action(stage, seen_around(stage))
    scene = scene_of(stage, before.steering_tire_angle, pedals_of(before), before.acceleration)
    return VectorMoment(scene, action, pedals_of(action))


def pedals_of(action: Action) -> Pedals:
    """Turn an action into shares of what the vehicle can do."""
    controls = controls_of(action.acceleration, action.steering_tire_angle, VehicleParameters())
    return Pedals(controls.throttle, controls.brake, controls.steering)


def scene_of(stage: Stage, tire_angle: float, last: Pedals, acceleration: float = 0.0) -> VectorScene:
    """Write a stage in vectors."""
    scene = empty_scene()
    _write_ego(scene.ego, stage, tire_angle, last, acceleration)
    _write_route(scene.route, stage)
    cars = [row for car in stage.cars if (row := _car(stage, car)) is not None]
    people = [row for person in stage.pedestrians if (row := _person(stage, person)) is not None]
    write_nearest(scene.vehicles, cars, Vehicle.X)
    write_nearest(scene.pedestrians, people, Pedestrian.X)
    return scene


def seen_around(stage: Stage) -> Seen:
    """Return what the expert is told where nothing hides anything: all that is ahead and in range."""
    here = stage.ego_s + MOUNT_FORWARD
    cars = [
        SeenObject(car.kind, distance, car.offset, _slows(car, stage.ego.speed))
        for car in stage.cars
        if car.kind in CAR_KINDS and 0 < (distance := car.s - here - half_extent(car)) <= CAR_RANGE
    ]
    people = [
        SeenObject(person.kind, person.s - here, person.offset)
        for person in stage.pedestrians
        if 0 < person.s - here <= PEDESTRIAN_RANGE
    ]
    lights = sorted(
        (light.s - here, light.state)
        for light in stage.lights
        if light.stop_line > stage.ego_s and light.s - here <= LIGHT_RANGE
    )
    return Seen(
        tuple(sorted(cars, key=lambda item: item.distance)),
        tuple(sorted(people, key=lambda item: item.distance)),
        lights[0][1] if lights else Light.NONE,
        lights[0][0] if lights else None,
    )


def _slows(car: Car, speed: float) -> bool:
    """Tell a lead that is much slower; vectors have speeds where an image has brake lights."""
    return car.kind is ObjectKind.LEAD and car.speed < max(SLOWER * speed, STANDING)


def _move(stage: Stage, rng: np.random.Generator) -> None:
    """Give the cars of a sampled moment speeds; the camera does not show them, the vectors do."""
    for car in stage.cars:
        if car.kind is ObjectKind.LEAD:
            slow = car.braking and rng.random() < 0.6
            car.speed = float(rng.uniform(0.0, 3.0) if slow else stage.ego.speed * rng.uniform(0.7, 1.1))
        elif car.kind is ObjectKind.ONCOMING:
            car.speed = float(rng.uniform(4.0, 12.0))
        elif car.kind is ObjectKind.CROSS_TRAFFIC:
            car.speed = float(rng.uniform(3.0, 9.0))


def _driven_before(rng: np.random.Generator) -> Action:
    """Draw what the vehicle is just doing; its own numbers tell of it as a node does that knows no pedals (driving.vector_frame)."""
    return Action(float(np.clip(rng.normal(0.0, 1.5), -6.0, MAX_ACCELERATION)), float(rng.normal(0.0, 0.1)))


def _write_ego(row: np.ndarray, stage: Stage, tire_angle: float, last: Pedals, acceleration: float) -> None:
    row[Ego.ACCELERATION], row[Ego.SPEED] = acceleration, stage.ego.speed / SPEEDS
    row[Ego.BRAKE], row[Ego.STEERING_WHEEL] = last.brake, tire_angle * WHEEL_RATIO
    row[Ego.HALF_LENGTH], row[Ego.HALF_WIDTH], row[Ego.HALF_HEIGHT] = EGO_LENGTH / 2, EGO_WIDTH / 2, 0.75
    row[Ego.CLASS] = row[Ego.DYNAMICS] = 1.0
    row[Ego.LAST_ACCELERATOR], row[Ego.LAST_STEERING], row[Ego.LAST_BRAKE] = last.accelerator, last.steering, last.brake


def _write_route(rows: np.ndarray, stage: Stage) -> None:
    s = stage.ego_s + ROUTE_START + ROUTE_SPACING * np.arange(ROUTE[0])
    points = _local(stage, stage.road.points(s, 0.0))
    heading = stage.road.pose(s)[2] - stage.ego.heading
    rows[:, Route.X], rows[:, Route.Y] = points[:, 0] / METRES, points[:, 1] / METRES
    rows[:, Route.DX], rows[:, Route.DY] = np.cos(heading), np.sin(heading)
    rows[:, Route.SPEED_LIMIT] = SPEED_LIMIT / SPEEDS
    rows[:, Route.WIDTH_LEFT], rows[:, Route.WIDTH_RIGHT] = LEFT_EDGE / METRES, -RIGHT_EDGE / METRES
    for light in stage.lights:  # by their stop lines, junctions behind them: as a node is told
        place = int(np.argmin(np.abs(s - light.stop_line)))
        if abs(s[place] - light.stop_line) <= ROUTE_SPACING and light.stop_line > stage.ego_s:
            column = {Light.GREEN: Route.GREEN, Light.YELLOW: Route.YELLOW, Light.RED: Route.RED}[light.state]
            rows[place, Route.LIGHT] = rows[place, column] = 1.0
            rows[place + 1 : place + 1 + JUNCTION, Route.JUNCTION] = 1.0


def _car(stage: Stage, car: Car) -> np.ndarray | None:
    (x, y), heading = _placed(stage, car.s, car.offset), _heading(stage, car.s, car.heading)
    if math.hypot(x, y) > VEHICLE_REACH:
        return None
    size = (car.length, car.width, car.height)
    return vehicle_row(x, y, heading, car.speed, size, car.kind is not ObjectKind.PARKED)


def _person(stage: Stage, person: Person) -> np.ndarray | None:
    (x, y), heading = _placed(stage, person.s, person.offset), _heading(stage, person.s, person.heading)
    if math.hypot(x, y) > PERSON_REACH:
        return None
    return pedestrian_row(x, y, heading, WALKING, person.crossing)


def _placed(stage: Stage, s: float, offset: float) -> tuple[float, float]:
    point = _local(stage, stage.road.points(np.array([s]), offset))[0]
    return float(point[0]), float(point[1])


def _heading(stage: Stage, s: float, turned: float) -> float:
    return stage.road.pose_at(s)[2] + turned - stage.ego.heading


def _local(stage: Stage, points: np.ndarray) -> np.ndarray:
    """Bring points (N, 2) of the plane into the ego's rear axle frame [m]."""
    cos, sin = math.cos(stage.ego.heading), math.sin(stage.ego.heading)
    x, y = points[:, 0] - stage.ego.x, points[:, 1] - stage.ego.y
    return np.column_stack([x * cos + y * sin, y * cos - x * sin])
