"""A frame as a vector scene: the objects, traffic lights and route of another perception in the numbers of LLM-Driver.

Needs driving.vectors. Where no route is known, the lane is taken to follow the command: straight on, or a turn of a right angle.
Lights count where it is known how far ahead they stand. Objects count up to VEHICLE_REACH and PERSON_REACH; of more than there is room
for the nearest do, and `left_out` says so. No message tells a junction: one lies behind every light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from owled_ros.driving.answer import Light
from owled_ros.driving.ego import EgoState, Pose
from owled_ros.driving.frame import Frame
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, TrafficLight
from owled_ros.driving.vector_rows import pedestrian_row, vehicle_row, write_nearest
from owled_ros.driving.vectors import (
    METRES,
    PEDESTRIANS,
    ROUTE,
    ROUTE_SPACING,
    ROUTE_START,
    SPEEDS,
    VEHICLES,
    WHEEL_RATIO,
    Ego,
    Pedestrian,
    Route,
    VectorScene,
    Vehicle,
    empty_scene,
)
from owled_ros.driving.vehicle import VehicleParameters, controls_of
from owled_ros.errors import OwledError

PEDESTRIAN_CLASSES = {RoadUserClass.PEDESTRIAN}
VEHICLE_CLASSES = {
    RoadUserClass.UNKNOWN, RoadUserClass.CAR, RoadUserClass.TRUCK, RoadUserClass.BUS, RoadUserClass.TRAILER,
    RoadUserClass.MOTORCYCLE, RoadUserClass.BICYCLE,
}  # fmt: skip
VEHICLE_REACH, PERSON_REACH = 100.0, 50.0  # [m], farther objects are left out
ABSURD_M = 1_000.0  # that nothing around is away
STRICTEST = (Light.GREEN, Light.YELLOW, Light.RED)  # of several at one place the last one is written
JUNCTION = 6  # route points behind a light that are a junction's, in our world and in the released scenes
MOVES = 0.3  # [m/s], slower is standing
ACROSS = math.radians(45.0)  # a pedestrian that heads for the lane by more than this crosses
LANE_REACH = 2.5  # [m] from the lane's centre
TURN_RADIUS = 8.0  # [m] of a turn that only the command tells
SPEED_LIMIT = 12.5  # [m/s] where none is known
LANE = 1.75  # [m], half a lane
PATHS = {CommandKind.LEFT: 1.0, CommandKind.RIGHT: -1.0}  # command: side


def vectors_of(frame: Frame) -> VectorScene:
    """Write what a frame holds as vectors.

    Raises:
        OwledError: the frame has no objects, or numbers that no scene has.
    """
    around = frame.around
    if around is None or around.objects is None:
        raise OwledError("the model asks for the objects around and the frame has none")
    far = max((item.distance for item in around.objects), default=0.0)
    if not far <= ABSURD_M:
        raise OwledError(f"an object is {far:g} m away; expected at most {ABSURD_M:g} m: check frame and pose")
    scene = empty_scene()
    _write_ego(scene.ego, frame.ego)
    path = _path(around.route, frame.command)
    _write_route(scene.route, path, around)
    write_nearest(scene.vehicles, [_vehicle(item, path) for item in _vehicles(around)], Vehicle.X)
    write_nearest(scene.pedestrians, [_pedestrian(item, path) for item in _people(around)], Pedestrian.X)
    return VectorScene(scene.ego, scene.route, scene.vehicles, scene.pedestrians)


def left_out(around: Surroundings | None) -> str:
    """Say that there are more road users than the vectors have room for; empty where all are in."""
    if around is None or around.objects is None:
        return ""
    counted = ((len(_vehicles(around)), VEHICLES[0], "vehicles"), (len(_people(around)), PEDESTRIANS[0], "pedestrians"))
    full = [f"of {count} {what} the nearest {room}" for count, room, what in counted if count > room]
    return f"the model is told {' and '.join(full)}" if full else ""


def _vehicles(around: Surroundings) -> list[RoadUser]:
    return [item for item in around.objects or () if item.kind in VEHICLE_CLASSES and item.distance <= VEHICLE_REACH]


def _people(around: Surroundings) -> list[RoadUser]:
    return [item for item in around.objects or () if item.kind in PEDESTRIAN_CLASSES and item.distance <= PERSON_REACH]


def _write_ego(row: np.ndarray, ego: EgoState) -> None:
    vehicle = VehicleParameters()
    tire = ego.steering_tire_angle
    if tire is None:
        tire = math.atan2(vehicle.wheel_base * ego.yaw_rate, max(abs(ego.speed), 1.0))
    last = controls_of(ego.acceleration or 0.0, tire, vehicle)
    row[Ego.ACCELERATION], row[Ego.SPEED] = ego.acceleration or 0.0, ego.speed / SPEEDS
    row[Ego.BRAKE], row[Ego.STEERING_WHEEL] = last.brake, tire * WHEEL_RATIO
    row[Ego.HALF_LENGTH], row[Ego.HALF_WIDTH], row[Ego.HALF_HEIGHT] = 2.25, 0.9, 0.75
    row[Ego.CLASS] = row[Ego.DYNAMICS] = 1.0
    row[Ego.LAST_ACCELERATOR], row[Ego.LAST_STEERING], row[Ego.LAST_BRAKE] = last.throttle, last.steering, last.brake


def _path(route: Sequence[Pose], command: NavigationCommand | None) -> np.ndarray:
    """Return the route points (R, 3): x, y [m], heading [rad]."""
    places = ROUTE_START + ROUTE_SPACING * np.arange(ROUTE[0])
    if len(route) < 2:
        return _commanded(places, command)
    points = np.array([[pose.x, pose.y] for pose in route])
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    here = float(lengths[int(np.argmin(np.hypot(points[:, 0], points[:, 1])))])
    heading = np.unwrap([pose.heading for pose in route])
    along = here + places
    path = np.column_stack([np.interp(along, lengths, column) for column in (points[:, 0], points[:, 1], heading)])
    beyond = np.maximum(along - lengths[-1], 0.0)  # a route that ends goes straight on
    path[:, 0] += beyond * np.cos(path[:, 2])
    path[:, 1] += beyond * np.sin(path[:, 2])
    return path


def _commanded(places: np.ndarray, command: NavigationCommand | None) -> np.ndarray:
    side = 0.0 if command is None else PATHS.get(command.kind, 0.0)
    start = 0.0 if command is None or command.distance is None else max(command.distance, 0.0)
    turned = np.clip((places - start) / TURN_RADIUS, 0.0, math.pi / 2) * abs(side)
    after = np.maximum(places - start - TURN_RADIUS * math.pi / 2, 0.0) * abs(side)
    before = np.minimum(places, start) if side else places
    x = before + TURN_RADIUS * np.sin(turned)
    y = side * (TURN_RADIUS * (1.0 - np.cos(turned)) + after)
    return np.column_stack([x, y, side * turned])


def _write_route(rows: np.ndarray, path: np.ndarray, around: Surroundings) -> None:
    rows[:, Route.X], rows[:, Route.Y] = path[:, 0] / METRES, path[:, 1] / METRES
    rows[:, Route.DX], rows[:, Route.DY] = np.cos(path[:, 2]), np.sin(path[:, 2])
    rows[:, Route.SPEED_LIMIT] = SPEED_LIMIT / SPEEDS
    rows[:, Route.WIDTH_LEFT], rows[:, Route.WIDTH_RIGHT] = 3 * LANE / METRES, LANE / METRES
    columns = {Light.GREEN: Route.GREEN, Light.YELLOW: Route.YELLOW, Light.RED: Route.RED}
    places = ROUTE_START + ROUTE_SPACING * np.arange(len(rows))
    for light in sorted((item for item in around.lights or () if item.light in columns), key=_strictness):
        distance = math.inf if light.distance is None else light.distance
        place = int(np.argmin(np.abs(places - distance)))
        if distance > 0.0 and abs(places[place] - distance) <= ROUTE_SPACING:
            rows[place, [Route.LIGHT, *columns.values()]] = 0.0
            rows[place, [Route.LIGHT, columns[light.light]]] = 1.0
            rows[place + 1 : place + 1 + JUNCTION, Route.JUNCTION] = 1.0


def _strictness(light: TrafficLight) -> int:
    return STRICTEST.index(light.light)


def _vehicle(item: RoadUser, path: np.ndarray) -> np.ndarray:
    """A vehicle that stands on the route waits, beside it it is parked."""
    speed, heading = item.speed or 0.0, _heading(item)
    in_the_way = bool(np.hypot(path[:, 0] - item.x, path[:, 1] - item.y).min() < LANE_REACH)
    return vehicle_row(
        item.x, item.y, heading, speed, (item.length, item.width, item.height or 1.5), speed > MOVES or in_the_way
    )


def _pedestrian(item: RoadUser, path: np.ndarray) -> np.ndarray:
    """A pedestrian on the lane, or one that walks towards it, crosses."""
    away = np.hypot(path[:, 0] - item.x, path[:, 1] - item.y)
    nearest = int(np.argmin(away))
    heading = _heading(item)
    across = abs(math.sin(heading - path[nearest, 2])) > math.sin(ACROSS) and (item.speed or 0.0) > MOVES
    crossing = bool(away[nearest] < LANE_REACH or (across and away[nearest] < 2 * LANE_REACH))
    return pedestrian_row(item.x, item.y, heading, item.speed or 0.0, crossing)


def _heading(item: RoadUser) -> float:
    if item.heading is not None:
        return item.heading
    if item.velocity_x is None or item.velocity_y is None:
        return 0.0
    return math.atan2(item.velocity_y, item.velocity_x)
