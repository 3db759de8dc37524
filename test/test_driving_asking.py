"""From a profile and a frame to conversations and images: order, tags, budgets, history, command, several calls."""

import json
import math

import numpy as np
import pytest

from owled_ros.driving import asking
from owled_ros.driving.conversation import IMAGE, AnswerLimits, Turn
from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.frame import Frame, View
from owled_ros.driving.image_budget import cropped, prepared
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.needs import CameraNeed
from owled_ros.driving.profile import parse_profile
from owled_ros.driving.profile_parts import Camera, Crop, Number
from owled_ros.driving.shrinking import shrunk
from owled_ros.errors import OwledError

NOW = 100 * NANOSECONDS


def profile_of(**values):
    return parse_profile(json.dumps({"format_version": 2, "answer": {"kind": "line"}, **values}), "driving.json")


def call(user, **more):
    return {"user": user, "max_tokens": 8, **more}


def grey(level, height=40, width=80):
    return np.full((height, width, 3), level, np.uint8)


def frame(cameras=("front",), count=1, **more):
    """Show level 10 * camera + step."""
    views = tuple(
        View(name, grey(10 * place + step), NOW - round((count - 1 - step) * 0.5 * NANOSECONDS))
        for place, name in enumerate(cameras)
        for step in range(count)
    )
    return Frame(views[count - 1].image, NOW, more.pop("ego", EgoState(NOW, 10.0, 0.2, -1.0)), views=views, **more)


def levels(images):
    return [int(image[0, 0, 0]) for image in images]


TWO = [{"name": "front", "tag": "<FRONT>"}, {"name": "left", "tag": "<LEFT>", "after": "."}]


def test_images_stand_camera_by_camera_with_their_tags():
    profile = profile_of(cameras=TWO, images={"count": 2}, calls=[call("{images}go")])
    (turn,) = asking.conversation(profile, profile.calls[0], frame(("front", "left"), 2)).turns
    assert turn.parts == ("<FRONT>", IMAGE, IMAGE, "<LEFT>", IMAGE, IMAGE, ".go")
    assert levels(asking.images(profile, frame(("front", "left"), 2))) == [0, 1, 10, 11]


def test_images_stand_moment_by_moment_and_each_says_its_age():
    cameras = [{"name": "front"}, {"name": "left", "image_tag": "{number}: {age:.1f} s, {time:+.1f}, {step} "}]
    profile = profile_of(cameras=cameras, images={"count": 2, "order": "by_time"}, calls=[call("{images}")])
    (turn,) = asking.conversation(profile, profile.calls[0], frame(("front", "left"), 2)).turns
    assert turn.parts == (IMAGE, "2: 0.5 s, -0.5, 1 ", IMAGE, IMAGE, "4: 0.0 s, +0.0, 2 ", IMAGE)
    assert levels(asking.images(profile, frame(("front", "left"), 2))) == [0, 10, 1, 11]


def test_images_stand_where_the_text_wants_them():
    profile = profile_of(cameras=TWO, calls=[call("ahead {images_front} beside {images_left}")])
    (turn,) = asking.conversation(profile, profile.calls[0], frame(("front", "left"))).turns
    assert turn.parts == ("ahead <FRONT>", IMAGE, " beside <LEFT>", IMAGE, ".")
    with pytest.raises(OwledError, match="in the order of the cameras"):
        profile_of(cameras=TWO, calls=[call("{images_left}{images_front}")])


def test_views_are_found_by_name_and_time():
    profile = profile_of(cameras=TWO, images={"count": 2}, calls=[call("{images}")])
    assert levels(asking.images(profile, frame(("left", "front"), 2))) == [10, 11, 0, 1]
    # more was kept than is asked for: those at -0.5 s and now
    assert levels(asking.images(profile, frame(("left", "front", "rear"), 4))) == [12, 13, 2, 3]
    with pytest.raises(OwledError, match="1 images of camera 'left', the profile asks for 2"):
        asking.images(profile, Frame(grey(0), NOW, EgoState(NOW, 1.0), views=frame(("front", "left"), 2).views[:3]))
    one = profile_of(calls=[call("{images}")])
    assert levels(asking.images(one, Frame(grey(7), NOW, EgoState(NOW, 1.0)))) == [7]


