"""Profiles: format 2 whole, format 1 unchanged, nothing unsound gets in."""

import json
import os
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.driving import asking
from owled_ros.driving.conversation import IMAGE, AnswerLimits, Conversation, Turn
from owled_ros.driving.frame import EgoState, Frame
from owled_ros.driving.needs import CameraNeed
from owled_ros.driving.profile import (
    PROFILE_NAME,
    DrivingProfile,
    default_profile,
    parse_profile,
    profile_as_json,
    profile_text,
    read_profile,
)
from owled_ros.driving.profile_format1 import Format1
from owled_ros.errors import OwledError

MINI = Path(__file__).resolve().parent.parent / "owled_ros" / "share" / "mini"
SCHEMA = Path(__file__).resolve().parent.parent / "schema" / "driving_profile.schema.json"
LEAST = {"format_version": 2, "calls": [{"user": "{images}go", "max_tokens": 8}], "answer": {"kind": "line"}}


def parsed(**changes):
    return parse_profile(json.dumps({**LEAST, **changes}), "driving.json")


def frame(speed, yaw_rate=0.0):
    import numpy as np

    return Frame(np.zeros((4, 6, 3), np.uint8), 0, EgoState(0, speed, yaw_rate))


def first_part(profile, speed, yaw_rate=0.0):
    return asking.conversation(profile, profile.calls[0], frame(speed, yaw_rate)).turns[0].parts


def test_the_bundled_model_is_asked_as_ever():
    profile = read_profile(MINI)
    assert asking.conversation(profile, profile.calls[0], frame(8.3, -0.04)) == Conversation(
        (Turn("user", (IMAGE, "speed 8.5, yaw -0.05.action?")),)
    )
    scene = asking.scene_conversation(profile, frame(99.0, 7.0))
    assert scene == Conversation((Turn("user", (IMAGE, "speed 30.0, yaw +0.50.scene?")),))
    free = asking.free_conversation(profile, frame(0.2), "what {is} there?")
    assert free == Conversation((Turn("user", (IMAGE, "speed 0.0, yaw +0.00.what {is} there?")),))
    assert asking.limits(profile.calls[0]) == AnswerLimits(8)
    assert (profile.image_size, profile.confidence.floor, profile.confidence.calibrated) == ((192, 192), 0.4, True)
    assert (profile.needs.cameras, profile.needs.image_offsets_s) == ((CameraNeed("front", None, None),), (0.0,))


def said_by_format_1(values, speed, yaw_rate, question):
    """Reference: the three lines of the release that knew format 1 only."""
    speed = round(min(max(speed, 0.0), values["max_speed"]) / values["speed_step"]) * values["speed_step"] + 0.0
    low, high = -values["max_yaw_rate"], values["max_yaw_rate"]
    yaw_rate = round(min(max(yaw_rate, low), high) / values["yaw_rate_step"]) * values["yaw_rate_step"] + 0.0
    return values["ego_template"].format(speed=speed, yaw_rate=yaw_rate) + question


STEPS = st.floats(1e-3, 10.0)


@given(
    st.fixed_dictionaries(
        {
            "format_version": st.just(1),
            "ego_template": st.sampled_from(["{speed:.1f}|{yaw_rate:+.2f}", "{{{speed:5.0f}}}", "{yaw_rate}", "none."]),
            "action_question": st.text(st.characters(codec="utf-8"), max_size=40),
            "speed_step": STEPS,
            "yaw_rate_step": STEPS,
            "max_speed": st.floats(0.1, 100.0),
            "max_yaw_rate": st.floats(0.1, 5.0),
        }
    ),
    st.floats(-100, 100),
    st.floats(-10, 10),
)
def test_format_1_says_what_it_always_said(values, speed, yaw_rate):
    profile = parse_profile(json.dumps(values), "driving.json")
    expected = said_by_format_1(values, speed, yaw_rate, values["action_question"])
    assert first_part(profile, speed, yaw_rate) == (IMAGE, expected)


def test_format_1_keeps_its_defaults():
    values = Format1(format_version=1).model_dump()
    profile = parse_profile('{"format_version": 1}', "driving.json")
    expected = said_by_format_1(values, 8.33, 0.017, values["action_question"])
    assert first_part(profile, 8.33, 0.017) == (IMAGE, expected)
    assert [profile.calls[0].max_tokens, profile.scene.max_tokens, profile.question.max_tokens] == [32, 96, 128]
    assert profile.confidence.calibrated is False


