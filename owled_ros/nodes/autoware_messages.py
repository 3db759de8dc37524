"""Autoware's message packages, which may be missing, and what is converted to them. Needs rclpy; the packages when `load` is called."""

from __future__ import annotations

import importlib
import math
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion
from nav_msgs.msg import Odometry
from std_msgs.msg import Header, String
from unique_identifier_msgs.msg import UUID

from owled_ros.doctor.autoware import REPOSITORIES
from owled_ros.driving.ego import NANOSECONDS
from owled_ros.driving.intentions import Behaviour, Factor
from owled_ros.errors import OwledError
from owled_ros.nodes.conversions import stamp_to_time

PLANNING, INTERNAL_PLANNING = "autoware_planning_msgs", "autoware_internal_planning_msgs"
CONTROL, VEHICLE, DEBUG = "autoware_control_msgs", "autoware_vehicle_msgs", "autoware_internal_debug_msgs"


def missing(packages: Iterable[str]) -> list[str]:
    """Name the packages whose Python messages cannot be imported."""
    absent = []
    for package in packages:
        try:
            importlib.import_module(f"{package}.msg")
        except ImportError:
            absent.append(package)
    return absent


def load(packages: Iterable[str]) -> dict[str, Any]:
    """Import message packages; raises OwledError that names what is missing and what to do."""
    wanted = list(packages)
    absent = missing(wanted)
    if absent:
        raise OwledError(
            f"autoware_node needs the message packages {', '.join(absent)}, which are not there; source an Autoware workspace, or build "
            f"{REPOSITORIES} in yours; or switch the outputs off that need them (publish.*)"
        )
    return {package: importlib.import_module(f"{package}.msg") for package in wanted}


@dataclass(frozen=True)
class Ground:
    """The plane on which the vehicle stands, in the odometry's frame."""

    x: float  # [m], of base_link
    y: float  # [m]
    z: float  # [m]
    slope_x: float  # [m/m], rise along the frame's x
    slope_y: float  # [m/m]

    def height(self, x: float, y: float) -> float:
        """Return z [m] at a place."""
        return self.z + self.slope_x * (x - self.x) + self.slope_y * (y - self.y)


def ground_of(message: Odometry) -> Ground:
    """Take the plane from position and orientation: its normal is base_link's z."""
    place, turn = message.pose.pose.position, message.pose.pose.orientation
    up_x = 2.0 * (turn.x * turn.z + turn.w * turn.y)
    up_y = 2.0 * (turn.y * turn.z - turn.w * turn.x)
    up_z = 1.0 - 2.0 * (turn.x * turn.x + turn.y * turn.y)
    steep = up_z < 0.5  # 60 degrees: this is no road
    return Ground(place.x, place.y, place.z, 0.0 if steep else -up_x / up_z, 0.0 if steep else -up_y / up_z)


def points_of(values: np.ndarray, ground: Ground, wheel_base: float, point: type[Any]) -> list[Any]:
    """Convert (N, 7) in the odometry's frame to autoware_planning_msgs/TrajectoryPoint."""
    points = []
    for time, x, y, heading, speed, acceleration, curvature in values.tolist():
        points.append(
            point(
                time_from_start=seconds_to_duration(time),
                pose=_pose(x, y, ground.height(x, y), heading),
                longitudinal_velocity_mps=speed,
                acceleration_mps2=acceleration,
                heading_rate_rps=speed * curvature,
                front_wheel_angle_rad=math.atan(wheel_base * curvature),
            )
        )
    return points


def seconds_to_duration(seconds: float) -> Duration:
    """Convert."""
    nanoseconds = round(seconds * NANOSECONDS)
    return Duration(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


@dataclass(frozen=True)
class Generator:
    """Who we are among the generators: one identity for the life of the process."""

    name: str
    identity: uuid.UUID

    def candidates(self, messages: Any, header: Header, points: list[Any]) -> Any:
        """Make CandidateTrajectories with one trajectory; without points an empty set, which withdraws the last one."""
        own = UUID(uuid=list(self.identity.bytes))
        info = messages.GeneratorInfo(generator_id=own, generator_name=String(data=self.name))
        made = [messages.CandidateTrajectory(header=header, generator_id=own, points=points)] if points else []
        return messages.CandidateTrajectories(candidate_trajectories=made, generator_info=[info])


def factors_to_message(messages: Any, factors: list[Factor], header: Header, points: list[Any], module: str) -> Any:
    """Make a PlanningFactorArray."""
    behaviours = {Behaviour.STOP: messages.PlanningFactor.STOP, Behaviour.SLOW_DOWN: messages.PlanningFactor.SLOW_DOWN}
    made = []
    for factor in factors:
        controls = [
            messages.ControlPoint(
                pose=points[row].pose,
                velocity=0.0 if factor.behaviour is Behaviour.STOP else points[row].longitudinal_velocity_mps,
                distance=distance,
            )
            for row, distance in zip(factor.points, factor.distances, strict=True)
        ]
        made.append(
            messages.PlanningFactor(
                module=module,
                is_driving_forward=True,
                control_points=controls,
                behavior=behaviours[factor.behaviour],
                detail=factor.detail,
                safety_factors=messages.SafetyFactorArray(header=header),
            )
        )
    return messages.PlanningFactorArray(header=header, factors=made)


def point_to_control(messages: Any, first: Any, stamp: int) -> Any:
    """Make a Control message of the first point of a plan."""
    time = stamp_to_time(stamp)
    lateral = messages.Lateral(stamp=time, steering_tire_angle=first.front_wheel_angle_rad)
    longitudinal = messages.Longitudinal(
        stamp=time,
        velocity=first.longitudinal_velocity_mps,
        acceleration=first.acceleration_mps2,
        is_defined_acceleration=True,
    )
    return messages.Control(stamp=time, lateral=lateral, longitudinal=longitudinal)


def _pose(x: float, y: float, z: float, heading: float) -> Pose:
    turn = Quaternion(z=math.sin(heading / 2.0), w=math.cos(heading / 2.0))
    return Pose(position=Point(x=x, y=y, z=z), orientation=turn)
