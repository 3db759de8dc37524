"""What a source of images publishes and hears back: camera, odometry and clock out, answers in. Needs rclpy.

Answers are heard on the driving node's typed topics. Events go to a callback (`owled demo` reads them): "answer" for every
image that was taken up, with what was true at its stamp, "scene" for every description.
"""

from __future__ import annotations

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

from owled_ros.driving.answer import Action, Scene, format_action, format_scene
from owled_ros.driving.frame import EgoState, View
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.overlay import Overlay
from owled_ros.driving.prediction import SceneAnswer
from owled_ros.driving.surroundings import Surroundings
from owled_ros.errors import OwledError
from owled_ros.msg import NavigationCommand as NavigationCommandMessage
from owled_ros.msg import PredictedAction, PredictedTrajectory, SceneDescription
from owled_ros.nodes.conversions import command_to_message, ego_to_odometry, rgb_to_image, stamp_of, stamp_to_time
from owled_ros.nodes.hearing import message_to_action, message_to_answer, message_to_scene, reason_of
from owled_ros.nodes.input_watch import not_installed
from owled_ros.nodes.optional_messages import message_class
from owled_ros.nodes.perception_output import PerceptionOutput

if TYPE_CHECKING:
    from owled_ros.bags.recorded import Recorded, Recording

IMAGE_TOPIC, ODOMETRY_TOPIC, CLOCK_TOPIC = "/camera/image", "/ego/odometry", "/clock"
OTHER_INPUTS = {  # of bags.recorded
    "objects": "objects",
    "lights": "traffic_lights",
    "stop_lines": "stop_lines",
    "path": "path",
    "steering": "steering_report",
}
CAMERA_FRAME, BASE_FRAME, ODOM_FRAME = "camera", "base_link", "odom"
REMEMBERED = 64  # images whose answer may still come
ANSWERS = 50  # depth of the subscriptions
SCENE_MEMORY_S = 2.0
MAX_ACCELERATION, MAX_STEERING = 50.0, 1.57  # [m/s2], [rad]: the world does nothing that no vehicle could
STARTING = (  # of a node that has not heard clock, odometry, command or perception yet
    PredictedAction.REASON_CLOCK_JUMP,
    PredictedAction.REASON_NO_EGO,
    PredictedAction.REASON_NO_COMMAND,
    PredictedAction.REASON_NO_SURROUNDINGS,
    PredictedAction.REASON_STALE_SURROUNDINGS,
)
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
    around: Surroundings | None = None  # what another perception tells
    command: NavigationCommand | None = None  # what the route asks for
    number: int = 0  # of the image, from 1; given by CameraOutput


