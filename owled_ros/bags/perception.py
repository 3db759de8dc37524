"""The scene that another perception saw: Autoware's objects and traffic lights as what an image should show. Needs numpy.

Objects come in base_link or in the frame of an odometry of the same bag, which then gives the vehicle's pose (Autoware:
map, /localization/kinematic_state). Counted is what lies in front of a camera of FIELD_OF_VIEW and within the ranges of the
rendered world; what hides behind something else counts too, as nobody knows here. Message layouts changed between releases of
Autoware, so they are never guessed: the bag has to define them (mcap, or rosbag2 Iron and newer).
"""

from __future__ import annotations

import math
from typing import Any

from owled_ros.bags import message_types as types
from owled_ros.bags.conversions import pose_of
from owled_ros.driving.answer import Light, ObjectKind, Scene, SceneObject
from owled_ros.driving.frame import NANOSECONDS, Pose
from owled_ros.driving.perceived import road_users_of, traffic_lights_of
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, agreed_light
from owled_ros.errors import OwledError

TOLERANCE = NANOSECONDS // 10  # [ns] between an image and objects (10/s) or lights
POSE_TOLERANCE = NANOSECONDS // 20  # [ns] between objects and the vehicle's pose
FIELD_OF_VIEW = math.radians(70.0)  # [rad]
CAR_RANGE = 50.0  # [m] of forward distance
PEDESTRIAN_RANGE = 32.0
LANE_HALF_WIDTH = 1.75  # [m]
SLOW = 0.5  # [m/s], slower is parked when it stands beside the lane
BASE_FRAME = "base_link"
CARS = (RoadUserClass.CAR, RoadUserClass.TRUCK, RoadUserClass.BUS, RoadUserClass.TRAILER)
OBJECT_TYPES = tuple(
    f"{package}/msg/{name}"
    for package in ("autoware_perception_msgs", "autoware_auto_perception_msgs")
    for name in ("PredictedObjects", "TrackedObjects", "DetectedObjects")
)
LIGHT_TYPES = ("autoware_perception_msgs/msg/TrafficLightGroupArray",)


class PerceivedScenes:
    """Collects perception messages in the order of time and tells the scene of an image."""

    def __init__(self) -> None:
        self._objects: list[tuple[int, Any]] = []
        self._lights: list[tuple[int, Light]] = []
        self._poses: list[tuple[int, tuple[str, Pose]]] = []  # and the frame
        self.fault = ""  # why objects could not be used

    def add(self, msgtype: str, message: Any, stamp: int) -> None:
        """Store objects, lights or the pose in an odometry."""
        if msgtype in OBJECT_TYPES:
            self._objects.append((stamp, message))
        elif msgtype in LIGHT_TYPES:
            self._lights.append((stamp, light_of(message)))
        elif msgtype == types.ODOMETRY and (pose := pose_of(message.pose.pose)) is not None:
            self._poses.append((stamp, (str(message.header.frame_id), pose)))

    def clear(self) -> None:
        """Forget everything: the clock ran backwards."""
        self._objects.clear()
        self._lights.clear()
        self._poses.clear()

    def scene_at(self, stamp: int) -> Scene | None:
        """Return what was there at `stamp` [ns], nearest first; None without objects. Older entries are forgotten."""
        found = _nearest(self._objects, stamp, TOLERANCE)
        if found is None:
            return None
        objects_stamp, message = found
        frame, pose = message.header.frame_id, Pose(0.0, 0.0, 0.0)
        if frame != BASE_FRAME:
            near = _nearest(self._poses, objects_stamp, POSE_TOLERANCE)
            if near is None or near[1][0] != frame:
                self.fault = (
                    f"objects are in frame {frame}; expected {BASE_FRAME}, or the frame of an odometry in the bag"
                )
                return None
            pose = near[1][1]
        try:
            users = [item.seen_from(pose) for item in road_users_of(message)]
        except OwledError as error:
            self.fault = f"objects are left out: {error}"
            return None
        light = _nearest(self._lights, stamp, TOLERANCE)
        cars, pedestrians = _seen(users)
        return Scene(cars, pedestrians, light[1] if light else Light.UNKNOWN)


def light_of(message: Any) -> Light:
    """Return the state that all groups of a TrafficLightGroupArray agree on; UNKNOWN where they differ or are not told.

    Groups are numbered by the map, which nobody has here, so the one for the own lane cannot be picked out.
    """
    return agreed_light(traffic_lights_of(message))


def _seen(users: list[RoadUser]) -> tuple[tuple[SceneObject, ...], tuple[SceneObject, ...]]:
    cars: list[SceneObject] = []
    pedestrians: list[SceneObject] = []
    for item in users:
        if item.x <= 0.0 or abs(math.atan2(item.y, item.x)) > FIELD_OF_VIEW / 2:
            continue
        heading = item.heading or 0.0
        near = item.x - abs(math.cos(heading)) * item.length / 2 - abs(math.sin(heading)) * item.width / 2
        if item.kind is RoadUserClass.PEDESTRIAN and 0.0 < near <= PEDESTRIAN_RANGE:
            kind = ObjectKind.CROSSING if abs(item.y) < LANE_HALF_WIDTH else ObjectKind.SIDEWALK
            pedestrians.append(SceneObject(kind, near))
        elif item.kind in CARS and 0.0 < near <= CAR_RANGE:
            cars.append(SceneObject(_car_kind(item.y, heading, item.speed or 0.0), near))
    return tuple(sorted(cars, key=_distance)), tuple(sorted(pedestrians, key=_distance))


def _distance(item: SceneObject) -> float:
    return item.distance


def _car_kind(y: float, heading: float, speed: float) -> ObjectKind:
    along = math.cos(heading)
    if abs(along) < math.sqrt(0.5):
        return ObjectKind.CROSS_TRAFFIC
    if abs(y) >= LANE_HALF_WIDTH and speed < SLOW:
        return ObjectKind.PARKED
    return ObjectKind.LEAD if along > 0 else ObjectKind.ONCOMING


def _nearest(values: list[tuple[int, Any]], stamp: int, tolerance: int) -> tuple[int, Any] | None:
    while values and values[0][0] < stamp - 2 * TOLERANCE:  # images come in order of time
        values.pop(0)
    near = [item for item in values if abs(item[0] - stamp) <= tolerance]
    return min(near, key=lambda item: abs(item[0] - stamp)) if near else None
