"""What a source of images publishes and hears back: camera, odometry and clock out, answers in. Needs rclpy.

Events go as lines of JSON to a callback (`owled demo` reads them): "answer" for every image that was answered, with what
was true at its stamp, "scene" for every description.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import AccelWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from owled_ros.driving.answer import Action, Scene, format_action, format_scene
from owled_ros.driving.frame import EgoState, View
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.overlay import Overlay
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason, SceneAnswer, judge_action, judge_scene
from owled_ros.driving.trajectory import Trajectory
from owled_ros.msg import NavigationCommand as NavigationCommandMessage
from owled_ros.msg import PredictedAction, PredictedTrajectory
from owled_ros.nodes.conversions import (
    command_to_message,
    ego_to_odometry,
    message_to_trajectory,
    rgb_to_image,
    stamp_to_time,
)
from owled_ros.nodes.images import stamp_of

if TYPE_CHECKING:
    from owled_ros.bags.recorded import Recorded, Recording

IMAGE_TOPIC, ODOMETRY_TOPIC, CLOCK_TOPIC = "/camera/image", "/ego/odometry", "/clock"
CAMERA_FRAME, BASE_FRAME, ODOM_FRAME = "camera", "base_link", "odom"
REMEMBERED = 64  # images whose answer may still come
SCENE_MEMORY_S = 2.0
Event = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Shown:
    """One image that was published, and what was true at its stamp."""

    stamp: int  # [ns]
    image: np.ndarray
    ego: EgoState
    sent: float  # [s] monotonic
    waited: float  # [s] between the stamp and sending, on the wall clock; 0 in simulated time
    route: int
    expert: Action | None
    scene: Scene | None
    facts: dict[str, Any]


class CameraOutput:
    """The publishing and hearing half of a source; callbacks come in the executor's thread."""

    def __init__(
        self, node: Node, driver: str, event: Event, sketch: Callable[[Shown, Overlay], None] | None, simulated: bool
    ) -> None:
        self.action: tuple[PredictedAction, float] | None = None  # the newest one, and when it came [s] monotonic
        self.on_action: Callable[[int, bytes], None] | None = None  # stamp and serialised message, for recording
        self.sent = 0  # images
        self.answered = threading.Event()
        self.last_answer: dict[str, Any] | None = None
        self._event, self._sketch = event, sketch
        self._shown: OrderedDict[int, Shown] = OrderedDict()
        self._scene: tuple[SceneAnswer, float] | None = None
        self._trajectory: tuple[int, Trajectory] | None = None  # of the stamp [ns]
        self._arrived: dict[int, float] = {}
        self._lock = threading.Lock()
        sensor = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._node, self._inputs = node, f"{driver}/input"
        self._image = node.create_publisher(Image, IMAGE_TOPIC, sensor)
        self._views: dict[str, Publisher] = {}  # of further cameras
        self._raw: dict[str, Publisher] = {}  # of messages as they were recorded: by camera, or "/" and what they are
        self._leader = ""  # the first camera of a recording
        self._odometry = node.create_publisher(Odometry, ODOMETRY_TOPIC, 50)
        self._clock = node.create_publisher(Clock, CLOCK_TOPIC, sensor) if simulated else None
        node.create_subscription(PredictedAction, f"{driver}/output/action", self._on_action, 10)
        node.create_subscription(PredictedTrajectory, f"{driver}/output/trajectory", self._on_trajectory, 10)
        node.create_subscription(String, f"{driver}/debug/answer", self._on_answer, 50)

    @property
    def heard(self) -> bool:
        """True when somebody listens to the camera, and to the recorded odometry where that is played."""
        first = [publisher for key, publisher in self._raw.items() if key in (self._leader, "/ego")] or [self._image]
        return all(publisher.get_subscription_count() > 0 for publisher in first)

    def tick(self, stamp: int) -> None:
        """Publish the clock [ns], in simulated time."""
        if self._clock is not None:
            self._clock.publish(Clock(clock=stamp_to_time(stamp)))

    def move(self, ego: EgoState, pose: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        """Publish the ego state."""
        self._odometry.publish(ego_to_odometry(ego, pose, ODOM_FRAME, BASE_FRAME))

    def show(self, shown: Shown, views: Sequence[View] = ()) -> None:
        """Publish an image, before it those of further cameras at the same moment."""
        for view in views:
            publisher = self._views.get(view.camera) or self._view(view.camera)
            publisher.publish(rgb_to_image(view.image, view.stamp, view.frame_id or view.camera))
        self.expect(shown)
        self._image.publish(rgb_to_image(shown.image, shown.stamp, CAMERA_FRAME))

    def expect(self, shown: Shown) -> None:
        """Remember an image that is about to be published, for its answer."""
        self.answered.clear()
        self.sent += 1
        with self._lock:
            self._shown[shown.stamp] = shown
            while len(self._shown) > REMEMBERED:
                self._shown.popitem(last=False)

    def command(self, command: NavigationCommand) -> None:
        """Publish what the route asks for."""
        if "/command" not in self._raw:
            self._open("/command", NavigationCommandMessage, f"{self._inputs}/command", latched=True)
        self._raw["/command"].publish(command_to_message(command))

    def open_recorded(self, recording: Recording) -> None:
        """Open the topics that the recorded messages go to."""
        self._leader = recording.cameras[0]
        for camera, msgtype in recording.types.items():
            packed = msgtype.endswith("/CompressedImage")
            base = IMAGE_TOPIC if camera == self._leader else f"{self._inputs}/{camera}/image"
            self._open(camera, CompressedImage if packed else Image, f"{base}/compressed" if packed else base)
        self._open("/ego", Odometry, ODOMETRY_TOPIC)
        if recording.acceleration:
            self._open("/acceleration", AccelWithCovarianceStamped, f"{self._inputs}/acceleration")
        if recording.topics.command:
            self._open("/command", NavigationCommandMessage, f"{self._inputs}/command", latched=True)

    def send(self, message: Recorded) -> None:
        """Publish the bytes of a recorded message."""
        publisher = self._raw.get(message.camera or f"/{message.part}")
        if publisher is not None:
            publisher.publish(message.data)

    def _open(self, key: str, kind: Any, topic: str, latched: bool = False) -> None:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        self._raw[key] = self._node.create_publisher(kind, topic, QoSProfile(depth=50, durability=durability))

    def _view(self, camera: str) -> Publisher:
        sensor = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        found = self._node.create_publisher(Image, f"{self._inputs}/{camera}/image", sensor)
        self._views[camera] = found
        return found

    def fresh_action(self, timeout_s: float) -> Action | None:
        """Return the newest action unless it is older than `timeout_s` [s]."""
        newest = self.action
        if newest is None or time.monotonic() - newest[1] > timeout_s:
            return None
        return Action(float(newest[0].acceleration), float(newest[0].steering_tire_angle))

    def forget_action(self) -> None:
        """Forget the newest action, as at the start of a route."""
        self.action = None

    def _on_action(self, message: PredictedAction) -> None:
        now = time.monotonic()
        if not message.valid:
            return
        stamp = stamp_of(message)
        self.action = (message, now)
        self._arrived[stamp] = now
        if len(self._arrived) > REMEMBERED:
            self._arrived.pop(next(iter(self._arrived)))
        if self.on_action is not None:
            self.on_action(stamp, serialize_message(message))

    def _on_trajectory(self, message: PredictedTrajectory) -> None:
        self._trajectory = (stamp_of(message), message_to_trajectory(message))

    def _on_answer(self, message: String) -> None:
        values = json.loads(message.data)
        with self._lock:
            shown = self._shown.get(values["stamp"])
        if shown is None:
            return
        if values["kind"] == "scene":
            scene = judge_scene(Generation(values["text"], values["reason"] != Reason.INCOMPLETE.name, 0.0, 0, 0.0))
            self._scene = (scene, time.monotonic())
            truth = "" if shown.scene is None else format_scene(shown.scene)
            self._event({**values, "event": "scene", "truth": truth})
            return
        self.last_answer = values
        came = self._arrived.get(shown.stamp, time.monotonic())
        late_ms = (came - shown.sent + shown.waited) * 1e3
        expert = None if shown.expert is None else format_action(shown.expert)
        self._event(
            {
                **values,
                "event": "answer",
                "speed": round(shown.ego.speed, 2),
                "camera_to_action_ms": round(late_ms, 2),
                "expert": expert,
                "route": shown.route,
                "sent": self.sent,
                **shown.facts,
            }
        )
        self.answered.set()
        if self._sketch is not None:
            self._sketch(shown, self._overlay(values, shown))

    def _overlay(self, values: dict[str, Any], shown: Shown) -> Overlay:
        scene, newest, answer = self._scene, self._trajectory, answer_of(values)
        if answer is not None and answer.valid and newest is not None and newest[0] == shown.stamp:
            answer = replace(answer, trajectory=newest[1])  # the film shows what was published
        return Overlay(
            answer=answer,
            scene=scene[0] if scene is not None and time.monotonic() - scene[1] < SCENE_MEMORY_S else None,
            ego=shown.ego,
            title=f"{values['model_id']}   {values['latency_ms']:.0f} ms",
            note="" if values["reason"] == Reason.VALID.name else f"{values['reason']}: {values['detail']}",
        )


def answer_of(values: dict[str, Any]) -> ActionAnswer | None:
    """Rebuild the answer from ~/debug/answer; None where the model was not asked."""
    if values["confidence"] is None:
        return None
    generation = Generation(
        values["text"], True, values["confidence"], 0, values["inference_ms"] / 1e3, reasoning=values["reasoning"]
    )
    if values["reason"] == Reason.VALID.name:
        return judge_action(generation)
    return ActionAnswer(generation, None, Reason[values["reason"]], values["detail"])
