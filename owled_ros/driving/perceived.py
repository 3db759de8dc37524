"""Autoware's objects and traffic lights by the names of their fields, from a bag or from a topic. Needs driving.surroundings.

TrackedObjects, PredictedObjects, DetectedObjects and TrafficLightGroupArray of autoware_perception_msgs. A twist is given in the
object's own frame. A message with a number that cannot be is refused whole: the bad object may be the one ahead. Tables of numbers
(driving.perceived_tables) are read as well.
"""

from __future__ import annotations

import math
from typing import Any

from owled_ros.driving.answer import Light
from owled_ros.driving.ego import MIN_ROTATION, squared_norm, yaw_of
from owled_ros.driving.number_table import is_table
from owled_ros.driving.perceived_tables import check_object, lights_in, users_in
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, TrafficLight, pointing_where_it_goes
from owled_ros.errors import OwledError

MAX_OBJECTS = 2_000  # in one message
MAX_GROUPS = 1_000
ORIENTATION_AVAILABLE = 2  # TrackedObjectKinematics: the sign of the heading is known
COLOURS = {1: Light.RED, 2: Light.YELLOW, 3: Light.GREEN}  # TrafficLightElement
CIRCLE, SOLID_OFF = 5, 13  # of its shapes and its statuses


def road_users_of(message: Any) -> tuple[RoadUser, ...]:
    """Convert the objects of a message, in the frame of its header.

    Raises:
        OwledError: too many, or one whose numbers cannot be.
    """
    if is_table(message):
        return users_in(message)
    if len(message.objects) > MAX_OBJECTS:
        raise OwledError(f"the message holds {len(message.objects)} objects; at most {MAX_OBJECTS} are taken")
    return tuple(_road_user(item, number) for number, item in enumerate(message.objects))


def traffic_lights_of(message: Any) -> tuple[TrafficLight, ...]:
    """Convert the groups of a TrafficLightGroupArray, or a table; raises OwledError for too many."""
    if is_table(message):
        return lights_in(message)
    groups = message.traffic_light_groups
    if len(groups) > MAX_GROUPS:
        raise OwledError(f"the message holds {len(groups)} traffic light groups; at most {MAX_GROUPS} are taken")
    return tuple(TrafficLight(int(group.traffic_light_group_id), _colour(group.elements)) for group in groups)


def _road_user(item: Any, number: int) -> RoadUser:
    kinematics, size = item.kinematics, item.shape.dimensions
    pose = getattr(kinematics, "initial_pose_with_covariance", None) or kinematics.pose_with_covariance
    twist = getattr(kinematics, "initial_twist_with_covariance", None) or kinematics.twist_with_covariance
    place, turn, speed = pose.pose.position, pose.pose.orientation, twist.twist.linear
    check_object(number, (place.x, place.y, squared_norm(turn)), math.hypot(speed.x, speed.y), (size.x, size.y, size.z))
    known = int(getattr(kinematics, "orientation_availability", ORIENTATION_AVAILABLE)) == ORIENTATION_AVAILABLE
    heading, velocity = _motion(turn, speed, known)
    return RoadUser(
        float(place.x), float(place.y), heading, float(size.x), float(size.y), *velocity, _class_of(item), float(size.z)
    )  # fmt: skip


def _motion(turn: Any, speed: Any, known: bool) -> tuple[float | None, tuple[float | None, float | None]]:
    """Return heading [rad] and velocity in the frame of the message [m/s]."""
    still = speed.x == 0.0 and speed.y == 0.0
    if squared_norm(turn) < MIN_ROTATION:
        return None, (0.0, 0.0) if still else (None, None)
    yaw = yaw_of(turn)
    cos, sin = math.cos(yaw), math.sin(yaw)
    velocity = (cos * speed.x - sin * speed.y, sin * speed.x + cos * speed.y)
    return pointing_where_it_goes(yaw, speed.x, known), velocity


def _class_of(item: Any) -> RoadUserClass:
    """Return the likeliest class; UNKNOWN for an unknown one."""
    if not len(item.classification):
        return RoadUserClass.UNKNOWN
    label = int(max(item.classification, key=lambda entry: entry.probability).label)
    return RoadUserClass(label) if label in list(RoadUserClass) else RoadUserClass.UNKNOWN


def _colour(elements: Any) -> Light:
    """Return the colour of the lamp that is lit; a round one says more than an arrow beside it."""
    lit = [item for item in elements if item.color in COLOURS and item.status != SOLID_OFF]
    lit = [item for item in lit if item.shape == CIRCLE] or lit
    return COLOURS[max(lit, key=lambda item: item.confidence).color] if lit else Light.UNKNOWN
