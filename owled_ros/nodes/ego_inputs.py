"""Ego motion of driving_node: odometry, acceleration, and the vehicle's own reports where Autoware's messages are installed. Needs rclpy.

A velocity report may also come on the topic of the odometry: what is published there is what is listened to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import AccelWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile

from owled_ros.errors import OwledError
from owled_ros.nodes import topics
from owled_ros.nodes.fast_input import FastInput
from owled_ros.nodes.input_watch import InputWatch, not_installed, published_types, watch
from owled_ros.nodes.optional_messages import message_class
from owled_ros.nodes.quality import SENSOR
from owled_ros.onboard.motion import REPORT

EGO_DEPTH = 50
PART = "odometry"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
REPORT_TYPE = "autoware_vehicle_msgs/msg/VelocityReport"
STEERING_TYPE = "autoware_vehicle_msgs/msg/SteeringReport"


@dataclass(frozen=True)
class EgoHearers:
    """Who hears them."""

    odometry: Callable[[Any], None]
    acceleration: Callable[[Any], None]
    report: Callable[[Any], None]
    steering: Callable[[Any], None]


def check_ego_source(ego_source: str) -> None:
    """Raise OwledError where the reports that are to drive cannot be heard."""
    if ego_source == REPORT and message_class(REPORT_TYPE) is None:
        raise OwledError(f"ego_source is {ego_source}, but {not_installed(REPORT_TYPE)}; or set ego_source to twist")


class EgoInputs:
    """The subscriptions; `ego_source` says which of them must not be silent."""

    def __init__(self, node: Node, hearers: EgoHearers, ego_source: str) -> None:
        self._node, self._hearers, self._must_report = node, hearers, ego_source == REPORT
        self._odometry = self._hear(Odometry, topics.ODOMETRY.name, self._on_odometry)
        self._ego = watch(PART, ODOMETRY_TYPE, self._odometry.subscription)
        self._others = [self._hear(AccelWithCovarianceStamped, topics.ACCELERATION.name, hearers.acceleration)]
        self._report: FastInput | None = None
        self._reports: InputWatch | None = None
        if (report := message_class(REPORT_TYPE)) is not None:
            self._report = self._hear(report, topics.VELOCITY_REPORT.name, self._on_report)
            self._reports = watch(PART, REPORT_TYPE, self._report.subscription)
        if (steering := message_class(STEERING_TYPE)) is not None:
            self._others.append(self._hear(steering, topics.STEERING_REPORT.name, hearers.steering))

    @property
    def watched(self) -> InputWatch:
        """The one that must not be silent: that of the odometry, or of the reports where they drive."""
        reported = self._reports is not None and (self._must_report or (self._reports.count and not self._ego.count))
        return self._reports if reported and self._reports is not None else self._ego

    def look(self) -> None:
        """Hear what waits, so that an image meets the newest."""
        for item in (self._odometry, self._report, *self._others):
            if item is not None:
                item.look()

    def follow_types(self) -> None:
        """Listen to velocity reports on the topic of the odometry where those are published there, and back."""
        types = published_types(self._node, self._ego.topic)
        if not types or self._ego.type_name in types:
            return
        wanted = next((name for name in (ODOMETRY_TYPE, REPORT_TYPE) if name in types and message_class(name)), "")
        if not wanted:
            return
        self._odometry.close()
        heard = self._on_odometry if wanted == ODOMETRY_TYPE else self._on_report_there
        self._odometry = self._hear(message_class(wanted), topics.ODOMETRY.name, heard)
        self._ego = watch(PART, wanted, self._odometry.subscription)
        self._node.get_logger().info(f"{PART} <- {self._ego.topic} ({wanted}), as it is published there")

    def close(self) -> None:
        """Stop listening."""
        for item in (self._odometry, self._report, *self._others):
            if item is not None:
                item.close()

    def _hear(self, kind: Any, topic: str, heard: Callable[[Any], None]) -> FastInput:
        quality = QoSProfile(depth=EGO_DEPTH, reliability=SENSOR)
        return FastInput(self._node, kind, topic, heard, quality)

    def _on_odometry(self, message: Any) -> None:
        self._ego.heard()
        self._hearers.odometry(message)

    def _on_report_there(self, message: Any) -> None:
        self._ego.heard()
        self._hearers.report(message)

    def _on_report(self, message: Any) -> None:
        if self._reports is not None:
            self._reports.heard()
        self._hearers.report(message)
