"""Where attacks go: publishers, clients and a working directory beside running nodes. Needs rclpy and the built messages."""

from __future__ import annotations

import array
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from driving_rig import BEST_EFFORT, Peer
from geometry_msgs.msg import AccelWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from owled_ros.action import Recalibrate
from owled_ros.msg import NavigationCommand
from owled_ros.nodes.conversions import stamp_to_time

DRIVER, RECALIBRATION = "/driving_node", "/recalibration_node"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ANSWER_S = 60.0  # a service that has no answer after this long has failed
SWITCH_S = 400.0  # a load on a busy machine: the trial, then the loading


class NoAnswerError(AssertionError):
    """A service did not answer."""


class Target(Peer):
    """One attacker's connection to the nodes of a domain; used from one thread."""

    def __init__(
        self, domain: int, work: Path, seed: int = 0, store: Path | None = None, compressed: bool = False
    ) -> None:
        self.work, self.store, self.random = work, store, random.Random(seed)
        self.compressed = compressed  # what the driver listens to
        self.driven: Callable[[str], None] = lambda model_id: None  # hears which model drives; empty: asked
        super().__init__(domain, "attacker")
        topic = f"{DRIVER}/input/image"
        self.raw = self.node.create_publisher(Image, topic, BEST_EFFORT)
        self.encoded = self.node.create_publisher(CompressedImage, f"{topic}/compressed", BEST_EFFORT)
        self.odometry = self.node.create_publisher(Odometry, f"{DRIVER}/input/odometry", BEST_EFFORT)
        self.acceleration = self.node.create_publisher(
            AccelWithCovarianceStamped, f"{DRIVER}/input/acceleration", BEST_EFFORT
        )
        self.command = self.node.create_publisher(NavigationCommand, f"{DRIVER}/input/command", LATCHED)
        many = QoSProfile(depth=500)  # or answers to many requests at once are lost here
        queues = dict.fromkeys(
            ("goal_service_qos_profile", "result_service_qos_profile", "cancel_service_qos_profile"), many
        )
        self.goals = ActionClient(self.node, Recalibrate, f"{RECALIBRATION}/recalibrate", **queues)
        self._clients: dict[str, Any] = {}

    def now(self) -> int:
        """Return the time [ns]."""
        return time.time_ns()

    def send_image(self, stamp: int | None = None, **fields: Any) -> None:
        """Publish a raw image with these fields; its stamp is now."""
        data = fields.pop("data", b"")
        message = Image(**fields)
        message.data = array.array("B", data)
        self._publish(self.raw, message, stamp)

    def send_encoded(self, data: bytes, form: str = "jpeg", stamp: int | None = None) -> None:
        """Publish a compressed image."""
        message = CompressedImage(format=form)
        message.data = array.array("B", data)
        self._publish(self.encoded, message, stamp)

    def send_odometry(self, stamp: int | None = None, speed: float = 8.0, **numbers: float) -> None:
        """Publish odometry; numbers are those of the pose and the twist by name."""
        message = Odometry()
        message.twist.twist.linear.x = speed
        message.twist.twist.angular.z = numbers.get("yaw_rate", 0.0)
        for name in ("x", "y", "z"):
            setattr(message.pose.pose.position, name, numbers.get(name, 0.0))
        message.pose.pose.orientation.w = numbers.get("w", 0.0)
        message.pose.pose.orientation.z = numbers.get("qz", 0.0)
        self._publish(self.odometry, message, stamp)

    def wait(self, future: Any, what: str, timeout: float = ANSWER_S) -> Any:
        """Wait for an answer; raises NoAnswerError when none comes."""
        end = time.monotonic() + timeout
        while not future.done():
            if time.monotonic() > end:
                raise NoAnswerError(f"{what} has no answer after {timeout:g} s")
            self.executor.spin_once(timeout_sec=0.05)
        return future.result()

    def send(self, kind: Any, name: str, **fields: Any) -> Any:
        """Call a service without waiting for its answer."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, name, qos_profile=QoSProfile(depth=500))
        if not client.service_is_ready() and not client.wait_for_service(ANSWER_S):
            raise NoAnswerError(f"{name} is not there")
        return client.call_async(kind.Request(**fields))

    def call(self, kind: Any, name: str, patience_s: float = ANSWER_S, **fields: Any) -> Any:
        """Call a service and wait for its answer."""
        return self.wait(self.send(kind, name, **fields), name, patience_s)

    def send_goal(self, **fields: Any) -> Any:
        """Send a recalibration goal; the future of its handle."""
        if not self.goals.wait_for_server(ANSWER_S):
            raise NoAnswerError("the recalibration's action is not there")
        goal = Recalibrate.Goal(bags=["drive"], sparsity=0.5)
        for name, value in fields.items():
            setattr(goal, name, value)
        return self.goals.send_goal_async(goal)

    def parameters(self, values: dict[str, Any]) -> list[Any]:
        """Make parameter messages."""
        return [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]

    def _publish(self, publisher: Any, message: Any, stamp: int | None) -> None:
        message.header.stamp = stamp_to_time(self.now() if stamp is None else stamp)
        message.header.frame_id = "camera"
        publisher.publish(message)
