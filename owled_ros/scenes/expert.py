"""The expert driver: IDM and pure pursuit on nothing but what the camera shows and the own speed. Needs numpy.

Longitudinal: the Intelligent Driver Model (Treiber, Hennecke, Helbing 2000, eq. 3-4) towards the free road, the nearest
lead, the stop line and people on the roadway; the smallest acceleration wins. Speeds of others cannot be read off one
image: a lead without brake lights is taken to go as fast as the ego, one with brake lights may be standing.
Lateral: pure pursuit (Coulter 1992) of the lane centre from the rear axle.
"""

from __future__ import annotations

import math

from owled_ros.driving.answer import ACCELERATION_RANGE, STEERING_RANGE, Action, Light, Manoeuvre, ObjectKind
from owled_ros.driving.navigation import CommandKind
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.scenes.road import MAX_CURVATURE, POLE_AFTER_LINE
from owled_ros.scenes.stage import FRONT_OVERHANG, Seen, SeenObject, Stage
from owled_ros.scenes.turning import command_at, next_turn

CAMERA_TO_BUMPER = 2.1  # [m], FRONT_OVERHANG less the default camera's mount
DESIRED_SPEED = 12.5  # [m/s]
CONSTANT_SPEED = 8.0  # [m/s] of the baseline driver
MAX_ACCELERATION = 1.8  # [m/s2]
COMFORTABLE_BRAKING = 2.5
TIME_GAP = 1.5  # [s]
STANDSTILL_GAP = 2.5  # [m] to a car
LINE_GAP = 1.2  # [m] to a stop line
PERSON_GAP = 3.5  # [m] to a pedestrian
YELLOW_BRAKING = 3.2  # [m/s2], a yellow light is a stop where less is enough
LATERAL_ACCELERATION = 2.2  # [m/s2] in bends
LANE_REACH = 1.9  # [m], a car within is in the way
CRUISE_MARGIN = 0.25  # [m/s2], a smaller influence than this is not worth a name
TURN_BRAKING = 1.4  # [m/s2] before turns
TURN_LOOK_AHEAD = 3.0  # [m] in turns
TURN_STEERING = (-0.55, 0.55)  # [rad]
WHEEL_BASE = VehicleParameters().wheel_base


def expert_action(stage: Stage, seen: Seen) -> Action:
    """Return what a careful driver does; reads the ego, the road and `seen`, none of the actors."""
    speed = stage.ego.speed
    desired = desired_speed(stage)
    free = min(idm(speed, desired, math.inf, 0.0), _into_turn(stage))
    choices = [(free - CRUISE_MARGIN, Manoeuvre.CRUISE)]
    choices += [
        (_behind_car(speed, desired, item), Manoeuvre.FOLLOW) for item in seen.cars if item.kind is ObjectKind.LEAD
    ]
    choices += [
        (_stop_at(speed, desired, item.distance, STANDSTILL_GAP), Manoeuvre.YIELD)
        for item in seen.cars
        if item.kind is ObjectKind.CROSS_TRAFFIC and abs(item.offset) < 2 * LANE_REACH
    ]
    choices += [
        (_stop_at(speed, desired, item.distance, PERSON_GAP), Manoeuvre.YIELD)
        for item in seen.pedestrians
        if item.kind is ObjectKind.CROSSING
    ]
    choices.append((_before_light(speed, desired, seen), Manoeuvre.STOP))
    acceleration, manoeuvre = min(choices, key=lambda choice: choice[0])
    if manoeuvre is Manoeuvre.CRUISE:
        acceleration = min([free, *(value for value, _ in choices[1:])])
    return Action(_clip(acceleration, ACCELERATION_RANGE), pursuit(stage), manoeuvre)


def constant_speed_action(stage: Stage) -> Action:
    """Return the baseline: hold CONSTANT_SPEED, follow the lane by pure pursuit, see nobody."""
    acceleration = _clip(CONSTANT_SPEED - stage.ego.speed, (-MAX_ACCELERATION, MAX_ACCELERATION))
    return Action(acceleration, pursuit(stage), Manoeuvre.CRUISE)


