"""Where the first camera looks from: parameters, else CameraInfo and tf_static, else what is shipped. Needs rclpy.

Only the overlay needs it. A calibration is taken once: the first good CameraInfo ends that subscription.
"""

from __future__ import annotations

import posixpath
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

from owled_ros.driving.mounting import Lens, Mounting, StaticFrames, lens_of, view_of
from owled_ros.driving.overlay import PinholeView
from owled_ros.errors import OwledError
from owled_ros.nodes.optional_messages import message_class
from owled_ros.nodes.quality import SENSOR, subscribe

TF_TYPE = "tf2_msgs/msg/TFMessage"
STATIC_TOPIC = "/tf_static"
NOT_HEARD = "none"  # parameter camera.info_topic
SHIPPED = PinholeView(1.2217, 1.5, 0.02, 1.6)
PINHOLE_MODELS = ("", "plumb_bob", "rational_polynomial")


class CameraGeometry:
    """Hears calibration and transforms in the executor's thread; the inference thread reads `view`."""

    def __init__(self, node: Node, image_topic: str, info_topic: str, given: dict[str, float]) -> None:
        self._node, self._given = node, given
        self._frames = StaticFrames()
        self._lens: Lens | None = None
        self._mounting: Mounting | None = None
        self._camera_frame = ""
        self._said: set[str] = set()
        self._info = self._tf = None
        self.view = view_of(SHIPPED, given, None, None)
        if "horizontal_fov" not in given and info_topic != NOT_HEARD:
            quality = QoSProfile(depth=1, reliability=SENSOR)
            topic = info_topic or info_beside(image_topic)
            self._info = subscribe(node, CameraInfo, topic, self._on_info, quality)
        kind = message_class(TF_TYPE)
        if kind is not None and not {"height", "pitch", "forward"} <= set(given):
            latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._tf = subscribe(node, kind, STATIC_TOPIC, self._on_transforms, latched)
        self._say(f"camera geometry for the overlay: {self._words()}")

    def given(self, given: dict[str, float]) -> None:
        """Take what the parameters say now."""
        if given != self._given:
            self._given = given
            self._look()

    def seen(self, frame_id: str) -> None:
        """Hear in which frame the images come; CameraInfo says it too, and first."""
        if frame_id and not self._camera_frame:
            self._camera_frame = frame_id
            self._look()

    def close(self) -> None:
        """Stop listening."""
        for item in (self._info, self._tf):
            if item is not None:
                self._node.destroy_subscription(item)
        self._info = self._tf = None

    def _on_info(self, message: CameraInfo) -> None:
        try:
            self._lens = lens_of(message.width, message.height, tuple(map(float, message.k)))
        except OwledError as error:
            self._say(f"CameraInfo is not used: {error}", warn=True)
            return
        if message.distortion_model not in PINHOLE_MODELS:
            self._say(
                f"the lens is {message.distortion_model}: the overlay's path is right in the middle of the image only"
            )
        self._camera_frame = message.header.frame_id or self._camera_frame
        if self._info is not None:
            self._node.destroy_subscription(self._info)
            self._info = None
        self._look()

    def _on_transforms(self, message: Any) -> None:
        for item in message.transforms:
            place, turn = item.transform.translation, item.transform.rotation
            try:
                self._frames.add(
                    item.header.frame_id, item.child_frame_id,
                    (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w),
                )  # fmt: skip
            except OwledError as error:
                self._say(f"tf_static: {error}", warn=True)
        self._look()

    def _look(self) -> None:
        """Put the view together from what is known now, and say what counts."""
        if len(self._frames) and self._camera_frame:
            try:
                self._mounting = self._frames.mounting(self._camera_frame)
            except OwledError as error:
                self._say(f"tf_static is not used: {error}", warn=True)
        self.view = view_of(SHIPPED, self._given, self._lens, self._mounting)
        self._say(f"camera geometry for the overlay: {self._words()}")

    def _words(self) -> str:
        """Say every number and where it comes from."""
        view = self.view
        rows = (
            ("horizontal_fov", "field of view", view.horizontal_fov, "rad", self._lens, "CameraInfo"),
            ("height", "height", view.height, "m", self._mounting, "tf_static"),
            ("pitch", "pitch", view.pitch, "rad", self._mounting, "tf_static"),
            ("forward", "forward", view.forward, "m", self._mounting, "tf_static"),
        )
        return ", ".join(
            f"{words} {round(value, 4) + 0.0:.3g} {unit} ({'parameter' if name in self._given else source if known else 'shipped'})"
            for name, words, value, unit, known, source in rows
        )

    def _say(self, words: str, warn: bool = False) -> None:
        if words in self._said or len(self._said) > 100:
            return
        self._said.add(words)
        logger = self._node.get_logger()
        if warn:
            logger.warning(words)
        else:
            logger.info(words)


def info_beside(image_topic: str) -> str:
    """Return where image_transport publishes the calibration of an image topic: /a/image_raw/compressed -> /a/camera_info."""
    base = image_topic.removesuffix("/compressed")
    return posixpath.join(posixpath.dirname(base), "camera_info")
