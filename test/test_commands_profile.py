"""`owled profile`: every profile to begin with is sound; check says what is wrong and exits accordingly."""

import json

import cv2
import jsonschema
import numpy as np
import pytest
import torch
import typer
from recorded_drives import make_bag
from typer.testing import CliRunner

from owled_ros.commands import profile as command
from owled_ros.driving import asking
from owled_ros.driving.answer import Action, Manoeuvre
from owled_ros.driving.answers.cutting import cut
from owled_ros.driving.answers.kind import Plan, RawAnswer
from owled_ros.driving.ego import EgoState
from owled_ros.driving.feasibility import problem_of
from owled_ros.driving.presets import PRESETS, preset
from owled_ros.driving.profile import PROFILE_NAME, profile_text, read_profile
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.profile_check import typical_answers
from owled_ros.scenes.mini_model import build_model, build_profile, save_model

app = typer.Typer()
command.register(app)
app.command()(lambda: None)


def run(*words):
    return CliRunner().invoke(app, ["profile", *map(str, words)], catch_exceptions=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "random"
    save_model(build_model(3), path, build_profile(), "random weights\n", torch.float32)
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_new_profile_is_sound_and_can_be_asked(name, tmp_path):
    done = run("new", name, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    profile = read_profile(tmp_path)
    assert profile == preset(name)
    with open("schema/driving_profile.schema.json") as file:
        jsonschema.validate(json.loads((tmp_path / PROFILE_NAME).read_text()), json.load(file))
    frame = asking.made_up_frame(profile)
    said = {call.name: "a car" for call in profile.calls}
    for call in profile.calls:
        assert asking.conversation(profile, call, frame, said).images == len(asking.images(profile, frame))
    assert asking.free_conversation(profile, frame, "what?").turns[-1].parts[-1].endswith("what?")


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("action_tokens", "head")])
def test_a_new_profile_reads_the_answers_that_it_asks_for(name, tmp_path):
    profile, vehicle, ego = preset(name), VehicleParameters(), EgoState(0, 8.0)
    kind = profile.kind(tmp_path)
    plan = Plan(roll_out(Action(-1.0, 0.01, Manoeuvre.FOLLOW), 8.0, vehicle, 5.0), Manoeuvre.FOLLOW)
    text = f"{profile.cutting.begin}{kind.format(plan, ego, vehicle)}{profile.cutting.end}"
    found = kind.parse(RawAnswer(cut(text, profile.cutting)[0]), ego, vehicle)
    assert problem_of(found.trajectory, ego, vehicle) == ""
    # numbers may be read character by character, words take fewer tokens than half their characters
    room = profile.calls[-1].max_tokens * (1 if hasattr(profile.answer, "count") else 2)
    lengths = [len(text) for text in typical_answers(profile, kind, vehicle)]
    assert lengths
    assert max(lengths) < room


def test_what_is_there_is_not_replaced(tmp_path):
    assert run("new", "points", "--out", tmp_path / "a.json").exit_code == 0
    again = run("new", "line", "--out", tmp_path / "a.json")
    assert isinstance(again.exception, OwledError)
    assert "--force" in str(again.exception)
    assert run("new", "line", "--out", tmp_path / "a.json", "--force").exit_code == 0
    assert "known: line, points" in str(run("new", "oracle", "--out", tmp_path / "b.json").exception)
    assert "points_history" in run("new").output


def test_a_file_alone_is_shown(tmp_path):
    file = tmp_path / PROFILE_NAME
    file.write_text(profile_text(preset("three_calls")))
    shown = run("check", file)
    assert shown.exit_code == 0
    assert "[user] <image>You drive this car" in shown.output
    file.write_text('{"format_version": 2, "calls": []}')
    assert "calls" in str(run("check", file).exception)


def test_a_model_that_does_not_come_to_an_end_is_a_problem(model, tmp_path):
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8))
    done = run("check", model, "--image", image, "--speed", "8", "--out", tmp_path / "drawn.png")
    assert done.exit_code == 1
    assert "<bos><image>speed 8.0, yaw +0.00.action?" in done.output
    assert "144" in done.output  # image tokens of a square of 12 by 12 patches
    assert "call answer did not come to an end" in done.output.replace("\n", " ")


