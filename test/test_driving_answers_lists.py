"""Kinds that answer in lists of numbers: forms of real models read by hand-worked numbers, written, and read again."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from owled_ros.driving.answer import Manoeuvre
from owled_ros.driving.answers.acceleration_curvature import AccelerationCurvatureSpec
from owled_ros.driving.answers.cutting import Cutting, cut
from owled_ros.driving.answers.kind import Plan, RawAnswer
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.answers.speed_curvature import SpeedCurvatureSpec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError

EGO, VEHICLE = EgoState(0, 8.0), VehicleParameters()
POINTS = PointsSpec(count=3, step_s=0.5)


def parsed(spec, text, ego=EGO):
    return spec.make(None).parse(RawAnswer(text), ego, VEHICLE).trajectory


def places(trajectory):
    return np.column_stack([trajectory.x, trajectory.y])[1:].tolist()


@pytest.mark.parametrize(
    "text",
    [
        "[[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]",
        "[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]",
        "[(4.1, 0.0), (8.3, -0.1), (12.6, 0.25)]",
        "([4.1,0.0],[8.3,-0.1],[12.6,+0.25])",
        "(4.1, 0) (8.3, -0.1)\n(12.6, 0.25)",
        "[4.1, 0.0]\n[8.3, \u22120.1]\n[12.6, 0.25]",
        "Answer: `[[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]`",
        "```json\n[\n  [4.1, 0.0],\n  [8.3, -0.1],\n  [12.6, 0.25]\n]\n```",
    ],
)
def test_points_in_the_usual_spellings(text):
    driven = parsed(POINTS, text)
    assert places(driven) == [[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]
    assert driven.time.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert driven.speed[0] == 8.0


@pytest.mark.parametrize(
    "text",
    [
        "[[4.1, 0.0], [8.3, -0.1]]",
        "[[4.1, 0.0], [8.3, -0.1], [12.6, 0.25], [17.0, 0.3]]",
        "[[4.1, 0.0], [8.3], [12.6, 0.25]]",
        "[[4.1, 0.0], [8.3, -0.1, 0.0], [12.6, 0.25]]",
        "[[4.1, 0.0], [8.3, -0.1], [12.6, 0.25",
        "[[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]",
        "[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [8.3, -0.1), [12.6, 0.25]]",
        "[[4.1, 0.0], (8.3, -0.1), [12.6, 0.25]]",
        "[[4.1, 0.0], [nan, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [inf, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [1e9, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [1000000000, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [99999, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [0x8, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [8., -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [08.3, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [8.3 -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [\u0668.3, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]] [[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]",
        "points [[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]",
        "[[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]] m",
        "[PT, [4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]",
        "4.1, 0.0, 8.3, -0.1, 12.6, 0.25",
        "[]",
        "",
        "[[" * 500,
        "[" + "[4.1, 0.0], " * 3000,
    ],
)
def test_what_is_not_the_list_is_refused(text):
    with pytest.raises(AnswerError):
        parsed(POINTS, text)


def test_impromptu_asks_for_points_between_marks():
    spec, cutting = (
        PointsSpec(count=6, step_s=0.5),
        Cutting(begin="<PLANNING>", end="</PLANNING>", brackets=True, prose=True),
    )
    text = (
        "The light is green. <PLANNING>Positions of the next 3 seconds: [3.98, 0.01], [7.96, 0.03], [11.95, 0.06], "
        "[15.94, 0.1], [19.93, 0.15], [23.92, 0.21]</PLANNING>"
    )
    answer, reasoning = cut(text, cutting)
    assert places(parsed(spec, answer))[-1] == [23.92, 0.21]
    assert reasoning.startswith("The light is green.")


@pytest.mark.parametrize(
    ("text", "manoeuvre"),
    [
        ("follow [[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]]", Manoeuvre.FOLLOW),
        ("yield [4.1, +0.0] [8.3, -0.1] [12.6, +0.25]", Manoeuvre.YIELD),
        ("**Stop: [4.1, 0.0], [8.3, -0.1], [12.6, 0.25]**", Manoeuvre.STOP),
    ],
)
def test_a_word_before_the_points_is_the_manoeuvre(text, manoeuvre):
    kind = POINTS.model_copy(update={"manoeuvre": True}).make(None)
    plan = kind.parse(RawAnswer(text), EGO, VEHICLE)
    assert (plan.manoeuvre, places(plan.trajectory)) == (manoeuvre, [[4.1, 0.0], [8.3, -0.1], [12.6, 0.25]])
    assert kind.parse(RawAnswer(kind.format(plan, EGO, VEHICLE)), EGO, VEHICLE).manoeuvre is manoeuvre
    assert kind.parse(RawAnswer("Unknown"), EGO, VEHICLE) is None
    assert "<cruise|follow|stop|yield> [(forward" in kind.describe()


@pytest.mark.parametrize(
    "text", ["[[4.1, 0], [8.3, 0], [12.6, 0]]", "drive [[4.1, 0], [8.3, 0], [12.6, 0]]", "unknown [1, 0]", "follow"]
)
def test_without_the_word_there_is_no_answer(text):
    kind = POINTS.model_copy(update={"manoeuvre": True}).make(None)
    with pytest.raises(AnswerError, match="expected"):
        kind.parse(RawAnswer(text), EGO, VEHICLE)
    with pytest.raises(AnswerError, match="no manoeuvre"):
        kind.format(Plan(from_acceleration_curvature(np.zeros((3, 2)), 0.5, 8.0)), EGO, VEHICLE)


def test_recogdrive_labels_its_poses():
    spec = PointsSpec(count=2, step_s=0.5, heading="rad", label="PT", brackets="()", decimals=3)
    driven = parsed(spec, "[PT, (4.02, 0.12, 0.05), (7.99, 0.44, 0.11)]")
    assert driven.heading.tolist() == [0.0, 0.05, 0.11]
    assert spec.make(None).format(Plan(driven), EGO, VEHICLE) == "[PT, (4.020, 0.120, 0.050), (7.990, 0.440, 0.110)]"
    with pytest.raises(AnswerError, match="after 'PT'"):
        parsed(spec, "[(4.02, 0.12, 0.05), (7.99, 0.44, 0.11)]")


def test_axes_units_signs_and_scales():
    # 4 m ahead and 0.5 m to the left after half a second, turned left by 0.1 rad
    left = PointsSpec(count=1, step_s=0.5, axes="left_forward", unit="cm")
    right = PointsSpec(count=1, step_s=0.5, axes="forward_right", scale=10.0)
    turned = PointsSpec(count=1, step_s=0.5, axes="right_forward", heading="deg", heading_positive="right")
    assert places(parsed(left, "[[50, 400]]")) == [[4.0, 0.5]]
    assert places(parsed(right, "[[40, -5]]")) == [[4.0, 0.5]]
    driven = parsed(turned, f"[[-0.5, 4, {-math.degrees(0.1):.6f}]]")
    assert places(driven) == [[4.0, 0.5]]
    assert driven.heading[1] == pytest.approx(0.1)


def test_a_list_that_begins_with_the_place_of_now():
    spec = PointsSpec(count=2, step_s=0.5, first_is_now=True)
    driven = parsed(spec, "[[0.0, 0.0], [4.0, 0.0], [8.0, 0.1]]")
    assert places(driven) == [[4.0, 0.0], [8.0, 0.1]]
    assert spec.make(None).format(Plan(driven), EGO, VEHICLE) == "[[0.00, 0.00], [4.00, 0.00], [8.00, 0.10]]"
    with pytest.raises(AnswerError, match="place now"):
        parsed(spec, "[[4.0, 0.0], [8.0, 0.1], [12.0, 0.1]]")


def test_a_row_of_points_in_the_numbers_that_the_model_has_words_for():
    words = (((0.0, 10.0, 0.5), (10.0, 50.0, 5.0)), ((-2.0, 2.0, 0.5),))
    spec = PointsSpec(count=3, step_s=0.5, form="row", decimals=1, words=words)
    driven = parsed(spec, "[4.2, 0.1] [8.3, -0.4], [13.0, -9.0]")
    said = spec.make(None).format(Plan(driven), EGO, VEHICLE)
    assert said == "[4.0, +0.0] [8.5, -0.5] [15.0, -2.0]"
    assert places(parsed(spec, said)) == [[4.0, 0.0], [8.5, -0.5], [15.0, -2.0]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((((0.0, 9.0, 1.0),),), "ranges for 1 numbers; expected some for each of 2"),
        ((((0.0, 9.0, 1.0),), ()), "some for each of 2"),
        ((((0.0, 9.0, 0.0),), ((0.0, 9.0, 1.0),)), "expected from, until, step"),
        ((((9.0, 0.0, 1.0),), ((0.0, 9.0, 1.0),)), "expected from, until, step"),
        ((((0.0, 9.0, 1e-9),), ((0.0, 9.0, 1.0),)), "at most 10000 steps"),
    ],
)
def test_words_that_are_no_ranges_are_refused(words, told):
    with pytest.raises(ValidationError, match=told):
        PointsSpec(count=3, step_s=0.5, words=words)


def test_openemma_writes_curvature_times_a_hundred():
    # 8 to 9 m/s in 0.5 s is 2 m/s2; 1.0 / 100 is a radius of 100 m
    driven = parsed(SpeedCurvatureSpec(count=2, step_s=0.5, curvature_scale=100.0), "[(9.0, 1.0), (9.5, 1.0)]")
    assert driven.speed.tolist() == [8.0, 9.0, 9.5]
    assert driven.acceleration.tolist() == [2.0, 1.0, 1.0]
    assert driven.curvature.tolist() == [0.01, 0.01, 0.01]
    assert driven.heading[-1] == pytest.approx((4.25 + 4.625) / 100.0)


def test_speeds_in_other_units_and_curvature_to_the_right():
    spec = SpeedCurvatureSpec(count=1, step_s=0.5, speed_unit="km/h", curvature_positive="right")
    driven = parsed(spec, "[(36.0, -0.01)]")
    assert driven.speed[1] == pytest.approx(10.0)
    assert driven.curvature[1] == 0.01
    assert spec.make(None).format(Plan(driven), EGO, VEHICLE) == "[(36.00, -0.0100)]"


@pytest.mark.parametrize(
    "text", ["[(-1.0, 0.0)]", "[(101.0, 0.0)]", "[(8.0, 1.1)]", "[(8.0, 0.0), (8.0, 0.0)]", "[(8.0)]"]
)
def test_speeds_and_curvatures_out_of_range(text):
    with pytest.raises(AnswerError):
        parsed(SpeedCurvatureSpec(count=1, step_s=0.5), text)


def test_accelerations_and_curvatures_at_ten_hertz():
    driven = parsed(AccelerationCurvatureSpec(count=2, step_s=0.1), "[(-1.0, 0.02), (-2.0, 0.02)]")
    assert driven.speed == pytest.approx([8.0, 7.9, 7.7])
    assert driven.first_action(2.8).acceleration == -1.0
    assert driven.first_action(2.8).steering_tire_angle == pytest.approx(math.atan(0.056))
    with pytest.raises(AnswerError, match="acceleration 2 is -21"):
        parsed(AccelerationCurvatureSpec(count=2, step_s=0.1), "[(-1.0, 0.02), (-21.0, 0.02)]")


SPECS = [
    PointsSpec(count=6, step_s=0.5),
    PointsSpec(count=8, step_s=0.5, heading="rad", label="PT", brackets="()"),
    PointsSpec(
        count=5, step_s=0.4, axes="right_forward", unit="cm", decimals=0, heading="deg", heading_positive="right"
    ),
    PointsSpec(count=6, step_s=0.5, scale=10.0, first_is_now=True),
    SpeedCurvatureSpec(count=6, step_s=0.5, curvature_scale=100.0),
    SpeedCurvatureSpec(count=10, step_s=0.5, speed_unit="mph", curvature_positive="right"),
    AccelerationCurvatureSpec(count=50, step_s=0.1, curvature_scale=10.0),
    AccelerationCurvatureSpec(count=6, step_s=0.5, acceleration_scale=2.0, curvature_positive="right"),
    PointsSpec(count=7, step_s=0.5, form="row"),
]


@settings(max_examples=30)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.count}")
@given(st.floats(-2.0, 1.5), st.floats(-0.02, 0.02), st.floats(3.0, 20.0))
def test_what_is_written_is_read(spec, acceleration, curvature, speed):
    kind, ego = spec.make(None), EgoState(0, speed)
    plan = Plan(from_acceleration_curvature(np.tile([acceleration, curvature], (60, 1)), 0.1, speed))
    text = kind.format(plan, ego, VEHICLE)
    again = kind.parse(RawAnswer(text), ego, VEHICLE)
    wanted = plan.trajectory.sample(again.trajectory.time)
    way = again.trajectory.duration * (speed + 1.5 * again.trajectory.duration)  # at most
    rounded = 0.5e-4 * way**2 / 2.0  # the last of four decimals of a curvature
    assert np.hypot(again.trajectory.x - wanted.x, again.trajectory.y - wanted.y).max() < 0.1 + rounded
    assert again.trajectory.duration == pytest.approx(spec.count * spec.step_s)
    if not spec.kind.startswith("acceleration"):  # means over steps of rounded values are not the written text again
        assert kind.format(again, ego, VEHICLE) == text


@pytest.mark.parametrize(
    "values",
    [
        {"count": 0, "step_s": 0.5},
        {"count": 6, "step_s": 0.0},
        {"count": 6, "step_s": math.inf},
        {"count": 6, "step_s": math.nan},
        {"count": 6.0, "step_s": 0.5},
        {"count": "6", "step_s": 0.5},
        {"count": 6, "step_s": 0.5, "scale": -1.0},
        {"count": 6, "step_s": 0.5, "unit": "ft"},
        {"count": 6, "step_s": 0.5, "axes": "left_right"},
        {"count": 6, "step_s": 0.5, "steps": 1},
        {"step_s": 0.5},
    ],
)
def test_parameters_that_make_no_sense(values):
    with pytest.raises(ValidationError):
        PointsSpec.model_validate(values)


def test_the_form_is_said_with_units():
    assert POINTS.make(None).describe() == "[(forward, left), …]: 3 points, one every 0.5 s, in m"
    assert "curvature in 1/m times 100, left positive" in SPECS[4].make(None).describe()
