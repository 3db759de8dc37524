"""Independent labelled images for training and evaluation: one moment of a made-up drive each. Needs numpy and cv2.

Seeds below 1 000 000 are for evaluation, seeds from 10 000 000 for training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from owled_ros.driving.answer import Action, Light, ObjectKind, Scene
from owled_ros.driving.frame import EgoState
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.vehicle import VehicleState
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.cast import draw_car_actor, draw_person
from owled_ros.scenes.expert import CAMERA_TO_BUMPER, desired_speed, expert_action
from owled_ros.scenes.expert_path import expert_path
from owled_ros.scenes.look import draw_look, draw_scenery
from owled_ros.scenes.render import render
from owled_ros.scenes.road import (
    JUNCTION_END,
    LEFT_SIDEWALK,
    ONCOMING_CENTRE,
    POLE_AFTER_LINE,
    RIGHT_SIDEWALK,
    STREET_AFTER_LINE,
    ZEBRA_AFTER_LINE,
    build_road,
)
from owled_ros.scenes.stage import (
    LIGHT_NEAREST,
    LIGHT_RANGE,
    NOBODY,
    Car,
    Stage,
    TrafficLight,
    ego_front,
    half_extent,
)
from owled_ros.scenes.streets import build_arms, gaps_of
from owled_ros.scenes.turning import Way, command_at, in_a_turn, next_turn

TRAINING_SEEDS = 10_000_000  # first seed of the training images
EVALUATION_SEEDS = 1_000_000  # evaluation seeds lie below
ROAD_LENGTH = 170.0  # [m]
STANDING_SHARE, CREEPING_SHARE = 0.08, 0.07
NEAR_JUNCTION_SHARE = 0.75  # of the moments in a town
INSIDE_SHARE = 0.6  # of those are surely in the junction: nothing is painted there that tells where one is
WAY_SHARES = {Way.RIGHT: 0.38, Way.STRAIGHT: 0.24, Way.LEFT: 0.38}
LIGHT_SHARES = {Light.NONE: 0.45, Light.RED: 0.22, Light.YELLOW: 0.12, Light.GREEN: 0.21}


@dataclass(frozen=True)
class Snapshot:
    """An image with everything that is true about it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    ego: EgoState
    scene: Scene
    action: Action
    ids: np.ndarray  # (H, W) uint8: 0 nothing, i + 1 the i-th visible object (cars, pedestrians, light; scene order)
    road: np.ndarray  # (H, W) bool, surface of the ego lane
    command: NavigationCommand | None = None  # of the route, where it may turn
    path: np.ndarray | None = None  # (N, 2) [m] where the expert will be, where it was asked for


def sample_snapshot(seed: int, camera: Camera, turns: bool = False, path: bool = False) -> Snapshot:
    """Draw, render and label one moment; the same seed gives the same moment at every camera size.

    With `turns` it is one in a town where the route may turn; with `path` it has the expert's trajectory.
    """
    rng = np.random.default_rng(seed)
    stage = sample_stage(rng, turns)
    view = render(stage, camera, rng)
    assert view.image is not None
    size = (camera.width, camera.height)
    return Snapshot(
        image=view.image,
        ego=EgoState(0, stage.ego.speed, _yaw_rate(rng, stage)),
        scene=view.seen.scene(),
        action=expert_action(stage, view.seen),
        ids=cv2.resize(view.ids, size, interpolation=cv2.INTER_NEAREST),
        road=cv2.resize(view.road.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool),
        command=command_at(stage.road.junctions(), stage.ego_s, ego_front(stage.ego_s)),
        path=expert_path(stage, view.seen) if path else None,
    )


def sample_stage(rng: np.random.Generator, turns: bool = False) -> Stage:
    """Draw a moment: the road, where the ego is on it, and who else is there."""
    ego_s = float(rng.uniform(25, 45))
    camera_s = ego_s + Camera().mount_forward
    state = Light(int(rng.choice([int(light) for light in LIGHT_SHARES], p=list(LIGHT_SHARES.values()))))
    lines = _draw_stop_lines(rng, state, camera_s)
    if turns and rng.random() < NEAR_JUNCTION_SHARE:
        lines, state = draw_junction_ahead(rng, camera_s)
    zebras = _draw_zebras(rng, lines, camera_s)
    ways = tuple(Way(int(rng.choice(len(WAY_SHARES), p=list(WAY_SHARES.values()))) - 1) for _ in lines) if turns else ()
    road = build_road(rng, ROAD_LENGTH, lines, zebras, ways)
    gaps = gaps_of(road.junctions()) or tuple((line - 2.0, line + JUNCTION_END + 3.0) for line in lines)
    stage = Stage(road, draw_look(rng), VehicleState(), ego_s, draw_scenery(rng, ROAD_LENGTH, gaps))
    stage.arms = build_arms(rng, road)
    for index, line in enumerate(lines):
        other = Light(int(rng.choice([Light.RED, Light.YELLOW, Light.GREEN])))
        stage.lights.append(TrafficLight(line, state if index == 0 and state is not Light.NONE else other))
    _add_cars(rng, stage, camera_s, state)
    _add_people(rng, stage, camera_s, state)
    stage.ego = _perturbed_ego(rng, stage, camera_s)
    return stage