class CameraOutput:
    """The publishing and hearing half of a source; callbacks come in the executor's thread."""

    def __init__(
        self, node: Node, driver: str, event: Event, sketch: Callable[[Shown, Overlay], None] | None, simulated: bool
    ) -> None:
        self.action: tuple[Action, float] | None = None  # the newest one, and when it came [s] monotonic
        self.on_action: Callable[[int, bytes], None] | None = None  # stamp and serialised message, for recording
        self.sent = 0  # images
        self.taken_up = 0  # of them, those that the driving node said something about, each counted once
        self.answered = threading.Event()  # the newest image was
        self.forgiving = False  # an answer for a reason of STARTING is none
        self.last_answer: PredictedAction | None = None  # valid or not
        self._event, self._sketch = event, sketch
        self._shown: OrderedDict[int, Shown] = OrderedDict()
        self._heard: set[int] = set()  # stamps [ns] in _shown that were answered
        self._undrawn: tuple[Shown, PredictedAction] | None = None  # until its trajectory is heard
        self._scene: tuple[SceneAnswer, float] | None = None
        self._trajectory: PredictedTrajectory | None = None
        self._lock = threading.Lock()
        sensor = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._node, self._inputs = node, f"{driver}/input"
        self._image = node.create_publisher(Image, IMAGE_TOPIC, sensor)
        self._views: dict[str, Publisher] = {}  # of further cameras
        self._raw: dict[str, Publisher] = {}  # of messages as they were recorded: by camera, or "/" and what they are
        self._leader = ""  # the first camera of a recording
        self._odometry = node.create_publisher(Odometry, ODOMETRY_TOPIC, 50)
        self.perception = PerceptionOutput(node, self._inputs)
        self._clock = node.create_publisher(Clock, CLOCK_TOPIC, sensor) if simulated else None
        self._actions = f"{driver}/output/action"
        for topic in ("action", "withheld_action"):  # together one message per image that was taken up
            node.create_subscription(PredictedAction, f"{driver}/output/{topic}", self._on_action, ANSWERS)
        for topic in ("trajectory", "withheld"):
            node.create_subscription(PredictedTrajectory, f"{driver}/output/{topic}", self._on_trajectory, ANSWERS)
        node.create_subscription(SceneDescription, f"{driver}/output/scene", self._on_scene, ANSWERS)

    @property
    def heard(self) -> bool:
        """True when someone listens to the camera, and to the recorded odometry where that is played, and can be heard."""
        first = [publisher for key, publisher in self._raw.items() if key in (self._leader, "/ego")] or [self._image]
        if any(publisher.get_subscription_count() == 0 for publisher in first):
            return False
        return self._node.count_publishers(self._actions) > 0

    def tick(self, stamp: int) -> None:
        """Publish the clock [ns], in simulated time."""
        if self._clock is not None:
            self._clock.publish(Clock(clock=stamp_to_time(stamp)))

    def move(self, ego: EgoState, pose: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        """Publish the ego state."""
        self._odometry.publish(ego_to_odometry(ego, pose, ODOM_FRAME, BASE_FRAME))

    def show(self, shown: Shown, views: Sequence[View] = ()) -> None:
        """Publish an image, before it those of further cameras at the same moment, what is around, and the command."""
        if shown.command is not None:
            self.command(shown.command)
        if shown.around is not None:
            self.perception.tell(shown.stamp, shown.around)
        for view in views:
            publisher = self._views.get(view.camera) or self._view(view.camera)
            publisher.publish(rgb_to_image(view.image, view.stamp, view.frame_id or view.camera))
        self.expect(shown)
        self._image.publish(rgb_to_image(shown.image, shown.stamp, CAMERA_FRAME))

    def expect(self, shown: Shown) -> None:
        """Remember an image that is about to be published, for its answer; one that is shown again counts once."""
        self.answered.clear()
        with self._lock:
            self.sent += shown.stamp not in self._shown
            self._shown[shown.stamp] = replace(shown, number=self.sent)
            while len(self._shown) > REMEMBERED:
                self._heard.discard(self._shown.popitem(last=False)[0])

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
        ego = message_class(recording.topics.ego_type)
        if ego is None:
            raise OwledError(
                f"{recording.topics.ego} cannot be played as recorded: {not_installed(recording.topics.ego_type)}"
            )
        self._open("/ego", ego, ODOMETRY_TOPIC)
        for part, msgtype in recording.others.items():
            kind = message_class(msgtype)
            if kind is None:
                self._node.get_logger().warning(f"{part} are not played: {not_installed(msgtype)}")
            else:
                topic = f"{self._inputs}/{OTHER_INPUTS[part]}"
                self._open(f"/{part}", kind, topic, latched=part == "stop_lines")
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
        return newest[0]

    def forget_action(self) -> None:
        """Forget the newest action, as at the start of a route."""
        self.action = None

    def finish(self) -> None:
        """Draw the last answer, whose trajectory will not be heard any more."""
        undrawn, self._undrawn = self._undrawn, None
        if undrawn is not None and self._sketch is not None:
            self._sketch(undrawn[0], self._overlay(*undrawn))

    def _on_action(self, message: PredictedAction) -> None:
        came, stamp = time.monotonic(), stamp_of(message)
        if message.valid and not can_be_driven(message):
            words = f"an action of {message.acceleration:g} m/s2 and {message.steering_tire_angle:g} rad is not one, and is not driven"
            self._node.get_logger().warning(words, throttle_duration_sec=5.0)
            return
        with self._lock:
            shown, newest = self._shown.get(stamp), next(reversed(self._shown), 0)
            if stamp in self._heard or (self.forgiving and message.reason in STARTING):
                return
            if shown is not None:
                self.taken_up += 1
                self._heard.add(stamp)
        if message.valid:
            self.action = (message_to_action(message), came)
            if self.on_action is not None:
                self.on_action(stamp, serialize_message(message))
        if shown is None:
            return
        self.last_answer = message
        self._event(self._facts_of(message, shown, came))
        if stamp == newest:
            self.answered.set()
        self.finish()
        self._undrawn = (shown, message)
        self._draw_when_whole()

    def _on_trajectory(self, message: PredictedTrajectory) -> None:
        self._trajectory = message
        self._draw_when_whole()

    def _on_scene(self, message: SceneDescription) -> None:
        with self._lock:
            shown = self._shown.get(stamp_of(message))
        if shown is None:
            return
        scene = message_to_scene(message)
        self._scene = (scene, time.monotonic())
        truth = "" if shown.scene is None else format_scene(shown.scene)
        self._event({"event": "scene", "reason": scene.reason.name, "text": message.text, "truth": truth})

    def _draw_when_whole(self) -> None:
        """Draw the newest answer once its trajectory is there too: the two topics may overtake each other."""
        if self._undrawn is None or self._trajectory is None:
            return
        if self._trajectory.header.stamp == self._undrawn[1].header.stamp:
            self.finish()

    def _facts_of(self, message: PredictedAction, shown: Shown, came: float) -> dict[str, Any]:
        return {
            "event": "answer",
            "reason": reason_of(message).name,
            "detail": message.reason_text,
            "text": message.text,
            "confidence": float(message.confidence) if message.text else None,
            "latency_ms": float(message.latency_ms),
            "camera_to_action_ms": round((came - shown.sent + shown.waited) * 1e3, 2),
            "speed": round(shown.ego.speed, 2),
            "expert": None if shown.expert is None else format_action(shown.expert),
            "route": shown.route,
            "sent": self.sent,
            "passed_over": shown.number - self.taken_up,
            **shown.facts,
        }

    def _overlay(self, shown: Shown, message: PredictedAction) -> Overlay:
        scene, reason = self._scene, reason_of(message)
        return Overlay(
            answer=message_to_answer(message, self._trajectory),
            scene=scene[0] if scene is not None and time.monotonic() - scene[1] < SCENE_MEMORY_S else None,
            ego=shown.ego,
            title=f"{message.model_id}   {message.latency_ms:.0f} ms",
            note="" if message.valid else f"{reason.name}: {message.reason_text}",
        )


def can_be_driven(message: PredictedAction) -> bool:
    """Tell whether a vehicle could do what an action says; NaN is nothing that it could."""
    return abs(message.acceleration) <= MAX_ACCELERATION and abs(message.steering_tire_angle) <= MAX_STEERING
