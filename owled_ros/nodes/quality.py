"""Qualities of service: what is latched, and topics whose quality the parameter file may override. Needs rclpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SENSOR = ReliabilityPolicy.BEST_EFFORT


def subscribe(
    node: Node, kind: Any, topic: str, heard: Callable[[Any], None], quality: QoSProfile, **more: Any
) -> Subscription:
    """Listen to a topic; `qos_overrides.<topic>.subscription` of the parameter file goes before `quality`."""
    options = QoSOverridingOptions.with_default_policies()
    return node.create_subscription(kind, topic, heard, quality, qos_overriding_options=options, **more)


def advertise(node: Node, kind: Any, topic: str, quality: QoSProfile) -> Publisher:
    """Publish a topic; `qos_overrides.<topic>.publisher` of the parameter file goes before `quality`."""
    options = QoSOverridingOptions.with_default_policies()
    return node.create_publisher(kind, topic, quality, qos_overriding_options=options)
