"""One input of driving_node, and why it is silent: no publisher, wrong type, incompatible quality, nothing sent. Needs rclpy."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.subscription import Subscription

from owled_ros.nodes.diagnostics import Level
from owled_ros.nodes.optional_messages import message_class, package_of

HEARABLE = (  # packages whose types are heard on the topic of another type, where they are installed
    "autoware_perception_msgs",
    "autoware_planning_msgs",
    "autoware_vehicle_msgs",
)


@dataclass
class InputWatch:
    """One subscription and what came over it."""

    part: str  # name in the diagnostics
    type_name: str  # for example sensor_msgs/msg/Image
    topic: str  # resolved name
    subscription: Subscription | None  # None: the message's package is not installed
    count: int = 0
    arrived: float = 0.0  # [s] monotonic, of the newest message
    since: float = 0.0  # [s] monotonic, when the subscription was made

    def heard(self) -> None:
        """Note a message."""
        self.count += 1
        self.arrived = time.monotonic()


def watch(part: str, type_name: str, subscription: Subscription) -> InputWatch:
    """Start to watch a subscription."""
    now = time.monotonic()
    return InputWatch(part, type_name, str(subscription.topic_name), subscription, arrived=now, since=now)


def published_types(node: Node, topic: str) -> set[str]:
    """Return the types that are published on a topic now."""
    return {info.topic_type for info in node.get_publishers_info_by_topic(topic)}


def judge_input(node: Node, item: InputWatch, timeout_s: float) -> tuple[Level, str]:
    """Say whether an input is alive, and if not, why."""
    if item.subscription is None:
        return Level.ERROR, not_installed(item.type_name)
    silent = time.monotonic() - item.arrived
    if item.count and silent < timeout_s:
        return Level.OK, "receiving"
    if not item.count and silent < timeout_s:
        return Level.WARN, f"waiting for the first message on {item.topic}"
    return Level.ERROR, why_silent(node, item, silent)


def not_installed(type_name: str) -> str:
    """Say what to do about a missing message package."""
    return f"{package_of(type_name)} is not installed here; source the workspace that has it before the node is started"


def why_silent(node: Node, item: InputWatch, silent: float) -> str:
    """Compare the publishers of a topic with what the subscription can hear."""
    publishers = node.get_publishers_info_by_topic(item.topic)
    if not publishers or item.subscription is None:
        return f"no publisher on {item.topic} ({item.type_name}); start the source or remap {item.part}"
    types = sorted({info.topic_type for info in publishers})
    if item.type_name not in types:
        missing = [name for name in types if package_of(name) in HEARABLE and message_class(name) is None]
        hint = f"; {not_installed(missing[0])}" if missing else ""
        return f"wrong type on {item.topic}: {', '.join(types)} is published, {item.type_name} is expected{hint}"
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
