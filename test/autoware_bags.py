"""A bag as an Autoware vehicle records it: pose, reports, objects, lights and compressed images, in the definitions of the stand-ins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recorded_drives import MILLISECOND, START, image
from rosbags.interfaces import Nodetype
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

DEFINITIONS = Path(__file__).resolve().parent / "autoware_interfaces"
PERCEPTION, VEHICLE = "autoware_perception_msgs/msg", "autoware_vehicle_msgs/msg"
KINEMATIC_STATE, VELOCITY = "/localization/kinematic_state", "/vehicle/status/velocity_status"
STEERING, ACCELERATION = "/vehicle/status/steering_status", "/localization/acceleration"
CAMERA = "/sensing/camera/camera0/image_raw/compressed"
OBJECTS = "/perception/object_recognition/tracking/objects"
LIGHTS = "/perception/traffic_light_recognition/traffic_signals"
SPEED, TIRE_ANGLE = 8.0, 0.02  # [m/s], [rad]
YAW = math.pi / 2  # the vehicle drives north
ORIGIN = (1000.0, 2000.0)  # [m] in the map
CAR, PEDESTRIAN, CIRCLE, SOLID_ON = 1, 7, 5, 14
RED = 1


def autoware_types() -> Typestore:
    """Register every definition under the name that it has in its package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    found = {}
    for path in sorted(DEFINITIONS.glob("autoware_*/msg/*.msg")):
        found |= get_types_from_msg(path.read_text(), f"{path.parent.parent.name}/msg/{path.stem}")
    store.register(found)
    return store


