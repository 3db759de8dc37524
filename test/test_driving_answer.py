"""The answer grammar: what is written can be read, everything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.answer import (
    CAR_KINDS,
    PEDESTRIAN_KINDS,
    Action,
    AnswerError,
    Light,
    Manoeuvre,
    Scene,
    SceneObject,
    format_action,
    format_scene,
    parse_action,
    parse_scene,
)

MANOEUVRES = st.sampled_from([value for value in Manoeuvre if value])
METRES = st.integers(0, 99).map(float)


def objects(kinds):
    return st.lists(st.builds(SceneObject, st.sampled_from(kinds), METRES), max_size=6).map(tuple)


SCENES = st.builds(Scene, objects(CAR_KINDS), objects(PEDESTRIAN_KINDS)) | st.builds(
    Scene,
    objects(CAR_KINDS),
    objects(PEDESTRIAN_KINDS),
    st.sampled_from([Light.RED, Light.YELLOW, Light.GREEN]),
    METRES,
)


def test_action_is_written_as_documented():
    assert (
        format_action(Action(-1.234, 0.031, Manoeuvre.FOLLOW)) == "follow, acceleration -1.2 m/s2, steering +0.03 rad"
    )


def test_action_saturates_at_its_ranges():
    assert format_action(Action(-9.0, 0.5, Manoeuvre.STOP)) == "stop, acceleration -6.0 m/s2, steering +0.30 rad"


def test_zero_has_a_plus_sign():
    assert (
        format_action(Action(-0.01, -0.001, Manoeuvre.CRUISE)) == "cruise, acceleration +0.0 m/s2, steering +0.00 rad"
    )


@given(st.floats(-6, 2), st.floats(-0.3, 0.3), MANOEUVRES)
def test_action_comes_back_within_half_a_step(acceleration, steering, manoeuvre):
    action = parse_action(format_action(Action(acceleration, steering, manoeuvre)))
    assert action is not None
    assert abs(action.acceleration - acceleration) <= 0.1 + 1e-9
    assert abs(action.steering_tire_angle - steering) <= 0.005 + 1e-9
    assert action.manoeuvre is manoeuvre


@pytest.mark.parametrize(
    "text",
    [
        "",
        "follow",
        "follow, acceleration -1.2, steering +0.03 rad",  # a unit is missing
        "follow, acceleration nan m/s2, steering +0.03 rad",
        "follow, acceleration 1e3 m/s2, steering +0.03 rad",
        "fly, acceleration -1.2 m/s2, steering +0.03 rad",
        "unknown, acceleration -1.2 m/s2, steering +0.03 rad",
        "follow, acceleration -1.2 m/s2, steering +0.03 rad follow",
        "I think: follow, acceleration -1.2 m/s2, steering +0.03 rad",
        "follow, acceleration -6.1 m/s2, steering +0.03 rad",  # out of range
        "follow, acceleration -1.2 m/s2, steering +0.31 rad",
        "follow, acceleration -١.2 m/s2, steering +0.03 rad ",
    ],
)
def test_everything_else_is_no_action(text):
    with pytest.raises(AnswerError):
        parse_action(text)


@given(st.text(max_size=60))
def test_any_text_is_an_action_or_an_answer_error(text):
    try:
        parse_action(text)
        parse_scene(text)
    except AnswerError:
        pass


def test_the_model_may_decline():
    assert parse_action("unknown") is None
    assert parse_scene(" Unknown. ") is None


def test_scene_is_written_as_documented():
    cars = (SceneObject(CAR_KINDS[0], 12.3), SceneObject(CAR_KINDS[3], 30.0))
    people = (SceneObject(PEDESTRIAN_KINDS[1], 14.0),)
    text = format_scene(Scene(cars, people, Light.RED, 22.4))
    assert text == "2 cars: lead 12 m, cross traffic 30 m; 1 pedestrian: crossing 14 m; traffic light red 22 m"


@given(SCENES)
def test_scene_comes_back(scene):
    assert parse_scene(format_scene(scene)) == scene


@pytest.mark.parametrize(
    "text",
    [
        "2 cars: lead 12 m; 0 pedestrians; no traffic light",  # counts two, lists one
        "1 car: lead 12; 0 pedestrians; no traffic light",
        "0 cars; 0 pedestrians",
        "0 cars; 1 pedestrian: lead 12 m; no traffic light",
        "0 cars; 0 pedestrians; traffic light blue 12 m",
    ],
)
def test_contradictions_are_no_scene(text):
    with pytest.raises(AnswerError):
        parse_scene(text)
