"""The other road users of the closed-loop world: how they appear, drive by IDM and walk. Needs numpy.

Unlike the expert, they know everything: true gaps, speeds and the phase of the lights.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.driving.answer import Light, ObjectKind
from owled_ros.scenes.cast import draw_car_actor, draw_person
from owled_ros.scenes.road import (
    JUNCTION_END,
    LEFT_SIDEWALK,
    MAX_CURVATURE,
    RIGHT_SIDEWALK,
    STREET_AFTER_LINE,
    ZEBRA_AFTER_LINE,
    Road,
)
from owled_ros.scenes.stage import EGO_LENGTH, Car, Pedestrian, TrafficLight, half_extent
from owled_ros.scenes.turning import TURNS, Junctions, Way, speed_after_turn, speed_before_turn

CYCLE = ((Light.GREEN, 11.0), (Light.YELLOW, 3.0), (Light.RED, 11.0))  # [s]
CYCLE_SECONDS = sum(seconds for _, seconds in CYCLE)
WALKING_SPEED = 1.5  # [m/s]
CROSS_SPEED = 8.0  # [m/s] of cars on the crossing street
BRAKE_LIGHTS = -0.7  # [m/s2], harder braking lights them
SAFE_BRAKING = 2.2  # [m/s2], nobody steps out where a car would need more
CARS_BEHIND = 40.0  # [m], cars farther behind the ego are taken away
CARS_AHEAD = 110.0


def light_state(clock: float) -> tuple[Light, float]:
    """Return the colour at a time of the cycle [s] and how long it still lasts [s]."""
    rest = clock % CYCLE_SECONDS
    for colour, seconds in CYCLE:
        if rest < seconds:
            return colour, seconds - rest
        rest -= seconds
    return Light.RED, 0.0


def true_idm(speed: float, desired: float, gap: float, other: float, standstill: float = 2.2) -> float:
    """Return the IDM acceleration [m/s2] with the leader's true speed (Treiber, Hennecke, Helbing 2000)."""
    wanted = standstill + max(0.0, speed * 1.3 + speed * (speed - other) / (2 * math.sqrt(1.6 * 2.2)))
    return max(1.6 * (1 - (speed / max(desired, 0.5)) ** 4 - (wanted / max(gap, 0.3)) ** 2), -7.0)


def drive_leads(
    cars: list[Car],
    lights: list[TrafficLight],
    people: list[Pedestrian],
    road: Road,
    wishes: dict[int, float],
    dt: float,
) -> None:
    """Advance the cars of the ego lane by IDM behind each other, the stop lines and people on the roadway."""
    leads = sorted((car for car in cars if car.kind is ObjectKind.LEAD), key=lambda car: -car.s)
    for index, car in enumerate(leads):
        front = car.s + car.length / 2
        curvature = road.curvature_ahead(car.s, 15.0)
        if road.ways:
            curvature = min(curvature, MAX_CURVATURE)  # turns have their own speed
        bend = math.sqrt(2.2 / max(curvature, 1e-4))
        desired = min(wishes[id(car)], bend, speed_before_turn(road.junctions(), car.s))
        accelerations = [true_idm(car.speed, desired, 1e6, car.speed)]
        if index:
            ahead = leads[index - 1]
            accelerations.append(true_idm(car.speed, desired, ahead.s - ahead.length / 2 - front, ahead.speed))
        for place in _stops(front, car.speed, lights, people):
            accelerations.append(true_idm(car.speed, desired, place - front, 0.0, 1.5))
        _advance(car, min(accelerations), dt)


def drive_oncoming(
    cars: list[Car],
    lights: list[TrafficLight],
    people: list[Pedestrian],
    ego_s: float,
    dt: float,
    junctions: Junctions = (),
) -> None:
    """Advance the oncoming cars; they stop at the same lights from the other side."""
    flow = sorted((car for car in cars if car.kind is ObjectKind.ONCOMING), key=lambda car: car.s)
    for index, car in enumerate(flow):
        front = car.s - car.length / 2
        accelerations = [true_idm(car.speed, speed_after_turn(junctions, car.s), 1e6, car.speed)]
        if index:
            ahead = flow[index - 1]
            accelerations.append(true_idm(car.speed, 10.0, front - (ahead.s + ahead.length / 2), ahead.speed))
        stops = [light.stop_line + JUNCTION_END + 3.0 for light in lights if light.state is not Light.GREEN]
        stops += [person.s + 2.0 for person in people if person.crossing]
        for place in stops:
            gap = front - place
            if gap > 0 and car.speed**2 / (2 * max(gap, 0.3)) < 4.0:
                accelerations.append(true_idm(car.speed, 10.0, gap, 0.0, 1.5))
        car.braking = False
        _advance(car, min(accelerations), dt, -1.0)


def drive_crossing(cars: list[Car], dt: float) -> None:
    """Advance the cars on crossing streets and drop those that have left."""
    for car in cars:
        if car.kind is ObjectKind.CROSS_TRAFFIC:
            car.offset += math.copysign(CROSS_SPEED * dt, car.heading)
    cars[:] = [car for car in cars if car.kind is not ObjectKind.CROSS_TRAFFIC or abs(car.offset) < 45.0]


