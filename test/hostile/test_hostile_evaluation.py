"""What anybody may publish as a driving node's answers, judged beside a bag, or driven by the world."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_drives import IMAGE_PERIOD, START, make_bag

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")


from owled_ros.evaluation.replay import Answers, add_answer, judge_replay
from owled_ros.evaluation.scenario import Scenario
from owled_ros.msg import PredictedAction, PredictedTrajectory, SceneDescription, TrajectoryPoint
from owled_ros.nodes.camera_output import can_be_driven
from owled_ros.nodes.conversions import description_to_answer, stamp_to_time, trajectory_to_answer

EASY = Scenario.model_validate({"conditions": {"must_beat": []}})
IMAGES = 12
SINGLE = st.floats(width=32)
BYTES = st.integers(0, 255)
POINTS = st.lists(st.tuples(SINGLE, SINGLE, SINGLE), max_size=8)
TEXTS = st.text(max_size=30) | st.sampled_from(
    ["unknown", "[(1, 2), (3, 4)]", "x" * 10_000, "cruise, acceleration +0.4 m/s2, steering +0.02 rad"]
)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bag(tmp_path_factory.mktemp("judged") / "bag", images=IMAGES)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.lists(
        st.tuples(st.integers(-2, IMAGES + 2), st.booleans(), BYTES, BYTES, BYTES, SINGLE, SINGLE, TEXTS, POINTS),
        max_size=IMAGES,
    )
)
def test_any_answers_are_judged(bag: Path, tmp_path: Path, said: list[tuple[Any, ...]]) -> None:
    answers: Answers = {}
    for number, valid, reason, manoeuvre, command, confidence, latency, text, points in said:
        stamp = stamp_to_time(START + number * IMAGE_PERIOD)
        rising = manoeuvre % 2 == 0
        path = [TrajectoryPoint(time=float(n) if rising else time, x=x, y=y) for n, (time, x, y) in enumerate(points)]
        message = PredictedTrajectory(
            valid=valid,
            reason=reason,
            manoeuvre=manoeuvre,
            confidence=confidence,
            latency_ms=latency,
            text=text,
            points=path,
        )
        message.header.stamp, message.command.kind = stamp, command
        scene = SceneDescription(reason=reason, text=text)
        scene.header.stamp = stamp
        add_answer(answers, trajectory_to_answer(message))
        add_answer(answers, description_to_answer(scene))
    result = judge_replay(bag, answers, EASY, tmp_path)
    for line in (tmp_path / "result.jsonl").read_text().rstrip("\n").split("\n"):
        json.loads(line, parse_constant=_refuse)
    assert result.metrics["coverage"]["evaluated"] <= IMAGES


def _refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 3e38, -3e38, 51.0])
def test_the_world_drives_no_action_that_no_vehicle_could(number: float) -> None:
    """A NaN would end the source node in the middle of a route."""
    assert can_be_driven(PredictedAction(acceleration=-8.0, steering_tire_angle=0.6))
    assert not can_be_driven(PredictedAction(acceleration=number))
    assert not can_be_driven(PredictedAction(steering_tire_angle=number))
