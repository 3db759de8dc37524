"""driving_node with a model that answers at once, and the image messages that it is sent: what is left is the node's own cost.

For node_latency.py and node_views.py. Needs ROS 2 and cv2.
"""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

ANSWER = "cruise, acceleration +0.4 m/s2, steering +0.02 rad"
SCENE = "0 cars; 0 pedestrians; no traffic light"


class InstantEngine:
    """Sees every frame and always answers the same; `needs` (driving.needs) says what it must be shown."""

    facts: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, needs: Any = None) -> None:
        from owled_ros.driving.confidence import Calibration
        from owled_ros.driving.prediction import ModelIdentity

        self.identity = ModelIdentity("instant")
        self.images = 1 if needs is None else len(needs.cameras) * len(needs.image_offsets_s)
        if needs is not None:
            self.profile = SimpleNamespace(needs=needs, confidence=Calibration())

    def see(self, frame: Any) -> Any:
        assert len(frame.images) == self.images
        return frame

    def act(self, prefix: Any) -> Any:
        from owled_ros.driving.prediction import Generation, judge_action

        return judge_action(Generation(ANSWER, True, 0.9, 1, 0.0))

    def describe(self, prefix: Any, cancelled: Any = None) -> Any:
        from owled_ros.driving.prediction import Generation, judge_scene

        return judge_scene(Generation(SCENE, True, 0.9, 1, 0.0))

    def ask(self, prefix: Any, question: str, cancelled: Any = None) -> Any:
        return None

    def close(self) -> None:
        pass


def run_node(needs: Any = None) -> None:
    """Run driving_node with it; ends the process."""
    from owled_ros.nodes.driving_node import main
    from owled_ros.nodes.process import leave, watch_signals

    watch_signals()
    leave(main(lambda *_, **__: InstantEngine(needs)))


def image_message(image: np.ndarray, compressed: bool = False) -> Any:
    """Make a message of (H, W, 3) uint8 RGB, without a stamp; array.array is what rclpy takes over without looking at every byte."""
    from sensor_msgs.msg import CompressedImage, Image

    height, width = image.shape[:2]
    message = (
        CompressedImage(format="jpeg")
        if compressed
        else Image(height=height, width=width, encoding="rgb8", step=3 * width)
    )
    data = cv2.imencode(".jpg", image)[1] if compressed else image
    message.data = array.array("B", data.tobytes())
    return message