def test_a_model_without_a_profile_is_asked_in_sentences(tmp_path):
    profile = read_profile(tmp_path)
    assert profile == default_profile()
    text = first_part(profile, 8.33)[1]
    assert "(left positive). What should the car do" in text
    assert "'" not in text  # the form is shown as it is to be answered, without quotes


def test_what_is_written_is_read(tmp_path):
    for profile in (
        default_profile(),
        read_profile(MINI),
        parsed(system="Drive.", template_options={"thinking": False}),
    ):
        (tmp_path / PROFILE_NAME).write_text(profile_text(profile))
        assert read_profile(tmp_path) == profile


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 3}, "format 3"),
        ({"format_version": "2"}, "format_version"),
        ({"format_version": True}, "format_version"),
        ({"colour": 1}, "colour: unknown key"),
        ({"images": {"count": 4, "intervall": 1}}, "images.intervall: unknown key"),
        ({"confidence": {"floor": None}}, "confidence.floor"),
        ({"confidence": {"floor": "abc"}}, "confidence.floor"),
        ({"confidence": {"floor": -5}}, "confidence.floor"),
        ({"confidence": {"floor": -1.0000001}}, "confidence.floor"),
        ({"confidence": {"floor": float("inf")}}, "confidence.floor"),
        ({"confidence": {"slope": float("nan")}}, "confidence.slope"),
        ({"numbers": {"speed": {"step": float("inf")}}}, "numbers.speed.step"),
        ({"numbers": {"speed": {"step": 0}}}, "numbers.speed.step"),
        ({"numbers": {"speed": {"min": 2, "max": 1}}}, "must rise"),
        ({"numbers": {"colour": {"step": 1}}}, "numbers.colour"),
        ({"ego": "{speed.real}"}, "'speed.real' is not known"),
        ({"ego": "{speed:999999999}"}, "plain number format"),
        ({"ego": "{history}"}, "not known"),
        ({"calls": []}, "calls"),
        ({"calls": [{"user": "go", "max_tokens": 8}]}, "shows no images"),
        ({"calls": [{"user": "{images}{images}", "max_tokens": 8}]}, "once"),
        ({"calls": [{"user": "{images_left}", "max_tokens": 8}]}, "images_left' is not known"),
        ({"calls": [{"user": "{images}", "max_tokens": 0}]}, "calls.0.max_tokens"),
        ({"calls": [{"user": "{images}", "max_tokens": 8.5}]}, "calls.0.max_tokens"),
        ({"calls": [{"user": "{images}", "max_tokens": 8, "stop": [""]}]}, "calls.0.stop.0"),
        ({"calls": [{"user": "{images}{later}", "max_tokens": 8}]}, "'later' is not known"),
        ({"calls": [{"user": "{images}", "max_tokens": 8, "continues": True}]}, "must not be the first"),
        ({"calls": [{"user": "{images}", "max_tokens": 8, "unfinished": "use"}]}, "cannot be used"),
        ({"calls": [{"name": "ego", "user": "{images}", "max_tokens": 8}]}, "name of a field: ego"),
        ({"calls": [{"user": "{images}", "max_tokens": 8}] * 2}, "two calls"),
        ({"cameras": [{"name": "a b"}]}, "cameras.0.name"),
        ({"cameras": [{}, {}]}, "two cameras"),
        ({"cameras": [{"size": [0, 10]}]}, "cameras.0.size"),
        ({"cameras": [{"size": [64, 64], "max_pixels": 4096}]}, "not both"),
        ({"cameras": [{"crop": {"top": 0.5, "bottom": 0.5}}]}, "less than 5%"),
        ({"cameras": [{"image_tag": "{speed}"}]}, "not known"),
        ({"cameras": [{"name": f"c{number}"} for number in range(4)], "images": {"count": 64}}, "at most 128"),
        ({"main_camera": "left"}, "none of the cameras"),
        ({"history": {"count": 3, "line": "{x}"}}, "no call says {history}"),
        ({"history": {"count": 0, "line": "{x}"}}, "history.count"),
        ({"command": {"words": {"left": "LEFT"}}}, "no call says {command}"),
        ({"command": {"words": {"up": "UP"}}}, "command.words.up"),
        ({"template_options": {"tokenize": True}}, "tokenize"),
        ({"template_options": {"a": {"b": 1}}}, "template_options.a"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"answer": {}}, "answer"),
        ({"answer": {"kind": "oracle"}}, "answer"),
        ({"answer": {"kind": "points", "count": 6, "step_s": 0}}, "answer.points.step_s"),
        ({"answer": {"kind": "points", "count": 6, "step_s": 0.5, "colour": 1}}, "answer.points.colour: unknown key"),
        ({"cutting": {"reasoning_start": ""}}, "give both or neither"),
        ({"question": {"name": "q", "user": "{images}", "max_tokens": 8}}, "does not say {question}"),
    ],
)
def test_what_is_unsound_is_refused_in_words(changes, words):
    with pytest.raises(OwledError, match=r"driving\.json") as caught:
        parsed(**changes)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_hostile_files_are_refused_at_once(tmp_path):
    path = tmp_path / PROFILE_NAME
    os.mkfifo(path)
    with pytest.raises(OwledError, match="not a regular file"):
        read_profile(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OwledError, match="not a regular file"):
        read_profile(tmp_path)
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OwledError, match="not there"):
        read_profile(tmp_path)
    path.unlink()
    for content in (
        b" " * (2 << 20),
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
        b"null",
        b'{"format_version": ' + b"9" * 9000 + b"}",
    ):
        path.write_bytes(content)
        with pytest.raises(OwledError, match=r"driving\.json"):
            read_profile(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged_profiles(draw):
    """Take a sound profile of either format and put any json in one to three places of it."""
    sound = draw(st.sampled_from([profile_as_json(default_profile()), json.loads((MINI / PROFILE_NAME).read_text())]))
    value = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while isinstance(place, dict | list) and place and draw(st.booleans()):
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list):
                break
            place = place[key]
        names = sorted(DrivingProfile.model_fields) + sorted(Format1.model_fields)
        if isinstance(place, dict):
            place[draw(st.sampled_from([*place, *names]))] = draw(JSON)
        elif place:
            place[draw(st.integers(0, len(place) - 1))] = draw(JSON)
    return value


