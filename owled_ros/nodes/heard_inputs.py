"""What driving_node hears, handed to its ladder: callbacks convert and store, nothing else. Needs the message packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import AccelWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node

from owled_ros.errors import OwledError
from owled_ros.msg import NavigationCommand
from owled_ros.nodes import conversions
from owled_ros.nodes.ego_inputs import EgoHearers
from owled_ros.nodes.inputs import Hearers
from owled_ros.nodes.perception_inputs import PerceptionHearers
from owled_ros.onboard.ladder import Ladder
from owled_ros.onboard.throttle import Throttle


class HeardInputs:
    """Everything but images, while `active` says so."""

    def __init__(self, node: Node, ladder: Ladder, throttle: Throttle, active: Callable[[], bool]) -> None:
        self._node, self._ladder, self._throttle, self._active = node, ladder, throttle, active

    def hearers(self, image: Callable[[str, Any], None]) -> Hearers:
        """Return who hears what."""
        ego = EgoHearers(self._on_odometry, self._on_acceleration, self._on_report, self._on_steering)
        perception = PerceptionHearers(self._on_objects, self._on_lights, self._on_stop_lines, self._on_path)
        return Hearers(image, ego, self._on_command, perception)

    def _on_odometry(self, message: Odometry) -> None:
        if self._active():
            lateral = message.twist.twist.linear.y
            self._ladder.hear(conversions.odometry_to_ego(message), lateral, message.header.frame_id)

    def _on_acceleration(self, message: AccelWithCovarianceStamped) -> None:
        if self._active():
            self._ladder.motion.hear_acceleration(conversions.stamp_of(message), message.accel.accel.linear.x)

    def _on_report(self, message: Any) -> None:
        if self._active():
            self._ladder.motion.hear_report(conversions.report_to_ego(message), float(message.lateral_velocity))

    def _on_steering(self, message: Any) -> None:
        if self._active():
            self._ladder.motion.hear_steering(
                conversions.time_to_stamp(message.stamp), float(message.steering_tire_angle)
            )

    def _on_objects(self, message: Any) -> None:
        if self._active():
            self._ladder.around.hear_objects(conversions.stamp_of(message), message)

    def _on_lights(self, message: Any) -> None:
        if self._active():
            stamp = message.header.stamp if hasattr(message, "header") else message.stamp
            self._ladder.around.hear_lights(conversions.time_to_stamp(stamp), message)

    def _on_stop_lines(self, message: Any) -> None:
        if self._active():
            self._ladder.around.hear_stop_lines(conversions.stamp_of(message), message)

    def _on_path(self, message: Any) -> None:
        if self._active():
            self._ladder.around.hear_route(conversions.stamp_of(message), message)

    def _on_command(self, message: NavigationCommand) -> None:
        if not self._active():
            return
        try:
            command = conversions.message_to_command(message, self._node.get_clock().now().nanoseconds)
            self._ladder.route.hear(command)
        except OwledError as error:
            self._ladder.route.hear(None, str(error))
            if self._throttle.due(str(error)):
                self._node.get_logger().warning(str(error))
