"""A closed-loop drive: a street with traffic in which the ego moves by commands. Needs numpy.

The same seed gives the same street, looks and traffic; what happens then depends on the ego alone.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

from owled_ros.driving.answer import ACCELERATION_RANGE, STEERING_RANGE, Light, ObjectKind
from owled_ros.driving.frame import NANOSECONDS, EgoState
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.vehicle import VehicleParameters, VehicleState, bicycle_step
from owled_ros.scenes import traffic
from owled_ros.scenes.cast import draw_car_actor, draw_person
from owled_ros.scenes.expert import TURN_STEERING
from owled_ros.scenes.look import draw_look, draw_scenery
from owled_ros.scenes.road import JUNCTION_END, LEFT_SIDEWALK, RIGHT_SIDEWALK, build_road
from owled_ros.scenes.stage import EGO_LENGTH, EGO_WIDTH, FRONT_OVERHANG, NOBODY, Stage, TrafficLight, ego_front
from owled_ros.scenes.streets import build_arms, gaps_of
from owled_ros.scenes.turning import Way, command_at, in_a_turn

START_S = 12.0  # [m]
OFF_ROAD = 1.9  # [m] from the lane centre
TIME_OUT_SPEED = 2.2  # [m/s], a route that takes longer than its length at this speed is given up
SUBSTEP = 0.05  # [s], longest step of the integration
CROSSING_CAR_RATE = 0.25  # [1/s] while the ego's light is red
STEP_OUT_RATE = 0.7  # [1/s] of a waiting person who could go
WALKER_REACH = 45.0  # [m], people step out only where the ego can see them
JAYWALK_SHARE = 0.25


class DriveEnd(Enum):
    """How a drive ended."""

    RUNNING = "running"
    FINISHED = "finished"
    COLLISION = "collision"
    RED_LIGHT = "red light"
    OFF_ROAD = "off road"
    TIME_OUT = "time out"


class World:
    """A street, its traffic and the ego; `stage` is what is there now.

    With `turns` the route turns left or right at some junctions, `command` says where, and the wheels turn farther.
    """

    def __init__(self, seed: int, turns: bool = False) -> None:
        self.seed = seed
        self.turns = turns
        self._steering = TURN_STEERING if turns else STEERING_RANGE
        self._rng = np.random.default_rng([seed, 0x57])
        self.length = float(self._rng.uniform(250, 400))  # [m] of the route
        self.time = 0.0  # [s]
        self.outcome = DriveEnd.RUNNING
        self.detail = ""
        self.yaw_rate = 0.0  # [rad/s]
        self.acceleration = 0.0  # [m/s2], the last one applied
        self._wheel_base = VehicleParameters().wheel_base
        self._wishes: dict[int, float] = {}  # desired speed by lead car
        self._waiting: list[tuple[int, TrafficLight | None]] = []  # index of a person who wants to cross, and its light
        self.stage = self._build()
        self._clocks = [float(self._rng.uniform(0, traffic.CYCLE_SECONDS)) for _ in self.stage.lights]
        self._set_lights(0.0)

    @property
    def ego(self) -> EgoState:
        """Motion of the ego, stamped with the world's time."""
        return EgoState(round(self.time * NANOSECONDS), self.stage.ego.speed, self.yaw_rate)

    @property
    def command(self) -> NavigationCommand | None:
        """What the navigation says; None in a world without turns."""
        s = self.stage.ego_s
        return command_at(self.stage.road.junctions(), s, ego_front(s))

    @property
    def progress(self) -> float:
        """Part of the route that is done [0, 1]."""
        return min(max((self.stage.ego_s - START_S) / (self.length - START_S), 0.0), 1.0)

    @property
    def distance(self) -> float:
        """Length [m] driven along the road."""
        return self.stage.ego_s - START_S

    @property
    def lane_offset(self) -> float:
        """Distance of the rear axle from the lane centre [m], left positive."""
        ego = self.stage.ego
        return self.stage.road.locate(ego.x, ego.y, self.stage.ego_s)[1]

    def step(self, acceleration: float, steering: float, dt: float) -> DriveEnd:
        """Advance by `dt` [s] with an acceleration [m/s2] and a tire angle [rad]; a drive that has ended stays as it is."""
        acceleration = min(max(acceleration, ACCELERATION_RANGE[0]), ACCELERATION_RANGE[1])
        steering = min(max(steering, self._steering[0]), self._steering[1])
        pieces = max(math.ceil(dt / SUBSTEP - 1e-9), 1)
        for _ in range(pieces):
            if self.outcome is DriveEnd.RUNNING:
                self._substep(acceleration, steering, dt / pieces)
        return self.outcome

    def _substep(self, acceleration: float, steering: float, dt: float) -> None:
        stage = self.stage
        front_before = ego_front(stage.ego_s)
        before = stage.ego
        stage.ego = bicycle_step(before, acceleration, steering, dt, self._wheel_base)
        self.yaw_rate = (stage.ego.heading - before.heading) / dt
        self.acceleration = acceleration
        stage.ego_s, offset, _ = stage.road.locate(stage.ego.x, stage.ego.y, stage.ego_s)
        self._set_lights(dt)
        self._move_others(dt)
        self.time += dt
        self._judge(front_before, offset)

    def _set_lights(self, dt: float) -> None:
        for index, light in enumerate(self.stage.lights):
            self._clocks[index] += dt
            light.state, remaining = traffic.light_state(self._clocks[index])
            near = 0 < light.s - self.stage.ego_s < 60
            if near and light.state is Light.RED and self._rng.random() < CROSSING_CAR_RATE * dt:
                way = self.stage.road.ways[index] if self.turns else None
                traffic.send_crossing_car(self._rng, self.stage.cars, light, remaining, way)

    def _move_others(self, dt: float) -> None:
        stage = self.stage
        traffic.drive_leads(stage.cars, stage.lights, stage.pedestrians, stage.road, self._wishes, dt)
        traffic.drive_oncoming(stage.cars, stage.lights, stage.pedestrians, stage.ego_s, dt, stage.road.junctions())
        traffic.drive_crossing(stage.cars, dt)
        traffic.walk(stage.pedestrians, dt)
        stage.cars[:] = [car for car in stage.cars if not traffic.gone(car, stage.ego_s)]
        front = ego_front(stage.ego_s)
        still = []
        for index, light in self._waiting:
            person = stage.pedestrians[index]
            wants = 0 < person.s - front < WALKER_REACH and self._rng.random() < STEP_OUT_RATE * dt
            allowed = light is None or self._walkers_have_green(light)
            if wants and allowed and traffic.may_step_out(person.s, front, stage.ego.speed, stage.cars):
                traffic.step_out(person)
            else:
                still.append((index, light))
        self._waiting = still

    def _walkers_have_green(self, light: TrafficLight) -> bool:
        clock = self._clocks[self.stage.lights.index(light)]
        return light.state is Light.RED and traffic.light_state(clock)[1] > 7.0

    def _judge(self, front_before: float, offset: float) -> None:
        stage = self.stage
        front = ego_front(stage.ego_s)
        for light in stage.lights:
            if light.state is Light.RED and front_before <= light.stop_line < front:
                self._end(DriveEnd.RED_LIGHT, f"crossed the stop line at {light.stop_line:.0f} m")
        touched = self._touched()
        if touched:
            self._end(DriveEnd.COLLISION, touched)
        elif abs(offset) > OFF_ROAD:
            self._end(DriveEnd.OFF_ROAD, f"{offset:+.1f} m from the lane centre")
        elif stage.ego_s >= self.length:
            self._end(DriveEnd.FINISHED, "")
        elif self.time > self.length / TIME_OUT_SPEED:
            self._end(DriveEnd.TIME_OUT, f"{self.progress:.0%} of the route")

    def _end(self, outcome: DriveEnd, detail: str) -> None:
        if self.outcome is DriveEnd.RUNNING:
            self.outcome, self.detail = outcome, detail

    def _touched(self) -> str:
        """Name what the ego touches, or nothing."""
        ego = self.stage.ego
        centre_ahead = FRONT_OVERHANG - EGO_LENGTH / 2
        middle = (ego.x + centre_ahead * math.cos(ego.heading), ego.y + centre_ahead * math.sin(ego.heading))
        own = _rectangle(*middle, ego.heading, EGO_LENGTH, EGO_WIDTH)
        for car in self.stage.cars:
            if abs(car.s - self.stage.ego_s) < 12:
                x, y, heading = self.stage.place(car)
                if _overlap(own, _rectangle(x, y, heading + car.heading, car.length, car.width)):
                    return f"{car.kind.name.lower().replace('_', ' ')} car"
        for person in self.stage.pedestrians:
            if abs(person.s - self.stage.ego_s) < 8:
                point = self.stage.road.points(np.array([person.s]), person.offset)[0]
                if _overlap(own, _rectangle(float(point[0]), float(point[1]), 0.0, 0.4, 0.4)):
                    return "pedestrian"
        return ""

    def _build(self) -> Stage:
        rng = self._rng
        lines, zebras = _draw_crossings(rng, self.length)
        ways = _draw_ways(self.seed, len(lines)) if self.turns else ()
        road = build_road(rng, self.length + 150.0, lines, zebras, ways)
        gaps = gaps_of(road.junctions()) or tuple((line - 2.0, line + JUNCTION_END + 3.0) for line in lines)
        x, y, heading = road.pose_at(START_S)
        speed = float(rng.uniform(0, 10))
        stage = Stage(
            road, draw_look(rng), VehicleState(x, y, heading, speed), START_S, draw_scenery(rng, road.length, gaps)
        )
        stage.lights = [TrafficLight(line) for line in lines]
        stage.arms = build_arms(rng, road)
        self._add_cars(stage)
        self._add_people(stage)
        return stage

    def _add_cars(self, stage: Stage) -> None:
        rng = self._rng
        place = START_S + float(rng.uniform(16, 60))
        for _ in range(int(rng.choice(4, p=[0.2, 0.35, 0.3, 0.15]))):
            car = draw_car_actor(rng, ObjectKind.LEAD, place)
            wish = float(rng.uniform(6.0, 12.5))
            gap = place - START_S - FRONT_OVERHANG - car.length / 2
            car.speed = min(wish, 0.6 * gap)
            stage.ego = VehicleState(stage.ego.x, stage.ego.y, stage.ego.heading, min(stage.ego.speed, 0.5 * gap))
            self._wishes[id(car)] = wish
            stage.cars.append(car)
            place += float(rng.uniform(14, 60))
        place = START_S + float(rng.uniform(10, 80))
        while place < 2.2 * self.length:
            car = draw_car_actor(rng, ObjectKind.ONCOMING, place)
            car.speed = float(rng.uniform(7, 10))
            stage.cars.append(car)
            place += float(rng.uniform(14, 110))
        place, busy = START_S + 5.0, float(rng.uniform(0.0, 0.7))
        while place < stage.road.length:
            car = draw_car_actor(rng, ObjectKind.PARKED, place)
            barred = any(light.stop_line - 9 < place < light.stop_line + JUNCTION_END + 6 for light in stage.lights)
            barred = barred or any(abs(zebra - place) < 9 for zebra in stage.road.zebras)
            if rng.random() < busy and not barred:
                stage.cars.append(car)
            place += float(rng.uniform(6.8, 14))

    def _add_people(self, stage: Stage) -> None:
        rng = self._rng
        crossings: list[tuple[float, TrafficLight | None]] = [(zebra, None) for zebra in stage.road.zebras]
        crossings += [(traffic.zebra_of(light), light) for light in stage.lights]
        if rng.random() < JAYWALK_SHARE:
            place = float(rng.uniform(60, self.length - 30))
            clear = all(abs(car.s - place) > 10 for car in stage.cars if car.kind is ObjectKind.PARKED)
            if clear and all(not -12 < place - light.stop_line < JUNCTION_END + 6 for light in stage.lights):
                crossings.append((place, None))
        for place, light in crossings:
            for person in traffic.walkers_at(rng, place, int(rng.choice(4, p=[0.25, 0.4, 0.25, 0.1]))):
                self._waiting.append((len(stage.pedestrians), light))
                stage.pedestrians.append(person)
        for _ in range(int(rng.integers(2, 12))):
            low, high = RIGHT_SIDEWALK if rng.random() < 0.6 else LEFT_SIDEWALK
            s = float(rng.uniform(START_S, self.length + 40))
            person = draw_person(rng, s, float(rng.uniform(low + 0.4, high - 0.4)), False)
            if not in_a_turn(stage.road.junctions(), s, *NOBODY):
                stage.pedestrians.append(person)


