"""Objects, traffic lights, stop lines and route for models whose profile asks for them, of the type that is published. Needs rclpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile

from owled_ros.driving.needs import InputNeeds
from owled_ros.nodes import topics
from owled_ros.nodes.input_watch import InputWatch, published_types, watch
from owled_ros.nodes.optional_messages import message_class
from owled_ros.nodes.quality import LATCHED, SENSOR, subscribe

DEPTH = 5
PACKAGE = "autoware_perception_msgs/msg"
TABLE_TYPE = "sensor_msgs/msg/PointCloud2"  # driving.perceived_tables
OBJECT_TYPES = (
    *(f"{PACKAGE}/{name}" for name in ("TrackedObjects", "PredictedObjects", "DetectedObjects")),
    TABLE_TYPE,
)
LIGHT_TYPES = (f"{PACKAGE}/TrafficLightGroupArray", TABLE_TYPE)
PATH_TYPES = ("nav_msgs/msg/Path", "autoware_planning_msgs/msg/Path", "autoware_planning_msgs/msg/Trajectory")
HELD = QoSProfile(depth=DEPTH, reliability=SENSOR)


@dataclass(frozen=True)
class PerceptionHearers:
    """Who hears them."""

    objects: Callable[[Any], None]
    lights: Callable[[Any], None]
    stop_lines: Callable[[Any], None]
    path: Callable[[Any], None]


class TypedInput:
    """Hears a topic that may carry one of several types."""

    def __init__(
        self,
        node: Node,
        part: str,
        topic: str,
        types: tuple[str, ...],
        heard: Callable[[Any], None],
        quality: QoSProfile = HELD,
    ) -> None:
        self._node, self._topic, self._types, self._heard, self._quality = node, topic, types, heard, quality
        self._kind: Any = None
        first = next((name for name in types if message_class(name)), types[0])
        self.watch = InputWatch(part, first, node.resolve_topic_name(topic), None)
        self._listen(first)
        self.follow_types()

    def follow_types(self) -> None:
        """Listen to the type that is published."""
        types = published_types(self._node, self.watch.topic)
        wanted = next((name for name in self._types if name in types), self.watch.type_name)
        if self.watch.type_name not in types and wanted != self.watch.type_name:
            self.close()
            self._listen(wanted)

    def look(self) -> None:
        """Hear what waits."""
        subscription = self.watch.subscription
        if subscription is None:
            return
        with subscription.handle:
            while (found := subscription.handle.take_message(self._kind, False)) is not None:
                self._on_message(found[0])

    def close(self) -> None:
        """Stop listening."""
        if self.watch.subscription is not None:
            self._node.destroy_subscription(self.watch.subscription)
            self.watch.subscription = None

    def _listen(self, name: str) -> None:
        self._kind = message_class(name)
        if self._kind is None:
            return
        heard = subscribe(self._node, self._kind, self._topic, self._on_message, self._quality)
        self.watch = watch(self.watch.part, name, heard)

    def _on_message(self, message: Any) -> None:
        self.watch.heard()
        self._heard(message)


class PerceptionInputs:
    """Comes and goes with the profile that drives."""

    def __init__(self, node: Node, hearers: PerceptionHearers) -> None:
        self._node = node
        self._kinds = {
            "objects": (topics.OBJECTS.name, OBJECT_TYPES, hearers.objects, HELD),
            "traffic lights": (topics.LIGHTS.name, LIGHT_TYPES, hearers.lights, HELD),
            "stop lines": (topics.STOP_LINES.name, (TABLE_TYPE,), hearers.stop_lines, LATCHED),
            "path": (topics.PATH.name, PATH_TYPES, hearers.path, HELD),
        }
        self._inputs: dict[str, TypedInput] = {}
        self._optional: set[str] = set()

    @property
    def watches(self) -> list[InputWatch]:
        """What is listened to and must not be silent; stop lines come once, where somebody knows them."""
        return [item.watch for part, item in self._inputs.items() if part not in self._optional]

    def listen(self, *wanted: InputNeeds) -> list[str]:
        """Listen to what these profiles ask for and to nothing else; returns the diagnostics of what is gone."""
        asked = {
            "objects": any(needs.objects is not None for needs in wanted),
            "traffic lights": any(needs.lights is not None for needs in wanted),
            "stop lines": any(needs.route is not None for needs in wanted),
            "path": any(needs.route is not None for needs in wanted),
        }
        must_have_path = any(needs.route is not None and needs.route.required for needs in wanted)
        self._optional = {"stop lines"} if must_have_path else {"stop lines", "path"}
        gone = [part for part in self._inputs if not asked[part]]
        for part in gone:
            self._inputs.pop(part).close()
        for part, (topic, types, heard, quality) in self._kinds.items():
            if asked[part] and part not in self._inputs:
                self._inputs[part] = TypedInput(self._node, part, topic, types, heard, quality)
        return gone

    def look(self) -> None:
        """Hear what waits, so that an image meets the newest."""
        for item in self._inputs.values():
            item.look()

    def follow_types(self) -> None:
        """Listen to the types that are published."""
        for item in self._inputs.values():
            item.follow_types()
