"""From text to trajectory or reason: cutting, reading, checking; the confidence of what is not used is 0."""

import json

import pytest

from owled_ros.driving.answers.cutting import Cutting
from owled_ros.driving.ego import EgoState
from owled_ros.driving.judging import judge_answer, reads_text
from owled_ros.driving.prediction import Generation, Reason
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import parse_profile
from owled_ros.driving.vehicle import VehicleParameters

POINTS = "[[4.0, 0.0], [8.0, 0.0], [12.0, 0.0], [16.0, 0.0], [20.0, 0.0], [24.0, 0.0]]"  # 8 m/s straight on


def judged(text, kind="points", complete=True, cutting=None, speed=8.0):
    profile = preset(kind)
    generation = Generation(text, complete, 0.8, 9, 0.1, reasoning="earlier call")
    return judge_answer(
        generation, profile.kind(None), cutting or profile.cutting, EgoState(0, speed), VehicleParameters()
    )


def test_an_answer_becomes_a_trajectory_and_its_first_action():
    answer = judged(f"<think>free road</think> {POINTS}")
    assert answer.valid
    assert answer.trajectory.speed.tolist() == pytest.approx([8.0] * 7, abs=0.05)
    assert (answer.action.acceleration, answer.action.steering_tire_angle) == pytest.approx((0.0, 0.0), abs=0.05)
    assert (answer.generation.reasoning, answer.generation.confidence) == ("earlier call\nfree road", 0.8)


@pytest.mark.parametrize(
    ("text", "complete", "speed", "reason"),
    [
        (POINTS, False, 8.0, Reason.INCOMPLETE),
        (POINTS.replace("4.0, 0.0", "nan, 0.0"), True, 8.0, Reason.UNPARSED),
        (POINTS.replace("[4.0, 0.0], ", ""), True, 8.0, Reason.UNPARSED),
        (f"{POINTS} and {POINTS}", True, 8.0, Reason.UNPARSED),
        (f"<think>never ends {POINTS}", True, 8.0, Reason.UNPARSED),
        (POINTS, True, 25.0, Reason.INFEASIBLE),
    ],
)
def test_everything_else_is_a_reason_without_confidence(text, complete, speed, reason):
    answer = judged(text, complete=complete, speed=speed)
    assert (answer.reason, answer.action, answer.trajectory) == (reason, None, None)
    assert answer.generation.confidence == 0.0
    assert answer.detail


def test_a_model_may_decline():
    assert judged("unknown", "line").reason is Reason.DECLINED


def test_ids_and_hidden_states_are_not_cut():
    assert not reads_text(preset("head").answer)
    assert not reads_text(preset("action_tokens").answer)
    assert reads_text(preset("points").answer)
    tokens = {"kind": "action_tokens", "count": 1, "step_s": 0.5, "codebook": "c.json", "entries": 1, "base_id": 0}
    read_as_text = json.dumps(
        {"format_version": 2, "calls": [{"user": "{images}", "max_tokens": 2}], "answer": {**tokens, "read": "text"}}
    )
    assert reads_text(parse_profile(read_as_text, "driving.json").answer)


def test_marks_are_needed_where_the_profile_says_so():
    marks = Cutting(begin="<PLANNING>", end="</PLANNING>", prose=True)
    assert judged(f"I plan <PLANNING>{POINTS}</PLANNING>.", cutting=marks).valid
    assert judged(POINTS, cutting=marks).reason is Reason.UNPARSED
