"""What another perception would tell of the world, published for models that listen: objects, lights, path, acceleration. Needs rclpy.

Everything is in base_link of its stamp. Objects and lights are tables (driving.perceived_tables), which need no package of Autoware.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from geometry_msgs.msg import AccelWithCovarianceStamped, PoseStamped
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2, PointField

from owled_ros.driving.number_table import layout_of
from owled_ros.driving.perceived_tables import lights_table, objects_table
from owled_ros.driving.surroundings import Surroundings
from owled_ros.nodes.conversions import stamp_to_time

BASE_FRAME = "base_link"
DEPTH = 5


class PerceptionOutput:
    """Four publishers on the inputs of the driving node; nothing is made for a topic that nobody hears."""

    def __init__(self, node: Node, inputs: str) -> None:
        quality = QoSProfile(depth=DEPTH)
        self._objects = node.create_publisher(PointCloud2, f"{inputs}/objects", quality)
        self._lights = node.create_publisher(PointCloud2, f"{inputs}/traffic_lights", quality)
        self._path = node.create_publisher(Path, f"{inputs}/path", quality)
        self._acceleration = node.create_publisher(
            AccelWithCovarianceStamped, f"{inputs}/acceleration", QoSProfile(depth=50)
        )

    def accelerate(self, stamp: int, acceleration: float) -> None:
        """Publish what the vehicle does [m/s2] at `stamp` [ns], for models that are told of objects."""
        if self._objects.get_subscription_count():
            message = AccelWithCovarianceStamped()
            _stamped(message, stamp)
            message.accel.accel.linear.x = acceleration
            self._acceleration.publish(message)

    def tell(self, stamp: int, around: Surroundings) -> None:
        """Publish what is around at `stamp` [ns]."""
        if self._objects.get_subscription_count():
            self._objects.publish(table_to_cloud(objects_table(around.objects or ()), stamp))
        if self._lights.get_subscription_count():
            self._lights.publish(table_to_cloud(lights_table(around.lights or ()), stamp))
        if self._path.get_subscription_count():
            self._path.publish(route_to_path(around, stamp))


def table_to_cloud(table: np.ndarray, stamp: int, frame_id: str = BASE_FRAME) -> PointCloud2:
    """Write a structured array as a message."""
    step = table.dtype.itemsize
    message = PointCloud2(
        height=1, width=len(table), point_step=step, row_step=step * len(table), is_dense=True,
        fields=[
            PointField(name=name, offset=offset, datatype=kind, count=1) for name, offset, kind in layout_of(table.dtype)
        ],
    )  # fmt: skip
    message.data = array.array("B", table.tobytes())
    _stamped(message, stamp, frame_id)
    return message


def route_to_path(around: Surroundings, stamp: int) -> Path:
    """Write the route as places; readers take the headings from the line."""
    message = Path()
    _stamped(message, stamp)
    for place in around.route:
        pose = PoseStamped()
        _stamped(pose, stamp)
        pose.pose.position.x, pose.pose.position.y = place.x, place.y
        message.poses.append(pose)
    return message


def _stamped(message: Any, stamp: int, frame_id: str = BASE_FRAME) -> None:
    message.header.stamp, message.header.frame_id = stamp_to_time(stamp), frame_id