def test_a_frame_of_a_bag_is_asked_about_and_drawn(model, tmp_path, monkeypatch):
    from owled_ros.models import chat

    bag = make_bag(tmp_path / "bag")
    text = "cruise, acceleration +1.0 m/s2, steering +0.02 rad"
    reply = chat.Reply(text, (5, 6), True, (0.0,), 0.0, 0.01)
    monkeypatch.setattr(chat.Chat, "reply", lambda *_: reply)
    done = run("check", model, "--bag", bag, "--frame", 2, "--out", tmp_path / "drawn.png")
    assert done.exit_code == 0, done.output
    assert "speed 5.0, yaw +0.10" in done.output
    assert "not calibrated" in done.output
    assert cv2.imread(str(tmp_path / "drawn.png")).shape[1] >= 320


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calls": [{"user": "{images}{ego}action?", "max_tokens": 3}]}, "raise max_tokens"),
        ({"colour": 1}, "colour: unknown key"),
        ({"ego": "{speed.real}"}, "'speed.real' is not known"),
        (
            {
                "answer": {
                    "kind": "action_tokens",
                    "count": 3,
                    "step_s": 0.5,
                    "codebook": "c.json",
                    "entries": 9,
                    "base_id": 1,
                }
            },
            "expected (9, 3)",
        ),
        ({"answer": {"kind": "head", "name": "nobody", "count": 3, "step_s": 0.5}}, "no trajectory head 'nobody'"),
    ],
)
def test_check_says_what_is_wrong(model, tmp_path, change, words):
    import shutil

    place = tmp_path / "model"
    shutil.copytree(model, place)
    (place / "c.json").write_text("[[1, 0, 0], [2, 0, 0]]")
    sound = json.loads((place / PROFILE_NAME).read_text())
    (place / PROFILE_NAME).write_text(json.dumps({**sound, **change}))
    done = run("check", place, "--out", tmp_path / "drawn.png")
    assert done.exit_code == 1
    assert words in done.output.replace("\n", " ")


def test_cameras_that_a_bag_does_not_have_are_named(model, tmp_path):
    import shutil

    place = tmp_path / "model"
    shutil.copytree(model, place)
    sound = json.loads((place / PROFILE_NAME).read_text())
    cameras = [{"name": "front"}, {"name": "left"}]
    (place / PROFILE_NAME).write_text(json.dumps({**sound, "cameras": cameras}))
    done = run("check", place, "--bag", make_bag(tmp_path / "bag"))
    assert done.exit_code == 1
    assert "left" in done.output


def test_cameras_past_images_and_calls_are_tried_together(model, tmp_path, monkeypatch):
    import shutil

    from owled_ros.models import chat

    place = tmp_path / "model"
    shutil.copytree(model, place)
    cameras = [{"name": "front", "size": [192, 192]}, {"name": "left", "size": [192, 192]}]
    calls = [
        {"name": "look", "user": "{images}{ego}scene?", "max_tokens": 4, "unfinished": "use"},
        {"name": "plan", "user": "{images}{ego}action?", "max_tokens": 8},
    ]
    profile = {
        "format_version": 2,
        "cameras": cameras,
        "ego": "speed {speed:.1f}",
        "calls": calls,
        "answer": {"kind": "line"},
    }
    (place / PROFILE_NAME).write_text(json.dumps(profile))
    asked = chat.Chat.reply
    line = chat.Reply("stop, acceleration -1.0 m/s2, steering +0.00 rad", (5,), True, (0.0,), -0.1, 0.01)
    monkeypatch.setattr(
        chat.Chat,
        "reply",
        lambda self, prompt, limits, *rest: line if limits.max_tokens == 8 else asked(self, prompt, limits, *rest),
    )
    done = run("check", place, "--out", tmp_path / "drawn.png")
    assert done.exit_code == 0, done.output
    assert done.output.count("<image><image>speed 5.0") == 2
    assert done.output.count("144") == 2
    assert "call look" in done.output
