"""autoware_node: trajectories of driving_node in, candidates and what belongs to them out, in Autoware's types. Needs rclpy.

A process of its own, so that a fresh candidate leaves at its rate whatever the model's process does: the last valid trajectory is cut
at the newest pose (onboard.candidates) and stamped with that odometry's stamp. When it may not be driven on any more, nothing leaves,
and the reason stands in /diagnostics and the log. Autoware's message packages are needed, nothing else of it.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy

from owled_ros.driving.answer import Scene
from owled_ros.errors import OwledError
from owled_ros.msg import DrivingModel, PredictedTrajectory, SceneDescription
from owled_ros.nodes import autoware_topics as topics
from owled_ros.nodes import parameters
from owled_ros.nodes.autoware_inputs import message_to_plan, model_of
from owled_ros.nodes.autoware_messages import ground_of
from owled_ros.nodes.autoware_outputs import AutowareOutputs
from owled_ros.nodes.autoware_parameters import ENTRIES, read_settings
from owled_ros.nodes.conversions import odometry_to_ego, stamp_of
from owled_ros.nodes.diagnostics import Diagnostics, Level
from owled_ros.nodes.ego_inputs import EGO_DEPTH
from owled_ros.nodes.fast_input import FastInput
from owled_ros.nodes.hearing import reason_of, scene_of
from owled_ros.nodes.input_watch import InputWatch, judge_input, watch
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.quality import LATCHED, SENSOR, subscribe
from owled_ros.nodes.spinning import spin_node
from owled_ros.onboard.candidates import Candidate, CandidateKeeper, Why, Without
from owled_ros.onboard.throttle import Throttle

LOG_PERIOD_S = 5.0
LOOK_PERIOD_S = 0.1
REPORT_PERIOD_S = 1.0
NORMAL = (Why.NO_PLAN,)  # nothing has gone wrong


class AutowareNode(Node):
    """Callbacks of one executor; the odometry drives."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__("autoware_node")
        del stop
        self.settings = read_settings(self)
        self.keeper = CandidateKeeper(self.settings.limits)
        self.diagnostics = Diagnostics(self)
        self.outputs = AutowareOutputs(self, self.settings)
        self._throttle = Throttle(LOG_PERIOD_S)
        self._scene: tuple[int, Scene] | None = None  # stamp [ns]
        self._candidate: Candidate | None = None  # the last thing said, where it was one
        self._frame_id = ""
        self._base_frame = ""  # of the odometry
        self._refused = ""  # why the newest trajectory is not used
        self.add_on_set_parameters_callback(self._on_parameters)
        self._watches = self._subscribe()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(LOOK_PERIOD_S, self._look, clock=steady)
        self.create_timer(REPORT_PERIOD_S, self._report, clock=steady)

    def start(self) -> None:
        """Say who this is."""
        generator = self.outputs.generator
        self.get_logger().info(f"generator {generator.name} {generator.identity}")

    def close(self) -> None:
        """Release the fast subscription."""
        self._odometry.close()

    def _subscribe(self) -> list[InputWatch]:
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        quick = QoSProfile(depth=EGO_DEPTH, reliability=SENSOR)
        self._odometry = FastInput(self, Odometry, topics.ODOMETRY.name, self._on_odometry, quick)
        trajectory = subscribe(self, PredictedTrajectory, topics.TRAJECTORY.name, self._on_trajectory, reliable)
        subscribe(self, PredictedTrajectory, topics.WITHHELD.name, self._on_withheld, reliable)
        subscribe(self, SceneDescription, topics.SCENE.name, self._on_scene, newest)
        subscribe(self, DrivingModel, topics.MODEL.name, self._on_model, LATCHED)
        self._odometry_watch = watch("odometry", "nav_msgs/msg/Odometry", self._odometry.subscription)
        self._trajectory_watch = watch("trajectory", "owled_ros/msg/PredictedTrajectory", trajectory)
        return [self._odometry_watch, self._trajectory_watch]

    # Inputs

    def _on_odometry(self, message: Odometry) -> None:
        began = time.monotonic()
        self._odometry_watch.heard()
        self._base_frame = message.child_frame_id
        self._frame_id = message.header.frame_id or self.settings.map_frame_id
        now = self.get_clock().now().nanoseconds
        state = odometry_to_ego(message)
        if not math.isfinite(message.pose.pose.position.z):
            state = replace(state, pose=None)
        said = self.keeper.hear_odometry(state, self._frame_id, now)
        if isinstance(said, Candidate):
            scene = self._scene_at(said.stamp)
            self.outputs.publish(said, ground_of(message), scene, self.settings, began)
            self._candidate = said
        elif isinstance(said, Without):
            self._nothing(said, stamp_of(message))
        elif self.keeper.plan is None:
            self._nothing(self.keeper.without, stamp_of(message))

    def _on_trajectory(self, message: PredictedTrajectory) -> None:
        self._trajectory_watch.heard()
        try:
            plan = message_to_plan(message, self._base_frame)
        except OwledError as error:
            self._refuse(str(error))
            return
        self._refuse(self.keeper.hear_plan(plan))
        self.outputs.latency(float(message.latency_ms))

    def _on_withheld(self, message: PredictedTrajectory) -> None:
        self._trajectory_watch.heard()
        self.keeper.hear_withheld(stamp_of(message), reason_of(message), message.reason_text)
        self._ended_now()

    def _on_model(self, message: DrivingModel) -> None:
        self.keeper.hear_model(model_of(message), message.loaded)
        self._ended_now()

    def _on_scene(self, message: SceneDescription) -> None:
        scene = scene_of(message)
        self._scene = None if scene is None else (stamp_of(message), scene)

    def _on_parameters(self, values: list[Parameter]) -> SetParametersResult:
        try:
            self.settings = parameters.changed(self.settings, values, ENTRIES)
        except OwledError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.keeper.limits = self.settings.limits
        return SetParametersResult(successful=True)

    # What is said

    def _scene_at(self, stamp: int) -> Scene | None:
        if self._scene is None or abs(stamp - self._scene[0]) > self.settings.scene_timeout_s * 1e9:
            return None
        return self._scene[1]

    def _refuse(self, words: str) -> None:
        self._refused = words
        if words and self._throttle.due(words):
            self.get_logger().warning(f"trajectory not used: {words}")

    def _ended_now(self) -> None:
        """Say at once that the plan has ended, not with the next odometry."""
        if self._candidate is not None and self.keeper.plan is None:
            self._nothing(self.keeper.without, self._candidate.stamp)

    def _nothing(self, without: Without, stamp: int) -> None:
        self._candidate = None
        self.outputs.end(stamp, self._frame_id, self.settings.withdraw)
        words = f"no candidate: {without.why}: {without.words}"
        level = Level.WARN if without.why in NORMAL else Level.ERROR
        self.diagnostics.report("candidate", level, words, reason=without.why, **self._facts())
        if self._throttle.due(words):
            self.get_logger().warning(words)

    def _look(self) -> None:
        """Notice odometry that stopped."""
        without = self.keeper.silent(self.get_clock().now().nanoseconds)
        if without is not None and without.why is Why.STALE_ODOMETRY and self._candidate is not None:
            self._nothing(without, self._candidate.stamp)

    def _report(self) -> None:
        for item in self._watches:
            level, words = judge_input(self, item, self.settings.input_timeout_s)
            self.diagnostics.report(item.part, level, words, topic=item.topic, messages=item.count)
        candidate = self._candidate
        if candidate is not None:
            level, words = Level.OK, "candidates are published"
            if candidate.frame_id != self.settings.map_frame_id:
                level, words = Level.WARN, f"{words} in frame {candidate.frame_id}, not {self.settings.map_frame_id}"
            self.diagnostics.report(
                "candidate", level, words, reason="", age_s=candidate.age_s, distance_m=candidate.distance_m, **self._facts()
            )  # fmt: skip
        elif self.keeper.published is None and not self._odometry_watch.count:
            self.diagnostics.report(
                "candidate", Level.WARN, "no candidate: NO_ODOMETRY: no odometry has come", reason=Why.NO_ODOMETRY, **self._facts()
            )  # fmt: skip
        self.diagnostics.publish()

    def _facts(self) -> dict[str, Any]:
        plan = self.keeper.plan
        return {
            "candidates_published": self.outputs.published,
            "plans_given_up": self.keeper.ended,
            "model": "" if plan is None else plan.model,
            "trajectory_refused": self._refused,
            "generator_id": self.outputs.generator.identity,
        }


def main() -> int:
    """Run the node; returns the exit code."""
    return spin_node(AutowareNode, AutowareNode.start, "autoware_node.param.yaml")
