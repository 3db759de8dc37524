"""evaluation_node: listens to driving_node while a bag is replayed, and writes the verdict when it has ended. Needs rclpy.

`~/debug/result` has a publisher once the driving node has been found, so that a player can wait for it: answers to images
that come earlier are lost. It ends when the clock has passed the last image of the bag, when whoever published /clock has left, or when nothing was
answered for too long; a paused player is waited for. The exit code is 0 when every condition holds.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from owled_ros.bags.summary import summarise_bag
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.errors import OwledError
from owled_ros.evaluation.replay import Answers, add_answer, judge_replay
from owled_ros.evaluation.report import write_html
from owled_ros.evaluation.scenario import Scenario, read_scenario
from owled_ros.msg import PredictedTrajectory, SceneDescription
from owled_ros.nodes.conversions import description_to_answer, trajectory_to_answer
from owled_ros.nodes.parameters import Entry, declare, read_values
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.spinning import spin_node

CLOCK_TOPIC = "/clock"
ANSWERS = (
    "/output/trajectory",
    "/output/withheld",
)  # of the driving node: together one message per image that it took up
SCENE = "/output/scene"
RESULT = "~/debug/result"
LOOK_PERIOD_S = 0.2
ANSWER_DEPTH = 1000
logger = logging.getLogger(__name__)
ENTRIES = (
    Entry("bag", "str", "The bag that is replayed; truth is read from it.", read_only=True),
    Entry("result", "str", "Directory for result.jsonl and report.html.", read_only=True),
    Entry("scenario", "str", "Conditions as yaml; empty: the default ones.", read_only=True),
    Entry("image_topic", "str", "Camera of the bag; empty: as the scenario says.", read_only=True),
    Entry("ego_topic", "str", "Ego motion of the bag; empty: as the scenario says.", read_only=True),
    Entry("ego_from", "str", "What tells the ego motion; empty: as the scenario says.", read_only=True),
    Entry("driver", "str", "Full name of the node that drives.", read_only=True),
    Entry("settle_s", "float", "Wait this long [s] for the last answers after the end.", 0.0, 60.0, read_only=True),
    Entry("start_timeout_s", "float", "Give up when nothing was answered for this long [s].", 1.0, 3600.0, read_only=True),
    Entry("report", "bool", "Write report.html too.", read_only=True),
)  # fmt: skip


@dataclass(frozen=True)
class EvaluationOptions:
    """See ENTRIES."""

    bag: str
    result: str
    scenario: str
    image_topic: str
    ego_topic: str
    ego_from: str
    driver: str
    settle_s: float
    start_timeout_s: float
    report: bool


class EvaluationNode(Node):
    """Collects answers in its callbacks; everything else happens in `_look`, on the wall clock."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__("evaluation_node")
        del stop
        declare(self, ENTRIES)
        self.options = EvaluationOptions(**read_values(self, ENTRIES))
        self.exit_code = 1  # until there is a verdict
        self.answers: Answers = {}
        self.scenario = Scenario()
        self._last_image = 0  # [ns], stamp
        self._clock_stamp = 0  # [ns]
        self._clock_seen = False
        self._started = time.monotonic()
        self._end_since: float | None = None
        self._done = False
        self._result: Publisher | None = None  # made when the driving node has been found
        self._images = 0
        reliable = QoSProfile(depth=ANSWER_DEPTH)
        quick = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        for topic in ANSWERS:
            self.create_subscription(PredictedTrajectory, self.options.driver + topic, self._on_trajectory, reliable)
        self.create_subscription(SceneDescription, self.options.driver + SCENE, self._on_scene, reliable)
        self.create_subscription(Clock, CLOCK_TOPIC, self._on_clock, quick)

    def prepare(self) -> int | None:
        """Read scenario and bag before anything is replayed; an exit code when that fails."""
        try:
            scenario = read_scenario(Path(self.options.scenario) if self.options.scenario else None)
            options = self.options
            self.scenario = scenario.reading_from(options.image_topic, options.ego_topic, options.ego_from)
            summary = summarise_bag(Path(self.options.bag), self.scenario.read_options())
            self._last_image, self._images = int(summary.frames.stamps[-1]), len(summary.frames.stamps)
        except (OwledError, IndexError) as error:
            self.get_logger().error(f"nothing to evaluate: {error}")
            return 1
        self.create_timer(
            LOOK_PERIOD_S, self._look, clock=rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
        )
        self._started = time.monotonic()
        self.get_logger().info(f"waiting for {self.options.driver}")
        return None

    def _on_trajectory(self, message: PredictedTrajectory) -> None:
        add_answer(self.answers, trajectory_to_answer(message))

    def _on_scene(self, message: SceneDescription) -> None:
        add_answer(self.answers, description_to_answer(message))

    def _on_clock(self, message: Clock) -> None:
        self._clock_seen = True
        self._clock_stamp = message.clock.sec * NANOSECONDS + message.clock.nanosec

    def _look(self) -> None:
        if self._done:
            return
        if self._result is None and all(self.count_publishers(self.options.driver + topic) for topic in ANSWERS):
            self._result = self.create_publisher(String, RESULT, 1)
            self.get_logger().info(f"listening to {self.options.driver} for {self._images} images")
        why = self._why_ended()
        now = time.monotonic()
        if why is None:
            self._end_since = None
            return
        self._end_since = self._end_since or now
        if now - self._end_since >= self.options.settle_s:
            self._done = True
            try:
                self._judge(why)
            finally:
                rclpy.try_shutdown()

    def _why_ended(self) -> str | None:
        if self._clock_seen and self._clock_stamp >= self._last_image:
            return ""
        if self.answers and max(self.answers) >= self._last_image:
            return ""
        if self._clock_seen and not self.count_publishers(CLOCK_TOPIC):
            return "the player left before the end of the bag"
        if not self.answers and time.monotonic() - self._started > self.options.start_timeout_s:
            what = "was not found" if self._result is None else "answered nothing"
            return f"{self.options.driver} {what} for {self.options.start_timeout_s:.0f} s"
        return None

    def _judge(self, why: str) -> None:
        directory = Path(self.options.result)
        try:
            result = judge_replay(Path(self.options.bag), self.answers, self.scenario, directory, why)
            if self.options.report:
                write_html([result], directory / "report.html")
        except OwledError as error:
            self.get_logger().error(f"no verdict: {error}")
            return
        self.exit_code = 0 if result.success else 1
        verdict = {"success": result.success, "summary": result.summary, "coverage": result.metrics["coverage"]}
        if self._result is not None:
            self._result.publish(String(data=json.dumps(verdict)))
        self.get_logger().info(f"{result.summary} ({result.path})")


def main() -> int:
    """Run the node until its verdict is written; returns the exit code."""
    return spin_node(EvaluationNode, EvaluationNode.prepare, "evaluation_node.param.yaml")