def draw_junction_ahead(rng: np.random.Generator, camera_s: float) -> tuple[tuple[float, ...], Light]:
    """Draw a junction that the camera is before, in or just behind, and what its light shows; none where it is out of sight."""
    inside = rng.random() < INSIDE_SHARE
    line = camera_s + float(rng.uniform(-20.0, 2.0) if inside else rng.uniform(-22.0, 44.0))
    pole = line + POLE_AFTER_LINE - camera_s
    colour = Light(int(rng.choice([Light.RED, Light.YELLOW, Light.GREEN], p=[0.22, 0.13, 0.65])))
    return (line,), colour if LIGHT_NEAREST < pole <= LIGHT_RANGE else Light.NONE


def _draw_stop_lines(rng: np.random.Generator, state: Light, camera_s: float) -> tuple[float, ...]:
    if state is Light.NONE:
        if rng.random() < 0.08:  # just passing one
            return (camera_s + float(rng.uniform(-12, 7.4)) - POLE_AFTER_LINE,)
        return (camera_s + float(rng.uniform(48, 90)),) if rng.random() < 0.35 else ()
    stopping = state is not Light.GREEN
    near = rng.random() < 0.3
    distance = rng.uniform(8.6 if stopping else 7.6, 16.0) if near else rng.uniform(9.0, 44.5)
    return (camera_s + float(distance) - POLE_AFTER_LINE,)


def _draw_zebras(rng: np.random.Generator, lines: tuple[float, ...], camera_s: float) -> tuple[float, ...]:
    if rng.random() > 0.4:
        return ()
    place = camera_s + float(rng.uniform(5, 45))
    clear = all(place < line - 8 or place > line + JUNCTION_END + 8 for line in lines)
    return (place,) if clear else ()


def _add_cars(rng: np.random.Generator, stage: Stage, camera_s: float, state: Light) -> None:
    """Queues at red lights, leads, oncoming, parked and crossing cars; none inside another."""
    line = stage.lights[0].stop_line if state is not Light.NONE else None
    stopping = state in (Light.RED, Light.YELLOW)
    if line is not None and stopping and line - camera_s > 8 and rng.random() < 0.35:
        car = draw_car_actor(rng, ObjectKind.LEAD, 0.0)
        car.s = line - float(rng.uniform(0.5, 2.0)) - car.length / 2
        _place(stage, car, camera_s, braking=bool(rng.random() < 0.95))
    for _ in range(int(rng.choice(4, p=[0.38, 0.4, 0.17, 0.05]))):
        span = 16.0 if rng.random() < 0.35 else 58.0
        car = draw_car_actor(rng, ObjectKind.LEAD, camera_s + float(rng.uniform(6.5, span)))
        if line is not None and stopping and line - 3 < car.s < line + JUNCTION_END:
            continue
        _place(stage, car, camera_s, braking=bool(rng.random() < 0.45))
    for _ in range(int(rng.choice(4, p=[0.42, 0.33, 0.17, 0.08]))):
        _place(stage, draw_car_actor(rng, ObjectKind.ONCOMING, camera_s + float(rng.uniform(3, 70))), camera_s)
    if rng.random() < 0.55:
        for _ in range(int(rng.integers(1, 5))):
            car = draw_car_actor(rng, ObjectKind.PARKED, camera_s + float(rng.uniform(5, 65)))
            barred = any(light.stop_line - 9 < car.s < light.stop_line + JUNCTION_END + 6 for light in stage.lights)
            if not barred and all(abs(zebra - car.s) > 8 for zebra in stage.road.zebras):
                _place(stage, car, camera_s)
    if line is not None and state is Light.RED and rng.random() < 0.35:
        car = draw_car_actor(rng, ObjectKind.CROSS_TRAFFIC, line + STREET_AFTER_LINE[0] + 2.0)
        direction = float(rng.choice([-1.0, 1.0]))
        if stage.road.ways and stage.road.ways[0] is not Way.STRAIGHT:
            direction = float(stage.road.ways[0])  # the other side is where oncoming cars wait
        car.s += 4.0 if (direction > 0) == bool(stage.road.ways) else 0.0  # older streets: the wrong way round
        car.heading, car.offset = direction * math.pi / 2, float(rng.uniform(-16, 16))
        _place(stage, car, camera_s)


def _place(stage: Stage, car: Car, camera_s: float, braking: bool = False) -> None:
    """Put a car on the stage unless it would touch another one or the ego."""
    reach = half_extent(car)
    for other in stage.cars:
        beside = abs(other.offset - car.offset) < 2.2
        if beside and abs(other.s - car.s) < half_extent(other) + reach + 1.5:
            return
    if car.kind is ObjectKind.LEAD and car.s - reach < camera_s + CAMERA_TO_BUMPER + 1.0:
        return
    car.braking = braking
    stage.cars.append(car)