class Maker:
    """Builds messages of a store; what is not given is zero, empty or false."""

    def __init__(self, store: Typestore) -> None:
        self.store = store

    def __call__(self, name: str, **given: Any) -> Any:
        fields = {}
        for field, (kind, detail) in self.store.fielddefs[name][1]:
            if field in given:
                fields[field] = given[field]
            elif kind == Nodetype.BASE:
                fields[field] = "" if detail[0] == "string" else detail[0] == "bool" and False
            elif kind == Nodetype.NAME:
                fields[field] = self(str(detail))
            elif kind == Nodetype.ARRAY:
                fields[field] = np.zeros(detail[1], np.uint8 if detail[0][1][0] == "uint8" else np.float64)
            else:
                fields[field] = []
        return self.store.types[name](**fields)

    def time(self, stamp: int) -> Any:
        return self("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)

    def header(self, stamp: int, frame_id: str) -> Any:
        return self("std_msgs/msg/Header", stamp=self.time(stamp), frame_id=frame_id)

    def pose(self, x: float, y: float, yaw: float) -> Any:
        turn = self("geometry_msgs/msg/Quaternion", z=math.sin(yaw / 2), w=math.cos(yaw / 2))
        pose = self("geometry_msgs/msg/Pose", position=self("geometry_msgs/msg/Point", x=x, y=y), orientation=turn)
        return self("geometry_msgs/msg/PoseWithCovariance", pose=pose)

    def twist(self, speed: float, yaw_rate: float = 0.0) -> Any:
        linear, angular = self("geometry_msgs/msg/Vector3", x=speed), self("geometry_msgs/msg/Vector3", z=yaw_rate)
        twist = self("geometry_msgs/msg/Twist", linear=linear, angular=angular)
        return self("geometry_msgs/msg/TwistWithCovariance", twist=twist)

    def tracked(self, label: int, x: float, y: float, yaw: float, size: tuple[float, float], speed: float) -> Any:
        kinematics = self(
            f"{PERCEPTION}/TrackedObjectKinematics", pose_with_covariance=self.pose(x, y, yaw),
            twist_with_covariance=self.twist(speed), orientation_availability=2,
        )  # fmt: skip
        dimensions = self("geometry_msgs/msg/Vector3", x=size[0], y=size[1], z=1.5)
        return self(
            f"{PERCEPTION}/TrackedObject", existence_probability=1.0, kinematics=kinematics,
            classification=[self(f"{PERCEPTION}/ObjectClassification", label=label, probability=0.9)],
            shape=self(f"{PERCEPTION}/Shape", dimensions=dimensions),
        )  # fmt: skip


def place(stamp: int) -> tuple[float, float]:
    """Return where the vehicle is in the map [m]."""
    return ORIGIN[0], ORIGIN[1] + SPEED * (stamp - START) / 1e9


def make_autoware_bag(
    path: Path, images: int = 12, drives: int = 1, kinematic_state: bool = True, **spoilt: Any
) -> Path:
    """Write drives 60 s apart: images at 10/s; pose and reports at 50/s; objects and lights at 10/s, 40 ms before each image.

    A car stands 24 m ahead of where the vehicle is, in its lane, and drives as fast; a pedestrian stands 12 m ahead and 5 m to the
    right. `spoilt` overrides numbers: object_x [m], velocity [m/s].
    """
    make = Maker(autoware_types())
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connections: dict[str, Any] = {}

        def write(topic: str, kind: str, stamp: int, message: Any) -> None:
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=make.store)
            bag.write(connections[topic], stamp, make.store.serialize_cdr(message, kind))

        for drive in range(drives):
            begin = START + drive * 60_000 * MILLISECOND
            for step in range(-5, images * 5):
                stamp = begin + step * 20 * MILLISECOND
                write_ego(make, write, stamp, kinematic_state, spoilt.get("velocity", SPEED))
                if step % 5 == 3:
                    write_perception(make, write, stamp, spoilt.get("object_x"))
                if step >= 0 and step % 5 == 0:
                    write_image(make, write, stamp, drive * images + step // 5)
    return path


def write_ego(make: Maker, write: Any, stamp: int, kinematic_state: bool, velocity: float) -> None:
    if kinematic_state:
        odometry = make(
            "nav_msgs/msg/Odometry", header=make.header(stamp, "map"), child_frame_id="base_link",
            pose=make.pose(*place(stamp), YAW), twist=make.twist(SPEED),
        )  # fmt: skip
        write(KINEMATIC_STATE, "nav_msgs/msg/Odometry", stamp, odometry)
    report = make(f"{VEHICLE}/VelocityReport", header=make.header(stamp, "base_link"), longitudinal_velocity=velocity)
    write(VELOCITY, f"{VEHICLE}/VelocityReport", stamp, report)
    steering = make(f"{VEHICLE}/SteeringReport", stamp=make.time(stamp), steering_tire_angle=TIRE_ANGLE)
    write(STEERING, f"{VEHICLE}/SteeringReport", stamp, steering)
    accel = make("geometry_msgs/msg/Accel", linear=make("geometry_msgs/msg/Vector3", x=0.25))
    measured = make(
        "geometry_msgs/msg/AccelWithCovarianceStamped", header=make.header(stamp, "base_link"),
        accel=make("geometry_msgs/msg/AccelWithCovariance", accel=accel),
    )  # fmt: skip
    write(ACCELERATION, "geometry_msgs/msg/AccelWithCovarianceStamped", stamp, measured)


def write_perception(make: Maker, write: Any, stamp: int, object_x: float | None) -> None:
    x, y = place(stamp)
    objects = make(
        f"{PERCEPTION}/TrackedObjects", header=make.header(stamp, "map"),
        objects=[
            make.tracked(CAR, x if object_x is None else object_x, y + 24.0, YAW, (4.0, 1.8), SPEED),
            make.tracked(PEDESTRIAN, x + 5.0, y + 12.0, YAW, (0.5, 0.5), 0.0),
        ],
    )  # fmt: skip
    write(OBJECTS, f"{PERCEPTION}/TrackedObjects", stamp, objects)
    lamp = make(f"{PERCEPTION}/TrafficLightElement", color=RED, shape=CIRCLE, status=SOLID_ON, confidence=0.9)
    group = make(f"{PERCEPTION}/TrafficLightGroup", traffic_light_group_id=7, elements=[lamp])
    lights = make(f"{PERCEPTION}/TrafficLightGroupArray", stamp=make.time(stamp), traffic_light_groups=[group])
    write(LIGHTS, f"{PERCEPTION}/TrafficLightGroupArray", stamp, lights)


def write_image(make: Maker, write: Any, stamp: int, number: int) -> None:
    _, data = cv2.imencode(".jpg", image(number)[..., ::-1])
    packed = make(
        "sensor_msgs/msg/CompressedImage", header=make.header(stamp, "camera0/camera_optical_link"), format="jpeg",
        data=data.reshape(-1),
    )  # fmt: skip
    write(CAMERA, "sensor_msgs/msg/CompressedImage", stamp, packed)
