"""Messages with any fields through everything that the nodes do with them, in process: values or words, and nothing wrong leaves."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from geometry_msgs.msg import AccelWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.driving.prediction import Generation, ModelIdentity, judge_action
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.replay import Answers, add_answer
from owled_ros.images.live import make_decoder
from owled_ros.msg import NavigationCommand, PredictedTrajectory, SceneDescription, TrajectoryPoint
from owled_ros.nodes import conversions
from owled_ros.nodes.conversions import stamp_of
from owled_ros.nodes.fast_input import stamp_in
from owled_ros.onboard.ladder import Arrival, Ladder, Limits
from owled_ros.onboard.motion import EgoMotion
from owled_ros.onboard.route import Route
from owled_ros.onboard.withheld import WithheldError

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
ANY_FLOAT = st.floats(width=64)
SINGLE = st.floats(width=32)
STAMPS = st.tuples(
    st.integers(-(2**31), 2**31 - 1) | st.integers(1_699_999_990, 1_700_000_010), st.integers(0, 2**32 - 1)
)
TEXTS = st.text(max_size=50)
NEEDS = InputNeeds((CameraNeed("", None, None),), (0.0,), (1.0, 0.5), needs_pose=True, needs_command=True)


def stamped(message: Any, stamp: tuple[int, int]) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    return message


@st.composite
def odometry(draw: st.DrawFn) -> Odometry:
    message = stamped(Odometry(), draw(STAMPS))
    for part in (message.twist.twist.linear, message.twist.twist.angular, message.pose.pose.position):
        part.x, part.y, part.z = draw(ANY_FLOAT), draw(ANY_FLOAT), draw(ANY_FLOAT)
    turn = message.pose.pose.orientation
    turn.x, turn.y, turn.z, turn.w = (draw(ANY_FLOAT) for _ in range(4))
    return message


@given(
    messages=st.lists(odometry(), min_size=1, max_size=8),
    source=st.sampled_from(["twist", "pose", "auto"]),
    acceleration=ANY_FLOAT,
)
def test_any_odometry_gives_a_finite_motion_or_a_reason(
    messages: list[Odometry], source: str, acceleration: float
) -> None:
    motion = EgoMotion(source)
    for message in messages:
        assert stamp_in(serialize_message(message)) == stamp_of(message)
        motion.hear(conversions.odometry_to_ego(message), message.twist.twist.linear.y)
        heard = AccelWithCovarianceStamped()
        heard.accel.accel.linear.x = acceleration
        motion.hear_acceleration(stamp_of(message), heard.accel.accel.linear.x)
        for needs in (InputNeeds(), NEEDS):
            try:
                now, past = motion.at(stamp_of(message), needs, 0.2)
            except WithheldError:
                continue
            for state in (now, *past):
                assert state.is_finite()
                assert state.pose is None or state.pose.is_finite()
                assert state.acceleration is None or math.isfinite(state.acceleration)


@given(kind=st.integers(0, 255), distance=SINGLE, text=st.text(max_size=3_000), stamp=STAMPS)
def test_any_command_holds_or_has_a_reason(kind: int, distance: float, text: str, stamp: tuple[int, int]) -> None:
    message = stamped(NavigationCommand(kind=kind, distance=distance, text=text), stamp)
    route = Route()
    try:
        route.hear(conversions.message_to_command(message, NOW))
    except OwledError as error:
        route.hear(None, str(error))
    try:
        command = route.at(NOW, NEEDS, 10.0)
    except WithheldError:
        return
    assert command is not None
    assert abs(command.stamp - NOW) <= 10 * SECOND
    conversions.command_to_message(command)


class Calm:
    """An engine that always says the same."""

    identity = ModelIdentity("calm")

    def see(self, frame: Any) -> Any:
        return frame

    def act(self, prefix: Any) -> Any:
        answer = judge_action(Generation("cruise, acceleration +0.4 m/s2, steering +0.02 rad", True, 0.9, 8, 0.0))
        assert answer.action is not None
        return replace(answer, trajectory=roll_out(answer.action, prefix.ego.speed, VehicleParameters()))


@st.composite
def images(draw: st.DrawFn) -> Image:
    message = Image(
        width=draw(st.sampled_from([0, 1, 8, 2**32 - 1])), height=draw(st.sampled_from([1, 8, 2**31])),
        step=draw(st.sampled_from([0, 24, 2**32 - 1])), encoding=draw(st.sampled_from(["rgb8", "nv12", "mono16", "rgb9"])),
        data=draw(st.sampled_from([b"", b"\x5a" * 192])),
    )  # fmt: skip
    message.header.frame_id = draw(TEXTS)
    return stamped(message, draw(STAMPS))


@settings(max_examples=100)
@given(sent=st.lists(images() | odometry(), max_size=30), steps=st.lists(st.integers(-2 * SECOND, SECOND), max_size=30))
def test_whatever_comes_published_stamps_do_not_fall_and_numbers_are_numbers(sent: list[Any], steps: list[int]) -> None:
    clock = [NOW]
    ladder = Ladder(make_decoder("own", 1_000_000)[0], lambda: clock[0])
    ladder.engine = Calm()  # type: ignore[assignment]
    last, newest_clock = 0, NOW
    for place, message in enumerate(sent):
        clock[0] += steps[place] if place < len(steps) else 0
        if newest_clock - clock[0] > SECOND // 2:  # it began anew
            last, newest_clock = 0, clock[0]
        newest_clock = max(newest_clock, clock[0])
        if isinstance(message, Odometry):
            ladder.hear(conversions.odometry_to_ego(message), message.twist.twist.linear.y)
            continue
        arrival = Arrival(message, stamp_of(message), time.monotonic(), message.header.frame_id)
        outcome = ladder.climb(arrival, Limits(3600.0, 1.0, 3600.0, -1.0))
        trajectory = conversions.outcome_to_trajectory(outcome, "base_link")
        json.loads(conversions.outcome_to_json(outcome))
        if not outcome.valid:
            assert outcome.detail
            assert not trajectory.valid
            conversions.outcome_to_withheld_action(outcome, "base_link")
            continue
        action = conversions.outcome_to_action(outcome, VehicleParameters(), "base_link")
        assert math.isfinite(action.acceleration + action.steering + action.frame_age)
        assert stamp_of(action) == outcome.stamp >= last
        last = outcome.stamp


@given(
    stamp=STAMPS, reason=st.integers(0, 255), texts=st.tuples(TEXTS, TEXTS), number=SINGLE, valid=st.booleans(),
    points=st.lists(st.floats(width=32), max_size=4), command=st.integers(0, 255),
)  # fmt: skip
def test_what_evaluation_hears_is_kept_as_json(
    stamp: tuple[int, int],
    reason: int,
    texts: tuple[str, str],
    number: float,
    valid: bool,
    points: list[float],
    command: int,
) -> None:
    trajectory = stamped(
        PredictedTrajectory(
            valid=valid, reason=reason, text=texts[0], reasoning=texts[1], confidence=number, latency_ms=number,
            points=[TrajectoryPoint(x=float(np.float32(x))) for x in points],
        ),
        stamp,
    )  # fmt: skip
    trajectory.command.kind = command
    scene = stamped(SceneDescription(reason=reason, text=texts[1]), stamp)
    answers: Answers = {}
    add_answer(answers, conversions.trajectory_to_answer(trajectory))
    add_answer(answers, conversions.description_to_answer(scene))
    assert len(answers) == 1
    json.dumps(list(answers.values()), default=str)
