"""The publishers of autoware_node: only those that are switched on, and only their message packages. Needs rclpy."""

from __future__ import annotations

import time
import uuid
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from owled_ros.driving.answer import Scene
from owled_ros.driving.ego import NANOSECONDS
from owled_ros.driving.intentions import Indicator, Turn, factors_of, turn_of
from owled_ros.nodes import autoware_messages as messages
from owled_ros.nodes import autoware_topics as topics
from owled_ros.nodes.autoware_parameters import AutowareSettings
from owled_ros.nodes.conversions import stamp_to_time
from owled_ros.nodes.quality import advertise
from owled_ros.nodes.topics import Topic
from owled_ros.onboard.candidates import Candidate


def outputs_of(settings: AutowareSettings) -> list[Topic]:
    """Name the outputs that are switched on."""
    switched = (
        (settings.publish_trajectories, topics.CANDIDATES),
        (settings.publish_planning_trajectory, topics.PLANNING_TRAJECTORY),
        (settings.publish_turn_indicators, topics.TURN_INDICATORS),
        (settings.publish_planning_factors, topics.PLANNING_FACTORS),
        (settings.publish_control, topics.CONTROL),
        (settings.publish_processing_time, topics.PROCESSING_TIME),
        (settings.publish_processing_time, topics.MODEL_LATENCY),
    )
    return [topic for wanted, topic in switched if wanted]


class AutowareOutputs:
    """Publishes a candidate in all the forms that are asked for."""

    def __init__(self, node: Node, settings: AutowareSettings) -> None:
        wanted = outputs_of(settings)
        packages = {messages.PLANNING, *(topic.type.partition("/")[0] for topic in wanted)}
        self._messages = messages.load(sorted(packages))
        self._node = node
        self.generator = messages.Generator(settings.generator_name, uuid.uuid4())
        self.published = 0  # candidates
        self._standing = False  # the last thing said was a candidate
        self._indicator = Indicator(settings.indicate_hold_s)
        self._publishers: dict[str, Publisher] = {}
        for topic in wanted:
            package, _, kind = topic.type.partition("/")
            quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
            self._publishers[topic.name] = advertise(node, getattr(self._messages[package], kind), topic.name, quality)

    def publish(
        self,
        candidate: Candidate,
        ground: messages.Ground,
        scene: Scene | None,
        settings: AutowareSettings,
        began: float,
    ) -> None:
        """Publish a candidate; `began` [s] of the monotonic clock is when its odometry was taken up."""
        header = Header(stamp=stamp_to_time(candidate.stamp), frame_id=candidate.frame_id)
        values = candidate.rest.values
        planning = self._messages[messages.PLANNING]
        points = messages.points_of(values, ground, settings.vehicle_wheel_base, planning.TrajectoryPoint)
        internal = self._messages.get(messages.INTERNAL_PLANNING)
        self._send(topics.CANDIDATES, lambda: self.generator.candidates(internal, header, points))
        self._send(topics.PLANNING_TRAJECTORY, lambda: planning.Trajectory(header=header, points=points))
        self._send(
            topics.CONTROL,
            lambda: messages.point_to_control(self._messages[messages.CONTROL], points[0], candidate.stamp),
        )
        self._indicator.hold_s = settings.indicate_hold_s
        wanted = turn_of(values, candidate.plan.command, settings.indicate_distance_m)
        self._turn(self._indicator.show(wanted, candidate.stamp / NANOSECONDS), candidate.stamp)
        factors = factors_of(values, candidate.plan.manoeuvre, scene)
        self._send(
            topics.PLANNING_FACTORS,
            lambda: messages.factors_to_message(internal, factors, header, points, settings.module_name),
        )
        self.published += 1
        self._standing = True
        self._number(topics.PROCESSING_TIME, (time.monotonic() - began) * 1e3)

    def end(self, stamp: int, frame_id: str, withdraw: bool) -> None:
        """Say once that there is no candidate any more: nothing is indicated, nothing is planned."""
        if not self._standing:
            return
        self._standing = False
        internal: Any = self._messages.get(messages.INTERNAL_PLANNING)
        header = Header(stamp=stamp_to_time(stamp), frame_id=frame_id)
        if withdraw:
            self._send(topics.CANDIDATES, lambda: self.generator.candidates(internal, header, []))
        self._indicator = Indicator(self._indicator.hold_s)
        self._turn(Turn.NO_COMMAND, stamp)
        self._send(topics.PLANNING_FACTORS, lambda: internal.PlanningFactorArray(header=header))

    def latency(self, milliseconds: float) -> None:
        """Publish how long the model took."""
        self._number(topics.MODEL_LATENCY, milliseconds)

    def _turn(self, turn: Turn, stamp: int) -> None:
        vehicle: Any = self._messages.get(messages.VEHICLE)
        time_of = stamp_to_time(stamp)
        self._send(topics.TURN_INDICATORS, lambda: vehicle.TurnIndicatorsCommand(stamp=time_of, command=int(turn)))

    def _number(self, topic: Topic, value: float) -> None:
        now = self._node.get_clock().now().to_msg()
        self._send(topic, lambda: self._messages[messages.DEBUG].Float64Stamped(stamp=now, data=value))

    def _send(self, topic: Topic, make: Any) -> None:
        publisher = self._publishers.get(topic.name)
        if publisher is not None:
            publisher.publish(make())
