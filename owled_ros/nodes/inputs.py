"""The subscriptions of driving_node, and why one is silent: no publisher, wrong type, incompatible quality, nothing sent. Needs rclpy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import AccelWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from owled_ros.driving.needs import InputNeeds
from owled_ros.msg import NavigationCommand
from owled_ros.nodes import topics
from owled_ros.nodes.cameras import CameraChoices, CameraInput, camera_inputs
from owled_ros.nodes.diagnostics import Level
from owled_ros.nodes.fast_input import FastInput

SENSOR = ReliabilityPolicy.BEST_EFFORT
EGO_DEPTH = 50


@dataclass
class InputWatch:
    """One subscription and what came over it."""

    part: str  # name in the diagnostics
    type_name: str  # for example sensor_msgs/msg/Image
    subscription: Subscription
    count: int = 0
    arrived: float = 0.0  # [s] monotonic, of the newest message
    since: float = 0.0  # [s] monotonic, when the subscription was made

    @property
    def topic(self) -> str:
        """Resolved name."""
        return str(self.subscription.topic_name)

    def heard(self) -> None:
        """Note a message."""
        self.count += 1
        self.arrived = time.monotonic()


@dataclass(frozen=True)
class Hearers:
    """Who hears the inputs."""

    image: Callable[[str, Any], None]  # name of the camera (empty: the first), message
    odometry: Callable[[Odometry], None]
    acceleration: Callable[[AccelWithCovarianceStamped], None]
    command: Callable[[NavigationCommand], None]


class Inputs:
    """Every subscription of an active node; cameras come and go with the profile that drives."""

    def __init__(self, node: Node, choices: CameraChoices, hearers: Hearers) -> None:
        self._node, self._choices, self._hearers = node, choices, hearers
        self._cameras: dict[tuple[str, bool], InputWatch] = {}
        quality = QoSProfile(depth=EGO_DEPTH, reliability=SENSOR)
        self._odometry = FastInput(node, Odometry, topics.ODOMETRY.name, self._on_odometry, quality)
        self._acceleration = FastInput(
            node, AccelWithCovarianceStamped, topics.ACCELERATION.name, hearers.acceleration, quality
        )
        self._ego = watch("odometry", _type_of(topics.ODOMETRY), self._odometry.subscription)
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        self._command = self._subscribe(NavigationCommand, topics.COMMAND.name, hearers.command, latched)

    @property
    def watches(self) -> list[InputWatch]:
        """The inputs that must not be silent, the first camera first."""
        return [*self._cameras.values(), self._ego]

    def listen(self, *wanted: InputNeeds) -> list[str]:
        """Listen to the cameras of these profiles and to no others; returns the diagnostics of those that are gone."""
        inputs = camera_inputs(self._choices, *wanted)
        gone = [key for key in self._cameras if key not in inputs]
        parts = [self._cameras[key].part for key in gone]
        for key in gone:
            self._node.destroy_subscription(self._cameras.pop(key).subscription)
        for key, camera in inputs.items():
            if key not in self._cameras:
                self._cameras[key] = self._listen_to(camera)
        return parts

    def look(self) -> None:
        """Hear the odometry that waits, so that an image meets the newest."""
        self._odometry.look()

    def close(self) -> list[str]:
        """Stop listening; returns the diagnostics of what was listened to."""
        parts = [item.part for item in self.watches]
        self.listen()
        self._odometry.close()
        self._acceleration.close()
        self._node.destroy_subscription(self._command)
        return parts

    def _listen_to(self, camera: CameraInput) -> InputWatch:
        kind = CompressedImage if camera.compressed else Image
        item: InputWatch

        def heard(message: Any) -> None:
            item.heard()
            self._hearers.image(camera.name, message)

        quality = QoSProfile(depth=camera.depth, reliability=SENSOR)
        topic = topics.COMPRESSED if camera.compressed else topics.IMAGE
        item = watch(camera.part, _type_of(topic), self._subscribe(kind, camera.topic, heard, quality))
        return item

    def _on_odometry(self, message: Odometry) -> None:
        self._ego.heard()
        self._hearers.odometry(message)

    def _subscribe(self, kind: Any, topic: str, heard: Callable[[Any], None], quality: QoSProfile) -> Subscription:
        options = QoSOverridingOptions.with_default_policies()
        return self._node.create_subscription(kind, topic, heard, quality, qos_overriding_options=options)


def _type_of(topic: topics.Topic) -> str:
    return topic.type.replace("/", "/msg/")


def watch(part: str, type_name: str, subscription: Subscription) -> InputWatch:
    """Start to watch a subscription."""
    now = time.monotonic()
    return InputWatch(part, type_name, subscription, arrived=now, since=now)


def judge_input(node: Node, item: InputWatch, timeout_s: float) -> tuple[Level, str]:
    """Say whether an input is alive, and if not, why."""
    silent = time.monotonic() - item.arrived
    if item.count and silent < timeout_s:
        return Level.OK, "receiving"
    if not item.count and silent < timeout_s:
        return Level.WARN, f"waiting for the first message on {item.topic}"
    return Level.ERROR, why_silent(node, item, silent)


def why_silent(node: Node, item: InputWatch, silent: float) -> str:
    """Compare the publishers of a topic with what the subscription can hear."""
    publishers = node.get_publishers_info_by_topic(item.topic)
    if not publishers:
        return f"no publisher on {item.topic} ({item.type_name}); start the source or remap {item.part}"
    types = sorted({info.topic_type for info in publishers})
    if item.type_name not in types:
        return f"wrong type on {item.topic}: {', '.join(types)} is published, {item.type_name} is expected"
    reasons = []
    for info in publishers:
        if info.topic_type != item.type_name:
            continue
        verdict, why = qos_check_compatible(info.qos_profile, item.subscription.qos_profile)
        if verdict != QoSCompatibility.ERROR:
            known = "no message yet" if not item.count else f"no message for {silent:.1f} s"
            return f"stale: {known} on {item.topic}, although {info.node_name} publishes it"
        reasons.append(f"{info.node_name}: {why.removeprefix('ERROR: ').rstrip('; ')}")
    return (
        f"incompatible QoS on {item.topic}: {'; '.join(reasons)}; set qos_overrides.{item.topic}.subscription in the "
        "parameter file"
    )
