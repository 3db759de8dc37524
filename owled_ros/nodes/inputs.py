"""The subscriptions of driving_node: cameras and what another perception sees, as the profile asks; ego motion; route. Needs rclpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from owled_ros.driving.needs import InputNeeds
from owled_ros.msg import NavigationCommand
from owled_ros.nodes import topics
from owled_ros.nodes.cameras import CameraChoices, CameraInput, camera_inputs
from owled_ros.nodes.ego_inputs import EgoHearers, EgoInputs
from owled_ros.nodes.input_watch import InputWatch, watch
from owled_ros.nodes.perception_inputs import PerceptionHearers, PerceptionInputs
from owled_ros.nodes.quality import LATCHED, SENSOR, subscribe


@dataclass(frozen=True)
class Hearers:
    """Who hears the inputs."""

    image: Callable[[str, Any], None]  # name of the camera (empty: the first), message
    ego: EgoHearers
    command: Callable[[NavigationCommand], None]
    perception: PerceptionHearers


class Inputs:
    """Every subscription of an active node; cameras come and go with the profile that drives."""

    def __init__(self, node: Node, choices: CameraChoices, hearers: Hearers, ego_source: str) -> None:
        self._node, self._choices, self._hearers = node, choices, hearers
        self._cameras: dict[tuple[str, bool], InputWatch] = {}
        self._ego = EgoInputs(node, hearers.ego, ego_source)
        self._perception = PerceptionInputs(node, hearers.perception)
        self._command = subscribe(node, NavigationCommand, topics.COMMAND.name, hearers.command, LATCHED)

    @property
    def watches(self) -> list[InputWatch]:
        """The inputs that must not be silent, the first camera first."""
        return [*self._cameras.values(), self._ego.watched, *self._perception.watches]

    def listen(self, *wanted: InputNeeds) -> list[str]:
        """Listen to what these profiles ask for and to nothing else; returns the diagnostics of what is gone."""
        inputs = camera_inputs(self._choices, *wanted)
        gone = [key for key in self._cameras if key not in inputs]
        parts = [self._cameras[key].part for key in gone]
        for key in gone:
            subscription = self._cameras.pop(key).subscription
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        for key, camera in inputs.items():
            if key not in self._cameras:
                self._cameras[key] = self._listen_to(camera)
        return [*parts, *self._perception.listen(*wanted)]

    def look(self) -> None:
        """Hear the ego motion and the perception that wait, so that an image meets the newest."""
        self._ego.look()
        self._perception.look()

    def follow_types(self) -> None:
        """Listen to the types that are published, where more than one can be heard."""
        self._ego.follow_types()
        self._perception.follow_types()

    def close(self) -> list[str]:
        """Stop listening; returns the diagnostics of what was listened to."""
        parts = [item.part for item in self.watches]
        self.listen()
        self._ego.close()
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
        type_name = topic.type.replace("/", "/msg/")
        item = watch(camera.part, type_name, subscribe(self._node, kind, camera.topic, heard, quality))
        return item
