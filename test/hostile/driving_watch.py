"""Drives at 10 Hz and watches the three laws: the node lives, its actions come, and nothing wrong is among them. Needs rclpy.

One camera and one odometry go to every driver, each on topics of its own; one of the drivers may be left in peace, and tells what
the machine itself does to the gaps.
"""

from __future__ import annotations

import array
import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from owled_ros.msg import PredictedAction, PredictedTrajectory, SceneDescription
from owled_ros.nodes.conversions import stamp_of, stamp_to_time

NANOSECONDS = 1_000_000_000
RATE_HZ, EGO_PER_IMAGE = 10.0, 2
OLDEST_S, AHEAD_S = 5.0, 1.0  # of a stamp that is published
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
NUMBERS = (
    "throttle",
    "brake",
    "steering",
    "acceleration",
    "steering_tire_angle",
    "confidence",
    "frame_age",
    "latency_ms",
)


@dataclass
class Watch:
    """What one driver published."""

    name: str
    actions: int = 0
    faults: list[str] = field(default_factory=list)
    came: float = 0.0  # [s] monotonic, of the last action
    longest_s: float = 0.0  # gap between two actions since `mark`
    model_id: str = ""  # of the last action
    _stamps: dict[str, int] = field(default_factory=dict)
    _switched: tuple[int, str] | None = None  # from this stamp [ns] on only this model
    _asked: int = 0  # requests for another model without an answer yet
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, model_id: str) -> None:
        """Hear that another model is asked for (empty), and what drives when that is answered: from then on nothing else."""
        with self._asking:
            self._asked += -1 if model_id else 1
            self._switched = (time.time_ns(), model_id) if model_id and self._asked == 0 else None

    def mark(self) -> float:
        """Begin to measure the gap anew; returns the longest until now [s], the running one included."""
        now = time.monotonic()
        longest = max(self.longest_s, now - self.came if self.came else 0.0)
        self.longest_s = 0.0
        return longest

    def on_action(self, message: PredictedAction) -> None:
        """Check an action."""
        now = time.monotonic()
        if self.came:
            self.longest_s = max(self.longest_s, now - self.came)
        self.came, self.actions, self.model_id = now, self.actions + 1, message.model_id
        self._check("action", message, [getattr(message, name) for name in NUMBERS])
        if not message.valid:
            self.faults.append("an action on ~/output/action is not valid")
        switched = self._switched
        if switched is not None and stamp_of(message) > switched[0] and message.model_id != switched[1]:
            self.faults.append(f"an action of {message.model_id} after the switch to {switched[1]}")

    def on_trajectory(self, message: PredictedTrajectory) -> None:
        """Check a trajectory."""
        numbers = [getattr(point, name) for point in message.points for name in point.get_fields_and_field_types()]
        self._check("trajectory", message, [float(number) for number in numbers])
        if not message.points:
            self.faults.append("a trajectory without points")

    def on_scene(self, message: SceneDescription) -> None:
        """Check a description."""
        self._check("scene", message, [message.confidence, message.frame_age, message.latency_ms])

    def _check(self, what: str, message: Any, numbers: list[float]) -> None:
        stamp, now = stamp_of(message), time.time_ns()
        if stamp < self._stamps.get(what, 0):
            behind = (self._stamps[what] - stamp) / NANOSECONDS
            self.faults.append(f"the stamp of {what} fell by {behind:.3f} s")
        self._stamps[what] = stamp
        if not -AHEAD_S < (now - stamp) / NANOSECONDS < OLDEST_S:
            self.faults.append(f"the stamp of {what} is {(now - stamp) / NANOSECONDS:.3f} s old")
        if not all(map(math.isfinite, numbers)):
            self.faults.append(f"{what} holds numbers that are none: {numbers}")


class Drive:
    """The camera, the odometry and the ears, in threads of their own."""

    def __init__(
        self,
        domain: int,
        drivers: list[str],
        images: list[np.ndarray],
        compressed: bool = False,
        rate_hz: float = RATE_HZ,
    ) -> None:
        self._rate_hz = rate_hz
        self.watches = {name: Watch(name) for name in drivers}
        self.sent = 0
        self.slipped_s = 0.0  # how late the camera was at most: the machine's doing
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("driving_watch", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._messages = [_compressed(image) if compressed else _raw(image) for image in images]
        kind, end = (CompressedImage, "/compressed") if compressed else (Image, "")
        self._cameras = [self._node.create_publisher(kind, f"{name}/input/image{end}", BEST_EFFORT) for name in drivers]
        self._odometry = [self._node.create_publisher(Odometry, f"{name}/input/odometry", 10) for name in drivers]
        for name, watch in self.watches.items():
            for topic, heard, message in (
                ("action", watch.on_action, PredictedAction),
                ("trajectory", watch.on_trajectory, PredictedTrajectory),
                ("scene", watch.on_scene, SceneDescription),
            ):
                self._node.create_subscription(message, f"{name}/output/{topic}", heard, 50)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._hear)]

    def start(self) -> None:
        """Begin to drive."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop."""
        self._ended.set()
        for thread in self._threads:
            thread.join(10.0)
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def wait_for_actions(self, count: int, timeout: float) -> bool:
        """Wait until every driver has published so many actions more."""
        wanted = {name: watch.actions + count for name, watch in self.watches.items()}
        end = time.monotonic() + timeout
        while any(watch.actions < wanted[name] for name, watch in self.watches.items()):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def faults(self) -> list[str]:
        """Return what was wrong with anything that was published."""
        return [f"{watch.name}: {fault}" for watch in self.watches.values() for fault in watch.faults]

    def _send(self) -> None:
        period = 1.0 / self._rate_hz
        due = time.monotonic()
        while not self._ended.is_set():
            for step in range(EGO_PER_IMAGE):
                self._move()
                due += period / EGO_PER_IMAGE
                if step < EGO_PER_IMAGE - 1:
                    self._ended.wait(max(due - time.monotonic(), 0.0))
            message = self._messages[self.sent % len(self._messages)]
            message.header.stamp = stamp_to_time(time.time_ns())
            for camera in self._cameras:
                camera.publish(message)
            self.sent += 1
            late = time.monotonic() - due
            self.slipped_s = max(self.slipped_s, late)
            if late > period:
                due = time.monotonic()
            self._ended.wait(max(due - time.monotonic(), 0.0))

    def _move(self) -> None:
        message = Odometry()
        message.header.stamp = stamp_to_time(time.time_ns())
        message.twist.twist.linear.x = 8.0
        for odometry in self._odometry:
            odometry.publish(message)

    def _hear(self) -> None:
        while not self._ended.is_set():
            try:
                self._executor.spin_once(timeout_sec=0.1)
            except ExternalShutdownException:
                return


def _raw(image: np.ndarray) -> Image:
    message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8", step=3 * image.shape[1])
    message.header.frame_id = "camera"
    message.data = array.array("B", image.tobytes())
    return message


def _compressed(image: np.ndarray) -> CompressedImage:
    message = CompressedImage(format="jpeg")
    message.header.frame_id = "camera"
    message.data = array.array("B", cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
    return message
