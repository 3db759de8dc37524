"""Bag messages as what the package works with: ego states, actions, scenes, stamps. Needs driving."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from owled_ros.bags import message_types as types
from owled_ros.driving.answer import Action, Light, Manoeuvre, ObjectKind, Scene, SceneObject
from owled_ros.driving.ego import MIN_ROTATION, squared_norm, yaw_of
from owled_ros.driving.frame import NANOSECONDS, EgoState, Pose
from owled_ros.driving.navigation import CommandKind, NavigationCommand

STAMP_OFFSET = 4  # [bytes], behind the CDR header: every type below begins with its stamp


def stamp_of(data: bytes | memoryview) -> int:
    """Read the stamp [ns] of serialised messages that begin with a header or a time; 0 when there is none."""
    if len(data) < STAMP_OFFSET + 8:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, STAMP_OFFSET)
    return max(0, seconds * NANOSECONDS + nanoseconds)


def odometry_to_ego(message: Any, stamp: int) -> EgoState:
    """Convert nav_msgs/Odometry; the twist is in the vehicle's frame, the pose in that of the header."""
    return replace(covariant_twist_to_ego(message, stamp), pose=pose_of(message.pose.pose))


def covariant_twist_to_ego(message: Any, stamp: int) -> EgoState:
    """Convert geometry_msgs/TwistWithCovarianceStamped."""
    twist = message.twist.twist
    return EgoState(stamp, float(twist.linear.x), float(twist.angular.z))


def twist_to_ego(message: Any, stamp: int) -> EgoState:
    """Convert geometry_msgs/TwistStamped."""
    return EgoState(stamp, float(message.twist.linear.x), float(message.twist.angular.z))


def unstamped_twist_to_ego(message: Any, stamp: int) -> EgoState:
    """Convert geometry_msgs/Twist."""
    return EgoState(stamp, float(message.linear.x), float(message.angular.z))


def velocity_report_to_ego(message: Any, stamp: int) -> EgoState:
    """Convert Autoware's VelocityReport."""
    return EgoState(stamp, float(message.longitudinal_velocity), float(message.heading_rate))


EGO_CONVERTERS: dict[str, Callable[[Any, int], EgoState]] = {  # in the order of preference
    types.ODOMETRY: odometry_to_ego,
    types.VELOCITY_REPORT: velocity_report_to_ego,
    types.OLD_VELOCITY_REPORT: velocity_report_to_ego,
    types.TWIST_WITH_COVARIANCE: covariant_twist_to_ego,
    types.TWIST: twist_to_ego,
}
ACCELERATION_CONVERTERS: dict[str, Callable[[Any], float]] = {  # [m/s2] along x of the vehicle
    types.ACCELERATION_WITH_COVARIANCE: lambda message: float(message.accel.accel.linear.x),
    types.ACCELERATION: lambda message: float(message.accel.linear.x),
}
VIDEO_TYPES = (types.COMPRESSED_VIDEO, types.FFMPEG_PACKET)
STILL_TYPES = (types.IMAGE, types.COMPRESSED_IMAGE, types.FOXGLOVE_IMAGE)
IMAGE_TYPES = (*STILL_TYPES, *VIDEO_TYPES)
STEERING_TYPES = (types.STEERING_REPORT, types.OLD_STEERING_REPORT)


def pose_of(pose: Any) -> Pose | None:
    """Convert geometry_msgs/Pose; None where it has no orientation or no finite number."""
    if not MIN_ROTATION < squared_norm(pose.orientation) < 1.5:
        return None
    found = Pose(float(pose.position.x), float(pose.position.y), yaw_of(pose.orientation))
    return found if found.is_finite() else None


def message_to_command(message: Any, stamp: int) -> NavigationCommand:
    """Convert owled_ros/NavigationCommand; raises ValueError for an unknown kind."""
    distance = float(message.distance)
    known = math.isfinite(distance) and distance >= 0.0
    return NavigationCommand(CommandKind(message.kind), distance if known else None, str(message.text), stamp)


def message_to_action(message: Any) -> Action | None:
    """Convert owled_ros/PredictedAction; None when it carries no action."""
    if not message.valid:
        return None
    return Action(float(message.acceleration), float(message.steering_tire_angle), Manoeuvre(message.manoeuvre))


def message_to_scene(message: Any) -> Scene | None:
    """Convert owled_ros/SceneDescription; None when it carries no scene."""
    if not message.valid:
        return None
    light = Light(message.traffic_light)
    distance = float(message.light_distance) if light in (Light.RED, Light.YELLOW, Light.GREEN) else None
    return Scene(_objects(message.cars), _objects(message.pedestrians), light, distance)


def _objects(items: Any) -> tuple[SceneObject, ...]:
    return tuple(SceneObject(ObjectKind(item.kind), float(item.distance)) for item in items)