@settings(max_examples=300)
@given(damaged_profiles() | JSON)
def test_any_json_is_a_profile_that_can_be_asked_or_an_error_in_words(value):
    try:
        profile = parse_profile(json.dumps(value), "driving.json")
        for call in profile.calls:
            asking.conversation(profile, call, frame(8.0))
    except OwledError as error:
        assert str(error)  # noqa: PT017
        return
    assert parse_profile(profile_text(profile), "again") == profile


def test_the_schema_is_that_of_the_models_and_takes_what_is_written():
    schema = json.loads(SCHEMA.read_text())
    generated = DrivingProfile.model_json_schema()
    assert {key: schema[key] for key in ("$defs", "properties", "required", "additionalProperties")} == {
        key: generated[key] for key in ("$defs", "properties", "required", "additionalProperties")
    }
    for profile in (default_profile(), read_profile(MINI)):
        jsonschema.validate(json.loads(profile_text(profile)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**LEAST, "colour": 1}, schema)


def codebook_of(tmp_path, name):
    spec = {"kind": "action_tokens", "count": 2, "step_s": 0.5, "codebook": name, "entries": 3, "base_id": 10}
    return parsed(answer=spec).kind(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[1, 0, 0], [2, 0, 0]]", "expected (3, 3)"),
        ("[[1, 0, 0], [2, 0, 0], [3, 0, NaN]]", "dheading of entry 2"),
        ("[[1, 0, 0], [2, 0, 0], [1e9, 0, 0]]", "dx of entry 2"),
        ('[[1, 0, 0], [2, 0, 0], ["a", 0, 0]]', "no codebook"),
        ("[" * 100_000, "no codebook"),
    ],
)
def test_a_codebook_is_refused_in_words(tmp_path, content, words):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(OwledError) as caught:
        codebook_of(tmp_path, "c.json")
    assert words in str(caught.value)


def test_a_codebook_is_a_file_of_the_model(tmp_path):
    os.mkfifo(tmp_path / "c.json")
    with pytest.raises(OwledError, match="not a regular file"):
        codebook_of(tmp_path, "c.json")
    with pytest.raises(OwledError, match="does not lie in the model directory"):
        codebook_of(tmp_path, "../c.json")
    with pytest.raises(OwledError, match="pickle is never read"):
        codebook_of(tmp_path, "c.pkl")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }".ljust(117) + b"\n"
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(OwledError, match="no codebook"):  # 24 TB are promised
        codebook_of(tmp_path, "c.npy")
