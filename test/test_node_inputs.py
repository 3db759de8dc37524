"""Inputs of the node: cameras to topics, messages to what the package works with, and a thousand odometry messages a second."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

import numpy as np
import rclpy
from driving_rig import free_domain
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message

from owled_ros.driving.answer import Action
from owled_ros.driving.ego import Pose
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.msg import NavigationCommand as CommandMessage
from owled_ros.nodes import conversions
from owled_ros.nodes.cameras import by_camera, camera_inputs, read_choices
from owled_ros.nodes.fast_input import FastInput, stamp_in
from owled_ros.onboard.ladder import Outcome

MILLISECOND = 1_000_000
THREE = InputNeeds((CameraNeed("front"), CameraNeed("left"), CameraNeed("right")))


def odometry(stamp: int, x: float = 0.0, **turn: float) -> Odometry:
    message = Odometry()
    message.header.stamp = conversions.stamp_to_time(stamp)
    message.pose.pose.position.x = x
    for name, value in turn.items():
        setattr(message.pose.pose.orientation, name, value)
    return message


def test_cameras_come_from_topics_by_their_names_unless_told_otherwise() -> None:
    choices = read_choices("raw", "left: compressed", "right: /r/image_raw, front: /f", "")
    found = {item.part: (item.name, item.topic, item.compressed) for item in camera_inputs(choices, THREE).values()}
    assert found == {
        "image": ("", "/f", False),
        "image left": ("left", "~/input/left/image/compressed", True),
        "image right": ("right", "/r/image_raw", False),
    }
    plain = camera_inputs(read_choices("compressed", "", "", ""), InputNeeds())
    assert list(plain) == [("~/input/image/compressed", True)]
    assert by_camera("p", " a : b:c ,") == {"a": "b:c"}


@pytest.mark.parametrize("text", ["left", "left:", ": x", "left: x, left: y"])
def test_texts_that_name_no_camera_are_refused(text: str) -> None:
    with pytest.raises(OwledError, match="expected every camera once"):
        read_choices("raw", "", text, "")


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(OwledError, match="expected raw or compressed"):
        read_choices("raw", "left: h264", "", "")


def test_poses_are_taken_where_there_are_some() -> None:
    quarter = odometry(5, 3.0, z=math.sin(math.pi / 4), w=math.cos(math.pi / 4))
    assert conversions.odometry_to_ego(quarter).pose == Pose(3.0, 0.0, pytest.approx(math.pi / 2))
    assert conversions.odometry_to_ego(odometry(5, 3.0, w=0.0)).pose is None
    assert conversions.odometry_to_ego(odometry(5, math.nan)).pose is None
    assert conversions.odometry_to_ego(odometry(5, 3.0, z=math.nan)).pose is None


def test_commands_are_converted_or_refused_with_words() -> None:
    message = CommandMessage(kind=CommandMessage.KIND_RIGHT, distance=math.nan, text="after the bridge")
    command = conversions.message_to_command(message, 77)
    assert command == NavigationCommand(CommandKind.RIGHT, None, "after the bridge", 77)
    back = conversions.command_to_message(command)
    assert (back.kind, math.isnan(back.distance), back.header.stamp.nanosec) == (CommandMessage.KIND_RIGHT, True, 77)
    assert conversions.command_to_message(None).kind == CommandMessage.KIND_UNKNOWN
    for wrong, words in (
        ({"kind": 99}, "kind 99"),
        ({"distance": -2.0}, "distance -2 m"),
        ({"distance": math.inf}, "distance inf m"),
        ({"text": "x" * 5_000}, "5000 characters"),
    ):
        with pytest.raises(OwledError, match=words):
            conversions.message_to_command(CommandMessage(**wrong), 0)


def test_trajectories_are_published_whole_and_nothing_else_is() -> None:
    path = roll_out(Action(-1.0, 0.1), 8.0, VehicleParameters())
    generation = Generation("text", True, 0.7, 1, 0.0, reasoning="because")
    answer = ActionAnswer(generation, Action(-1.0, 0.1), Reason.VALID, trajectory=path)
    good = Outcome(1_500_000_000, "camera", Reason.VALID, "", answer=answer, calibrated=True)
    message = conversions.outcome_to_trajectory(good, "base_link")
    back = conversions.message_to_trajectory(message)
    assert np.allclose(back.values, path.values, atol=1e-5)
    assert (message.valid, message.reasoning, message.confidence_calibrated) == (True, "because", True)
    for reason in Reason:
        if reason is Reason.VALID:
            continue
        bad = replace(good, reason=reason, detail="words")  # whatever an answer may still hold
        withheld = conversions.outcome_to_trajectory(bad, "base_link")
        assert (withheld.valid, len(withheld.points), withheld.reason, withheld.reason_text) == (
            False,
            0,
            reason,
            "words",
        )
        action = conversions.outcome_to_withheld_action(bad, "base_link")
        assert (action.valid, action.reason) == (False, reason)
        assert all(
            math.isnan(value)
            for value in (action.throttle, action.brake, action.acceleration, action.steering_tire_angle)
        )
        with pytest.raises(ValueError, match="no action"):
            conversions.outcome_to_action(bad, VehicleParameters(), "base_link")
    with pytest.raises(ValueError, match="is valid"):
        conversions.outcome_to_withheld_action(good, "base_link")


def test_stamps_are_read_without_deserialising() -> None:
    assert stamp_in(serialize_message(odometry(1_700_000_000_123_456_789))) == 1_700_000_000_123_456_789


def test_of_a_thousand_messages_a_second_the_newest_and_enough_between_are_heard() -> None:
    context = Context()
    rclpy.init(context=context, domain_id=free_domain())
    node: Any = rclpy.create_node("fast", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard: list[int] = []
    quality = QoSProfile(depth=50)
    try:
        fast = FastInput(
            node, Odometry, "/odometry", lambda message: heard.append(conversions.stamp_of(message)), quality
        )
        publisher = node.create_publisher(Odometry, "/odometry", quality)
        while publisher.get_subscription_count() == 0:
            executor.spin_once(timeout_sec=0.05)
        looks = 0
        for burst in range(40):  # 25 messages, a millisecond apart, for every look
            for step in range(25):
                publisher.publish(odometry((burst * 25 + step) * MILLISECOND))
            came = fast.count
            while fast.count < came + 25:
                executor.spin_once(timeout_sec=0.05)
                looks += 1
            assert heard[-1] == (burst * 25 + 24) * MILLISECOND, "the newest is always there"
        assert heard == sorted(heard)
        assert fast.count == 1_000
        # one of five, and the newest of every look
        assert len(heard) <= 1_000 / 5 + looks
        assert max(after - before for before, after in itertools.pairwise(heard)) <= 5 * MILLISECOND
        publisher.publish(odometry(2_000 * MILLISECOND))  # a slow message after that comes without a look
        while heard[-1] != 2_000 * MILLISECOND:
            executor.spin_once(timeout_sec=0.05)
        fast.close()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