def test_the_needs_follow_from_the_profile():
    cameras = [
        {"name": "left", "max_pixels": 1000, "past_max_pixels": 400, "crop": {"bottom": 0.5}},
        {"name": "front", "size": [64, 64]},
    ]
    history = {"count": 3, "interval_s": 0.5, "line": "{x:.1f}"}
    command = {"words": {"left": "LEFT"}}
    profile = profile_of(
        cameras=cameras, main_camera="front", images={"count": 4, "interval_s": 0.1}, history=history, command=command,
        calls=[call("{images}{history}{command}")],
    )  # fmt: skip
    # half of the image is cut off, so the whole one may have twice the pixels
    assert profile.needs.cameras == (CameraNeed("front", None, None), CameraNeed("left", 2000, 800))
    assert profile.needs.image_offsets_s == (0.3, 0.2, 0.1, 0.0)
    assert profile.needs.ego_offsets_s == (1.5, 1.0, 0.5)
    assert profile.needs.needs_pose
    assert profile.needs.needs_command
    speeds = profile_of(history={"count": 1, "line": "{speed:.1f}"}, calls=[call("{images}{history}")])
    assert not speeds.needs.needs_pose
    assert not speeds.needs.needs_command
    assert not speeds.needs.needs_acceleration
    for told in ({"ego": "{acceleration:.1f}", "calls": [call("{images}{ego}")]}, {"calls": [call("{images}{acceleration:.1f}")]}, {
        "history": {"count": 1, "line": "{acceleration_x:.1f}"}, "calls": [call("{images}{history}")]
    }):  # fmt: skip
        assert profile_of(**told).needs.needs_acceleration


def test_images_are_cropped_and_shrunk():
    image = np.arange(40 * 80 * 3, dtype=np.uint8).reshape(40, 80, 3)
    # a quarter of 40 rows and a tenth of 80 columns
    assert np.array_equal(cropped(image, Crop(bottom=0.25, left=0.1)), image[:30, 8:])
    small = shrunk(image, 800)  # 3200 pixels: half of each side
    assert small.shape == (20, 40, 3)
    assert shrunk(small, 800) is small
    camera = Camera(max_pixels=3200, past_max_pixels=800)
    assert prepared(image, camera) is image
    assert prepared(image, camera, past=True).shape == (20, 40, 3)
    assert prepared(image, Camera(size=(30, 50))).shape == (50, 30, 3)
    with pytest.raises(OwledError, match="leaves nothing"):
        cropped(grey(0, 4, 4), Crop(left=0.4, right=0.4))


@pytest.mark.parametrize("pixels", [64, 777, 5000])
def test_an_image_shrunk_before_it_was_kept_is_not_shrunk_again(pixels):
    camera = Camera(max_pixels=pixels, crop=Crop(top=0.21, left=0.13, right=0.04))
    (need,) = profile_of(cameras=[camera.model_dump(mode="json")], calls=[call("{images}")]).needs.cameras
    kept = shrunk(np.zeros((173, 311, 3), np.uint8), need.max_pixels)
    assert prepared(kept, camera).base is kept.base or np.shares_memory(prepared(kept, camera), kept)
    found = prepared(kept, camera)
    assert found.shape[0] * found.shape[1] <= pixels


def state(age, x, y, heading, speed=10.0, yaw_rate=0.0, acceleration=0.0):
    return EgoState(NOW - round(age * NANOSECONDS), speed, yaw_rate, acceleration, Pose(x, y, heading))


def test_the_past_is_written_line_by_line():
    line = "{time:+.1f} s: ({x:.1f}, {y:.2f}), v ({velocity_x:.1f}, {velocity_y:.1f}), a ({acceleration_x:.1f}, {acceleration_y:.1f})"
    history = {"count": 2, "interval_s": 0.5, "line": line, "separator": "; "}
    profile = profile_of(history=history, calls=[call("{images}{history}")])
    # heading left by 90 degrees at 10 m/s and 2 m/s2: along y; turning at 0.1 rad/s pulls by 1 m/s2 to the left, along -x
    past = (state(1.0, -9.5, 1.0, math.pi / 2, 10.0, 0.1, 2.0), state(0.5, -5.0, 0.25, 0.0))
    (turn,) = asking.conversation(profile, profile.calls[0], frame(past=past)).turns
    assert turn.parts[1] == (
        "-1.0 s: (-9.5, 1.00), v (0.0, 10.0), a (-1.0, 2.0); -0.5 s: (-5.0, 0.25), v (10.0, 0.0), a (0.0, 0.0)"
    )
    with pytest.raises(OwledError, match="asks for 2 past ego states, the frame has 1"):
        asking.conversation(profile, profile.calls[0], frame(past=past[1:]))
    lost = tuple(EgoState(NOW, 1.0) for _ in past)
    with pytest.raises(OwledError, match="needs x"):
        asking.conversation(profile, profile.calls[0], frame(past=lost))


