"""Why an input is silent: no publisher, wrong type, incompatible quality of service, or nothing sent. Needs rclpy."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.subscription import Subscription

from owled_ros.nodes.diagnostics import Level


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