def send_crossing_car(
    rng: np.random.Generator, cars: list[Car], light: TrafficLight, remaining: float, way: Way | None = None
) -> None:
    """Let a car cross while the ego's light stays red long enough for it to be gone before green.

    `way`: where the route goes; a car comes only from an arm in which no oncoming cars of the route wait.
    """
    direction = float(rng.choice([-1.0, 1.0]))
    direction = float(way) if way in TURNS else direction
    start = -direction * 32.0
    busy = any(
        car.kind is ObjectKind.CROSS_TRAFFIC and car.heading * direction > 0 and abs(car.offset - start) < 12
        for car in cars
    )
    if remaining < 64.0 / CROSS_SPEED or busy:
        return
    near, far = (2.0, 6.0) if way is None else (6.0, 2.0)  # the older streets have them the wrong way round
    lane = light.stop_line + STREET_AFTER_LINE[0] + (near if direction > 0 else far)
    car = draw_car_actor(rng, ObjectKind.CROSS_TRAFFIC, lane)
    car.heading, car.offset, car.speed = direction * math.pi / 2, start, CROSS_SPEED
    cars.append(car)


def walk(people: list[Pedestrian], dt: float) -> None:
    """Advance everybody on foot; who reaches the other side stays there."""
    for person in people:
        if not person.crossing:
            continue
        direction = math.copysign(1.0, person.heading)
        person.offset += direction * WALKING_SPEED * dt
        person.stride = math.sin(3.0 * person.offset)
        if person.offset < RIGHT_SIDEWALK[1] - 0.2 or person.offset > LEFT_SIDEWALK[0] + 0.2:
            person.crossing = False
            person.heading = 0.0


def may_step_out(place: float, ego_front: float, ego_speed: float, cars: list[Car]) -> bool:
    """Tell whether everybody who comes could stop comfortably, and nobody stands on the crossing."""
    threats = [(ego_front, ego_speed)]
    threats += [(car.s + car.length / 2, car.speed) for car in cars if car.kind is ObjectKind.LEAD]
    for front, speed in threats:
        gap = place - front
        if -EGO_LENGTH - 2.0 < gap < speed**2 / (2 * SAFE_BRAKING) + speed * 0.5 + 5.0:
            return False
    for car in cars:
        if car.kind is ObjectKind.ONCOMING and -7.0 < car.s - place < car.speed**2 / (2 * SAFE_BRAKING) + 8.0:
            return False
        if car.kind is ObjectKind.CROSS_TRAFFIC and abs(car.s - place) < 5.0:
            return False
    return True


def walkers_at(rng: np.random.Generator, place: float, count: int) -> list[Pedestrian]:
    """Put people on the sidewalks beside a crossing, ready to walk over."""
    people = []
    for _ in range(count):
        right = rng.random() < 0.5
        person = draw_person(rng, place + float(rng.uniform(-1.2, 1.2)), -4.6 if right else 5.9, False)
        person.offset += float(rng.uniform(-0.4, 0.3))
        people.append(person)
    return people


def zebra_of(light: TrafficLight) -> float:
    """Return the middle [m] of the crossing behind a light's stop line."""
    return light.stop_line + sum(ZEBRA_AFTER_LINE) / 2


def step_out(person: Pedestrian) -> None:
    """Send a waiting person to the other side."""
    person.crossing = True
    person.heading = math.pi / 2 if person.offset < 0 else -math.pi / 2
    person.offset = RIGHT_SIDEWALK[1] if person.offset < 0 else LEFT_SIDEWALK[0]


def _stops(front: float, speed: float, lights: list[TrafficLight], people: list[Pedestrian]) -> list[float]:
    """Return where a car whose front is at `front` must stop."""
    places = []
    for light in lights:
        gap = light.stop_line - front
        needed = speed**2 / (2 * max(gap, 0.3))
        if gap > -0.5 and (
            (light.state is Light.RED and needed < 6.5) or (light.state is Light.YELLOW and needed < 3.2)
        ):
            places.append(light.stop_line - 0.5)
    places += [person.s - 1.5 for person in people if person.crossing and person.s - 1.0 > front]
    return places


def _advance(car: Car, acceleration: float, dt: float, direction: float = 1.0) -> None:
    speed = max(0.0, car.speed + acceleration * dt)
    car.s += direction * 0.5 * (car.speed + speed) * dt
    car.braking = direction > 0 and (acceleration < BRAKE_LIGHTS or (speed < 0.3 and acceleration < 0.5))
    car.speed = speed


def gone(car: Car, ego_s: float) -> bool:
    """Tell whether a moving car is too far from the ego to matter."""
    if car.kind is ObjectKind.PARKED:
        return False
    return car.s + half_extent(car) < ego_s - CARS_BEHIND or car.s > ego_s + 2 * CARS_AHEAD