def _add_people(rng: np.random.Generator, stage: Stage, camera_s: float, state: Light) -> None:
    count = int(rng.choice(4, p=[0.4, 0.32, 0.18, 0.1]))
    crossing_here = bool(rng.random() < 0.5)
    for index in range(count):
        if crossing_here and (index == 0 or rng.random() < 0.3):
            s = _crossing_place(rng, stage, camera_s, state)
            offset = float(rng.uniform(-4.0, ONCOMING_CENTRE + 1.6) if rng.random() < 0.6 else rng.uniform(-1.6, 1.6))
            clear = all(abs(car.s - s) > half_extent(car) + 0.8 or abs(car.offset - offset) > 1.8 for car in stage.cars)
            if clear:
                stage.pedestrians.append(draw_person(rng, s, offset, True))
            continue
        low, high = RIGHT_SIDEWALK if rng.random() < 0.6 else LEFT_SIDEWALK
        s = camera_s + float(rng.uniform(5.5, 44))
        person = draw_person(rng, s, float(rng.uniform(low + 0.4, high - 0.4)), False)
        if not in_a_turn(stage.road.junctions(), s, *NOBODY):
            stage.pedestrians.append(person)


def _crossing_place(rng: np.random.Generator, stage: Stage, camera_s: float, state: Light) -> float:
    low, high = ZEBRA_AFTER_LINE
    if state in (Light.RED, Light.YELLOW) and rng.random() < 0.6:
        return stage.lights[0].stop_line + float(rng.uniform(low, high))
    ahead = [zebra for zebra in stage.road.zebras if zebra > camera_s + 4]
    if ahead and rng.random() < 0.85:
        return ahead[0] + float(rng.uniform(-1.3, 1.3))
    place = camera_s + float(rng.uniform(5, 18) if rng.random() < 0.5 else rng.uniform(5, 42))
    inside = in_a_turn(stage.road.junctions(), place, *NOBODY)
    return stage.lights[0].stop_line + float(rng.uniform(low, high)) if inside else place


def _perturbed_ego(rng: np.random.Generator, stage: Stage, camera_s: float) -> VehicleState:
    """Place the ego beside its lane centre, at a speed that often fits the situation."""
    offset = float(rng.uniform(-0.9, 0.9))
    turn = float(rng.uniform(-0.08, 0.08))
    _, _, heading = stage.road.pose(stage.ego_s)
    if in_a_turn(stage.road.junctions(), stage.ego_s, before=3.0, behind=6.0):
        offset, turn = 1.3 * offset, 3.5 * turn  # what goes wrong in a turn goes far before it is seen
    point = stage.road.points(np.array([stage.ego_s]), offset)[0]
    return VehicleState(float(point[0]), float(point[1]), float(heading) + turn, _draw_speed(rng, stage, camera_s))


def _draw_speed(rng: np.random.Generator, stage: Stage, camera_s: float) -> float:
    choice = rng.random()
    if choice < STANDING_SHARE + CREEPING_SHARE:
        return 0.0 if choice < STANDING_SHARE else float(rng.uniform(0, 1.5))
    fastest = _fastest(rng, stage)
    if choice < STANDING_SHARE + CREEPING_SHARE + 0.18:
        return min(float(rng.uniform(0, 15)), fastest)
    bumper = camera_s + CAMERA_TO_BUMPER
    most = min(float(rng.uniform(4, 14)), desired_speed(stage) * float(rng.uniform(0.6, 1.15)), fastest)
    for car in stage.cars:
        gap = car.s - half_extent(car) - bumper
        if car.kind is ObjectKind.LEAD and gap > 0:
            following = max(gap - 2.0, 0.0) / float(rng.uniform(0.9, 2.4))
            most = min(most, float(rng.uniform(0.5, 1.1)) * math.sqrt(4.4 * gap) if car.braking else following)
    standing = [person.s - 1.5 for person in stage.pedestrians if person.crossing]
    standing += [light.stop_line for light in stage.lights if light.state in (Light.RED, Light.YELLOW)]
    for place in standing:
        if place > bumper:
            most = min(most, float(rng.uniform(0.35, 1.1)) * math.sqrt(4.4 * max(place - bumper - 0.5, 0.0)))
    return most


def _fastest(rng: np.random.Generator, stage: Stage) -> float:
    """Draw how fast someone comes to a turn or drives it; infinite without one."""
    turn = next_turn(stage.road.junctions(), stage.ego_s)
    if turn is None:
        return math.inf
    return math.sqrt((turn[0].speed * rng.uniform(0.6, 1.4)) ** 2 + 2.0 * rng.uniform(0.5, 2.2) * max(turn[1], 0.0))


def _yaw_rate(rng: np.random.Generator, stage: Stage) -> float:
    """Draw a yaw rate: the road's bend or something else altogether, so that it does not tell the steering."""
    here = float(stage.road.curvature[int(stage.ego_s * 2)])
    bend = here + rng.normal(0, 0.012) if rng.random() < 0.5 else rng.normal(0, 0.015)
    return float(stage.ego.speed * bend)