def idm(speed: float, desired: float, gap: float, closing: float, standstill: float = STANDSTILL_GAP) -> float:
    """Return the IDM acceleration [m/s2] for a gap [m] that closes at `closing` [m/s]."""
    free = 1.0 - (speed / desired) ** 4 if speed <= desired else -min((speed - desired) / 2.0, 1.6)
    if not math.isfinite(gap):
        return MAX_ACCELERATION * free
    dynamic = speed * TIME_GAP + speed * closing / (2.0 * math.sqrt(MAX_ACCELERATION * COMFORTABLE_BRAKING))
    wanted = standstill + max(0.0, dynamic)
    return MAX_ACCELERATION * (free - (wanted / max(gap, 0.3)) ** 2)


def desired_speed(stage: Stage) -> float:
    """Return the speed [m/s] that the bends of the next metres allow."""
    speed = stage.ego.speed
    curvature = stage.road.curvature_ahead(stage.ego_s + FRONT_OVERHANG, 6.0 + 1.6 * speed)
    if stage.road.ways:
        curvature = min(curvature, MAX_CURVATURE)  # turns have their own speed
        turn = next_turn(stage.road.junctions(), stage.ego_s)
        if turn and turn[1] < 0.0:
            return turn[0].speed
    return min(DESIRED_SPEED, math.sqrt(LATERAL_ACCELERATION / max(curvature, 1e-4)))


def _into_turn(stage: Stage) -> float:
    """Return the acceleration [m/s2] that leads into a turn of which the navigation has told, evenly and not too fast.

    Half of TURN_BRAKING needed: neither throttle nor brake; all of it: that braking, held until the turn.
    """
    turn = next_turn(stage.road.junctions(), stage.ego_s)
    if turn is None or turn[1] < 0.0:
        return math.inf
    command = command_at(stage.road.junctions(), stage.ego_s, stage.ego_s + FRONT_OVERHANG)
    if command is None or command.kind not in (CommandKind.LEFT, CommandKind.RIGHT):
        return math.inf
    needed = (stage.ego.speed**2 - turn[0].speed ** 2) / (2.0 * max(turn[1], 0.5))
    return -needed if needed > TURN_BRAKING else TURN_BRAKING - 2.0 * needed


def pursuit(stage: Stage) -> float:
    """Return the tire angle [rad] that leads the rear axle onto the lane centre ahead."""
    ahead, bounds = min(max(0.9 * stage.ego.speed, 6.0), 14.0), STEERING_RANGE
    if stage.road.ways:
        turn, bounds = next_turn(stage.road.junctions(), stage.ego_s), TURN_STEERING
        if turn:
            ahead = max(TURN_LOOK_AHEAD, min(ahead, turn[1] + TURN_LOOK_AHEAD))
    x, y, _ = stage.road.pose_at(stage.ego_s + ahead)
    ego = stage.ego
    dx, dy = x - ego.x, y - ego.y
    left = -dx * math.sin(ego.heading) + dy * math.cos(ego.heading)
    return _clip(math.atan(2.0 * WHEEL_BASE * left / (dx * dx + dy * dy)), bounds)


def _behind_car(speed: float, desired: float, car: SeenObject) -> float:
    gap = car.distance - CAMERA_TO_BUMPER
    needed = (0.6 * speed) ** 2 / (2.0 * max(gap - 1.0, 0.5))  # the lead may be slower, but moves
    following = max(idm(speed, desired, gap, 0.0), -1.5 - 1.25 * needed)
    if not car.braking:
        return following
    return min(following, -(speed**2) / (2.0 * max(gap - 2.0, 0.3)))


def _before_light(speed: float, desired: float, seen: Seen) -> float:
    if seen.light_distance is None or seen.light not in (Light.RED, Light.YELLOW):
        return math.inf
    gap = seen.light_distance - POLE_AFTER_LINE - CAMERA_TO_BUMPER
    if seen.light is Light.YELLOW and speed**2 / (2.0 * max(gap, 0.3)) > YELLOW_BRAKING:
        return math.inf
    return _stop_at(speed, desired, seen.light_distance - POLE_AFTER_LINE, LINE_GAP)


def _stop_at(speed: float, desired: float, distance: float, keep: float) -> float:
    """Approach something that stands `distance` [m] before the camera; IDM, but no harder than the stop needs."""
    gap = distance - CAMERA_TO_BUMPER
    needed = speed**2 / (2.0 * max(gap - 0.4 * keep, 0.3))
    return max(idm(speed, desired, gap, speed, keep), -0.8 - 1.25 * needed)


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
