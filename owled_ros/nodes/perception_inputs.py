"""Objects and traffic lights for models whose profile asks for them, of the type that is published. Needs rclpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile

from owled_ros.driving.needs import InputNeeds
from owled_ros.nodes import topics
from owled_ros.nodes.input_watch import InputWatch, published_types, watch
from owled_ros.nodes.optional_messages import message_class
from owled_ros.nodes.quality import SENSOR, subscribe

DEPTH = 5
PACKAGE = "autoware_perception_msgs/msg"
OBJECT_TYPES = tuple(f"{PACKAGE}/{name}" for name in ("TrackedObjects", "PredictedObjects", "DetectedObjects"))
LIGHT_TYPES = (f"{PACKAGE}/TrafficLightGroupArray",)


class TypedInput:
    """Hears a topic that may carry one of several types."""

    def __init__(self, node: Node, part: str, topic: str, types: tuple[str, ...], heard: Callable[[Any], None]) -> None:
        self._node, self._topic, self._types, self._heard = node, topic, types, heard
        self.watch = InputWatch(part, types[0], node.resolve_topic_name(topic), None)
        self._listen(types[0])

    def follow_types(self) -> None:
        """Listen to the type that is published."""
        types = published_types(self._node, self.watch.topic)
        wanted = next((name for name in self._types if name in types), self.watch.type_name)
        if self.watch.type_name not in types and wanted != self.watch.type_name:
            self.close()
            self._listen(wanted)

    def close(self) -> None:
        """Stop listening."""
        if self.watch.subscription is not None:
            self._node.destroy_subscription(self.watch.subscription)
            self.watch.subscription = None

    def _listen(self, name: str) -> None:
        kind = message_class(name)
        if kind is None:
            return
        quality = QoSProfile(depth=DEPTH, reliability=SENSOR)
        self.watch = watch(self.watch.part, name, subscribe(self._node, kind, self._topic, self._on_message, quality))

    def _on_message(self, message: Any) -> None:
        self.watch.heard()
        self._heard(message)


class PerceptionInputs:
    """Comes and goes with the profile that drives."""

    def __init__(self, node: Node, objects: Callable[[Any], None], lights: Callable[[Any], None]) -> None:
        self._node = node
        self._kinds = {
            "objects": (topics.OBJECTS.name, OBJECT_TYPES, objects),
            "traffic lights": (topics.LIGHTS.name, LIGHT_TYPES, lights),
        }
        self._inputs: dict[str, TypedInput] = {}

    @property
    def watches(self) -> list[InputWatch]:
        """What is listened to."""
        return [item.watch for item in self._inputs.values()]

    def listen(self, *wanted: InputNeeds) -> list[str]:
        """Listen to what these profiles ask for and to nothing else; returns the diagnostics of what is gone."""
        asked = {
            "objects": any(needs.objects is not None for needs in wanted),
            "traffic lights": any(needs.lights is not None for needs in wanted),
        }
        gone = [part for part in self._inputs if not asked[part]]
        for part in gone:
            self._inputs.pop(part).close()
        for part, (topic, types, heard) in self._kinds.items():
            if asked[part] and part not in self._inputs:
                self._inputs[part] = TypedInput(self._node, part, topic, types, heard)
        return gone

    def follow_types(self) -> None:
        """Listen to the types that are published."""
        for item in self._inputs.values():
            item.follow_types()
