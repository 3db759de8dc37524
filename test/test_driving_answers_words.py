"""Kinds that answer in words: the line, pedals and meta actions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from owled_ros.driving.answer import Action, Light, Manoeuvre, format_action, parse_action, parse_scene
from owled_ros.driving.answers.cutting import Cutting, cut
from owled_ros.driving.answers.kind import Plan, RawAnswer
from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.answers.meta_action import MetaActionSpec
from owled_ros.driving.answers.pedals import PedalsSpec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.feasibility import problem_of
from owled_ros.driving.rollout import from_acceleration_curvature, roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.waypoints import from_waypoints
from owled_ros.driving.wording import AnswerError

EGO, VEHICLE = EgoState(0, 8.0), VehicleParameters(max_acceleration=2.0, max_deceleration=6.0)
ACTION = Action(-1.2, 0.03, Manoeuvre.FOLLOW)
SENNA = MetaActionSpec.model_validate(
    {
        "speed": {
            "KEEP": {"acceleration": 0.0, "manoeuvre": "cruise"},
            "ACCELERATE": {"acceleration": 1.0, "target_speed": 9.0},
            "DECELERATE": {"acceleration": -1.5, "target_speed": 5.0},
            "STOP": {"acceleration": -3.0, "manoeuvre": "stop"},
        },
        "path": {
            "STRAIGHT": {},
            "LEFT_TURN": {"curvature": 0.04},
            "RIGHT_TURN": {"curvature": -0.04},
            "CHANGE_LEFT": {"shift": 3.5, "shift_s": 4.0},
        },
        "horizon_s": 4.0,
    }
)


def parsed(spec, text, ego=EGO):
    return spec.make(None).parse(RawAnswer(text), ego, VEHICLE)


@pytest.mark.parametrize(
    "text",
    [
        "follow, acceleration -1.2 m/s2, steering +0.03 rad",
        "Follow, acceleration -1.2 m/s2, steering +0.03 rad.",
        "'follow, acceleration -1.2 m/s2, steering +0.03 rad'",
        '"follow, acceleration -1.2 m/s2, steering +0.03 rad".',
        "**follow, acceleration -1.2 m/s2, steering +0.03 rad**",
        "`follow, acceleration -1.2 m/s2, steering +0.03 rad`",
        "```\nfollow, acceleration -1.2 m/s2, steering +0.03 rad\n```",
        "```text\nfollow, acceleration -1.2 m/s2, steering +0.03 rad\n```",
        "Answer: follow, acceleration -1.2 m/s2, steering +0.03 rad",
        "**Answer:** 'follow, acceleration -1.2 m/s2, steering +0.03 rad'",
        "follow, acceleration \u22121.2 m/s\u00b2, steering +0.03 rad",
        "follow, acceleration -1.2 m/s^2, steering 0.03 rad",
        "\u201cfollow, acceleration -1.2\u00a0m/s2, steering +0.03 rad\u201d",
    ],
)
def test_an_action_in_other_clothes_is_the_same_action(text):
    assert parse_action(text) == ACTION


@pytest.mark.parametrize(
    "text",
    [
        "'follow, acceleration -1.2 m/s2, steering +0.03 rad' or 'stop, acceleration -3.0 m/s2, steering +0.00 rad'",
        "'follow', acceleration -1.2 m/s2, steering +0.03 rad",
        "'follow, acceleration -1.2 m/s2, steering +0.03 rad",
        "```\nfollow, acceleration -1.2 m/s2, steering +0.03 rad",
        "follow, acceleration -1.2 m/s2, steering +0.03 rad\nfollow, acceleration -1.2 m/s2, steering +0.03 rad",
        "follow, acceleration --1.2 m/s2, steering +0.03 rad",
        "follow, acceleration \u20131.2 m/s2, steering +0.03 rad",  # a dash may be a range
        "follow, acceleration -120 cm/s2, steering +0.03 rad",
        "follow, acceleration -1.2 m/s2, steering +1.72 deg",
        "Question: follow, acceleration -1.2 m/s2, steering +0.03 rad",
    ],
)
def test_what_could_mean_something_else_is_no_action(text):
    with pytest.raises(AnswerError):
        parse_action(text)


def test_scenes_with_none_and_with_decimals():
    scene = parse_scene("'0 cars: none; 1 pedestrian: crossing 14.5 m; traffic light red 12.25 m'")
    assert scene.cars == ()
    assert scene.pedestrians[0].distance == 14.5
    assert (scene.light, scene.light_distance) == (Light.RED, 12.25)
    with pytest.raises(AnswerError, match="counts 1 car"):
        parse_scene("1 car: none; 0 pedestrians; no traffic light")


def test_a_line_is_its_action_held():
    plan = parsed(LineSpec(horizon_s=2.0), format_action(ACTION))
    assert plan.manoeuvre is Manoeuvre.FOLLOW
    assert plan.trajectory == roll_out(ACTION, 8.0, VEHICLE, 2.0)
    assert parsed(LineSpec(), "unknown") is None


@given(st.floats(-6.0, 2.0), st.floats(-0.3, 0.3), st.sampled_from([value for value in Manoeuvre if value]))
def test_lines_come_back(acceleration, steering, manoeuvre):
    kind = LineSpec().make(None)
    text = format_action(Action(acceleration, steering, manoeuvre))
    assert kind.format(kind.parse(RawAnswer(text), EGO, VEHICLE), EGO, VEHICLE) == text


def test_a_plan_without_manoeuvre_has_no_line():
    with pytest.raises(AnswerError, match="manoeuvre"):
        LineSpec().make(None).format(Plan(roll_out(ACTION, 8.0, VEHICLE)), EGO, VEHICLE)


@pytest.mark.parametrize(
    "text",
    [
        "Accelerator pedal 0%, brake pedal 20%, steer 5% to the left",
        "- Accelerator pedal 0%\n- Brake pedal 20%\n- Going to steer 5% to the left.",
        "Here are my actions:\n- Accelerator pedal 0%\n- Brake pedal 20%\n- Going to steer 5% to the left.",
        "Accelerator pedal 0.0% and brake pedal 20%. I am going to steer 5% to the left.",
        "accelerator: 0 %; brake: 20 %; steering: 5 % left",
    ],
)
def test_pedals_are_shares_of_the_vehicle(text):
    # 20 % of 6 m/s2; 5 % of 0.6 rad
    action = parsed(PedalsSpec(), text).trajectory.first_action(VEHICLE.wheel_base)
    assert action.acceleration == pytest.approx(-1.2)
    assert action.steering_tire_angle == pytest.approx(0.03)


@pytest.mark.parametrize(
    "text",
    [
        "Accelerator pedal 20%, brake pedal 20%, steer 5% to the left",  # both
        "Accelerator pedal 120%, brake pedal 0%, steer 5% to the left",
        "Accelerator pedal -20%, brake pedal 0%, steer 5% to the left",
        "Accelerator pedal 20%, brake pedal 0%, steer 5%",
        "Accelerator pedal 20%, brake pedal 0%, steer 5% to the le",
        "Accelerator pedal 20%, steer 5% to the left",
        "Accelerator pedal 20, brake pedal 0, steer 5 to the left",
        "Accelerator pedal 20%, brake pedal 0%, steer 5% to the left. Accelerator pedal 0%, brake pedal 9%, steer 5% to the left",
        "Accelerator pedal 20%, brake pedal 0%, steer 5% to the left since we turn",
        "Accelerator pedal twenty%, brake pedal 0%, steer 5% to the left",
    ],
)
def test_pedals_that_are_not_said_exactly(text):
    with pytest.raises(AnswerError):
        parsed(PedalsSpec(), text)


def test_the_reason_behind_the_pedals_is_cut_away():
    text = "Here are my actions:\n- Accelerator pedal 62%\n- Brake pedal 0%\n- Going to steer 0% to the right.\n\nReason: free road"
    answer, reasoning = cut(text, Cutting(explanation="Reason:"))
    assert parsed(PedalsSpec(), answer).trajectory.acceleration[0] == pytest.approx(1.24)
    assert reasoning == "free road"


@given(st.integers(-100, 100), st.integers(-100, 100))
def test_pedals_come_back(pull, turn):
    kind = PedalsSpec().make(None)
    text = (
        f"Accelerator pedal {max(pull, 0)}%, brake pedal {max(-pull, 0)}%, "
        f"steer {abs(turn)}% to the {'left' if turn > 0 else 'right'}"
    )
    assert kind.format(kind.parse(RawAnswer(text), EGO, VEHICLE), EGO, VEHICLE) == text


@pytest.mark.parametrize(
    "text",
    [
        "DECELERATE, STRAIGHT",
        "decelerate, straight.",
        "(DECELERATE, STRAIGHT)",
        "Speed plan: DECELERATE\nPath plan: STRAIGHT",
    ],
)
def test_a_meta_action_means_what_the_table_says(text):
    # 8 m/s with -1.5 m/s2 reaches 5 m/s after 2 s at 13 m, then continues evenly
    driven = parsed(SENNA, text).trajectory.sample([1.0, 2.0, 4.0])
    assert driven.speed == pytest.approx([6.5, 5.0, 5.0])
    assert driven.x == pytest.approx([7.25, 13.0, 23.0])
    assert not driven.y.any()


def test_words_of_path():
    # a lane of 3.5 m in 4 s, and back to the heading of before
    shifted = parsed(SENNA, "KEEP, CHANGE LEFT").trajectory
    assert shifted.y[-1] == pytest.approx(3.5, rel=0.02)
    assert shifted.heading[-1] == pytest.approx(0.0, abs=0.01)
    turned = parsed(SENNA, "KEEP, LEFT-TURN").trajectory
    assert turned.heading[-1] == pytest.approx(0.04 * 32.0)
    for trajectory in (shifted, turned):
        assert problem_of(trajectory, EGO, VEHICLE) == ""


def test_words_of_speed():
    assert parsed(SENNA, "KEEP, STRAIGHT").manoeuvre is Manoeuvre.CRUISE
    stop = parsed(SENNA, "STOP, STRAIGHT")
    assert stop.manoeuvre is Manoeuvre.STOP
    assert stop.trajectory.x[-1] == pytest.approx(64.0 / 6.0, abs=0.05)  # 8^2 / (2 * 3)
    # 9 m/s are reached after 1 s; at 12 m/s there is nothing to accelerate to
    assert parsed(SENNA, "ACCELERATE, STRAIGHT").trajectory.speed[-1] == pytest.approx(9.0)
    assert parsed(SENNA, "ACCELERATE, STRAIGHT", EgoState(0, 12.0)).trajectory.speed[-1] == pytest.approx(12.0)
    standing = parsed(SENNA, "STOP, STRAIGHT", EgoState(0, 0.0))
    assert not standing.trajectory.x.any()
    assert problem_of(standing.trajectory, EgoState(0, 0.0), VEHICLE) == ""


@pytest.mark.parametrize(
    "text",
    [
        "KEEP",
        "KEEP STRAIGHT",
        "STRAIGHT, KEEP",
        "KEEP, STRAIGHT, STOP",
        "KEEP, STRAIGHT\nSTOP, STRAIGHT",
        "KEEP or STOP, STRAIGHT",
        "KEEP, STRAIGH",
        "KEEP, U_TURN",
        "I would KEEP, STRAIGHT",
        "KEEP, STRAIGHT because the way is free",
        "(KEEP, STRAIGHT",
        "KEEP, STRA\u0131GHT",
        "",
    ],
)
def test_what_is_not_one_meta_action(text):
    with pytest.raises(AnswerError):
        parsed(SENNA, text)


@settings(max_examples=40)
@given(st.sampled_from(list(SENNA.speed)), st.sampled_from(list(SENNA.path)), st.floats(4.0, 12.0))
def test_meta_actions_come_back_as_the_same_drive(speed, path, pace):
    kind, ego = SENNA.make(None), EgoState(0, pace)
    plan = kind.parse(RawAnswer(f"{speed}, {path}"), ego, VEHICLE)
    again = kind.parse(RawAnswer(kind.format(plan, ego, VEHICLE)), ego, VEHICLE)
    assert again.trajectory.values == pytest.approx(plan.trajectory.values)


def test_a_plan_that_no_words_mean():
    backwards = Plan(from_acceleration_curvature(np.tile([0.0, 0.2], (40, 1)), 0.1, 8.0))
    with pytest.raises(AnswerError, match="no pair of words"):
        SENNA.make(None).format(backwards, EGO, VEHICLE)
    nearly = Plan(from_waypoints(np.column_stack([4.0 * np.arange(1, 9), 0.05 * np.arange(1, 9)]), 0.5, 8.0))
    assert SENNA.make(None).format(nearly, EGO, VEHICLE) == "KEEP, STRAIGHT"


@pytest.mark.parametrize(
    "change",
    [
        {"speed": {}},
        {"speed": {"GO": {"acceleration": 99.0}}},
        {"speed": {"GO": {"acceleration": math.nan}}},
        {"speed": {"GO": {}}},
        {"speed": {"GO ON": {"acceleration": 0.0}, "go_on": {"acceleration": 1.0}}},
        {"speed": {"_": {"acceleration": 0.0}}},
        {"path": {"LEFT": {"curvature": 0.1, "shift": 3.0}}},
        {"path": {"LEFT": {"angle": 0.1}}},
        {"order": "any"},
    ],
)
def test_tables_that_make_no_sense(change):
    with pytest.raises(ValidationError):
        MetaActionSpec.model_validate({**SENNA.model_dump(), **change})