def test_the_past_may_run_backwards_and_end_with_now():
    history = {"count": 1, "line": "{step} {speed:.0f} {curvature:.0f}", "order": "newest_first", "now": True}
    numbers = {"curvature": {"scale": 100.0}}  # as OpenEMMA writes it
    profile = profile_of(history=history, numbers=numbers, calls=[call("{images}{history}")])
    (turn,) = asking.conversation(profile, profile.calls[0], frame(past=(state(0.5, 0, 0, 0, 20.0, 0.2),))).turns
    assert turn.parts[1] == "2 10 2\n1 20 1"  # 0.2 / 10 and 0.2 / 20 per metre


def test_numbers_are_scaled_held_and_rounded_in_this_order():
    assert Number(scale=3.6, max=100.0, step=5.0).of(10.0) == 35.0  # 36 km/h
    assert Number(scale=3.6, max=100.0, step=5.0).of(40.0) == 100.0
    assert str(Number(step=1.0).of(-0.4)) == "0.0"
    assert Number().of(1e9) == 1e6


def test_commands_are_said_in_the_words_of_the_model():
    command = {
        "words": {"left": "[TURN LEFT]", "straight": "[GO STRAIGHT]"},
        "near_template": "{word} in {distance:.0f} m {text}",
        "required": True,
    }
    profile = profile_of(command=command, calls=[call("{images}{command}")])

    def said(given, clean=str):
        return asking.conversation(profile, profile.calls[0], frame(command=given), clean=clean).turns[0].parts[1]

    assert said(NavigationCommand(CommandKind.LEFT)) == "[TURN LEFT]"
    given = NavigationCommand(CommandKind.STRAIGHT, 31.0, "past <image> the church")
    assert said(given, lambda text: text.replace("<image>", "image")) == "[GO STRAIGHT] in 31 m past image the church"
    with pytest.raises(OwledError, match="no word for the command 'u_turn'"):
        said(NavigationCommand(CommandKind.U_TURN))
    for nothing in (None, NavigationCommand(CommandKind.UNKNOWN)):
        with pytest.raises(OwledError, match="the frame has none"):
            said(nothing)
    optional = profile_of(command={**command, "required": False, "missing": "none"}, calls=[call("{images}{command}")])
    assert asking.conversation(optional, optional.calls[0], frame()).turns[0].parts[1] == "none"


def test_later_calls_use_what_earlier_ones_said():
    calls = [
        call("{images}scene?", name="scene", stop=["\n"], answer_start="I see"),
        call("{images}{scene}. intent?", name="intent", system="Be brief."),
        call("answer for {intent}!", name="numbers", continues=True, keep_special=True),
    ]
    profile = profile_of(calls=calls, system="You drive.", template_options={"enable_thinking": False})
    first, second, third = profile.calls
    one = asking.conversation(profile, first, frame())
    assert one.turns == (Turn("system", ("You drive.",)), Turn("user", (IMAGE, "scene?")))
    assert (one.answer_start, one.options) == ("I see", {"enable_thinking": False})
    assert asking.limits(first) == AnswerLimits(8, ("\n",), False)
    said = {"scene": "a {speed} car"}
    two = asking.conversation(profile, second, frame(), said)
    assert two.turns == (Turn("system", ("Be brief.",)), Turn("user", (IMAGE, "a {speed} car. intent?")))
    said["intent"] = "stop"
    three = asking.conversation(profile, third, frame(), said)
    assert three.turns == (*two.turns, Turn("assistant", ("stop",)), Turn("user", ("answer for stop!",)))
    assert three.images == 1
    with pytest.raises(OwledError, match="needs scene"):
        asking.conversation(profile, second, frame())