def _draw_ways(seed: int, count: int) -> tuple[Way, ...]:
    """Draw where the route goes, with numbers of its own: the streets of a seed stay what they are."""
    return tuple(Way(int(way)) for way in np.random.default_rng([seed, 0x58]).integers(-1, 2, count))


def _draw_crossings(rng: np.random.Generator, length: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Draw stop lines and the zebra crossings between them [m]."""
    lines: list[float] = []
    place = float(rng.uniform(45, 110))
    while place < length + 60:
        lines.append(place)
        place += float(rng.uniform(85, 170))
    zebras = []
    for start, end in zip([START_S + 15, *(line + JUNCTION_END + 15 for line in lines)], [*lines, length], strict=True):
        if end - 22 > start and rng.random() < 0.55:
            zebras.append(float(rng.uniform(start, end - 20)))
    return tuple(lines), tuple(zebras)


def _rectangle(x: float, y: float, heading: float, length: float, width: float) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle about its centre."""
    cos, sin = math.cos(heading), math.sin(heading)
    along, across = np.array([cos, sin]) * length / 2, np.array([-sin, cos]) * width / 2
    centre = np.array([x, y])
    return np.stack(
        [centre + along + across, centre - along + across, centre - along - across, centre + along - across]
    )


def _overlap(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two convex quadrangles touch (separating axes)."""
    for corners in (first, second):
        for edge in (corners[1] - corners[0], corners[2] - corners[1]):
            normal = np.array([-edge[1], edge[0]])
            one, two = first @ normal, second @ normal
            if one.max() < two.min() or two.max() < one.min():
                return False
    return True
