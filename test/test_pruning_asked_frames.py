"""What calibrates a pruning is asked through the profile: all calls with what came before, all images, the scene."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from owled_ros.driving import asking
from owled_ros.driving.answer import Action, Manoeuvre, Scene
from owled_ros.driving.conversation import Conversation, Slot
from owled_ros.driving.frame import EgoState, Frame
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import parse_profile
from owled_ros.driving.waypoints import from_waypoints
from owled_ros.errors import OwledError
from owled_ros.models.chat import Reply
from owled_ros.pruning.asked_frames import expert_answers, own_answers


class Words:
    """A prompter whose tokens are characters."""

    def harmless(self, text: str) -> str:
        return text

    def decode(self, ids: tuple[int, ...], keep_special: bool) -> str:
        return "".join(map(chr, ids))


def test_what_is_pruned_is_asked_what_drives() -> None:
    """A model of two cameras, a past and two calls: every call, with the earlier answer, and the scene."""
    said = iter(["free road", "cruise", "nothing"])
    told: list[tuple[str, int]] = []

    class Chat:
        prompter = Words()

        def prompt(self, conversation: Conversation, images: tuple[object, ...]) -> None:
            text = "".join("#" if isinstance(part, Slot) else part for part in conversation.turns[-1].parts)
            told.append((text, len(images)))

        def reply(self, *_: object) -> Reply:
            text = next(said)
            return Reply(text, tuple(map(ord, text)), True, (), 0.0, 0.0)

    calls = [
        {"name": "look", "user": "{images}{history} what?", "max_tokens": 9},
        {"name": "plan", "user": "{look}: plan?", "max_tokens": 9},
    ]
    profile = parse_profile(
        json.dumps(
            {
                "format_version": 2,
                "cameras": [{"name": "front"}, {"name": "left"}],
                "history": {"count": 1, "line": "{speed:.0f}"},
                "calls": calls,
                "scene": {"user": "{images}scene?", "max_tokens": 9},
                "answer": {"kind": "line"},
            }
        ),
        "driving.json",
    )
    found = own_answers(SimpleNamespace(profile=profile, chat=Chat()), asking.made_up_frame(profile))
    assert told == [("##5 what?", 2), ("free road: plan?", 0), ("##scene?", 2)]
    assert [frame.answer for frame in found] == ["free road", "cruise", "nothing"]
    assert [len(frame.images) for frame in found] == [2, 0, 2]


def test_the_expert_answers_in_the_kind_of_the_model(tmp_path: Path) -> None:
    frame = Frame(np.zeros((40, 60, 3), np.uint8), 0, EgoState(0, 10.0))
    action, scene = Action(0.0, 0.0, Manoeuvre.CRUISE), Scene()
    points, described = expert_answers(preset("points"), tmp_path, frame, action, scene)
    # 10 m/s straight on: 5 m every half second
    assert points.answer == "[[5.00, 0.00], [10.00, 0.00], [15.00, 0.00], [20.00, 0.00], [25.00, 0.00], [30.00, 0.00]]"
    assert described.answer == "0 cars; 0 pedestrians; no traffic light"
    curve = from_waypoints(
        np.array([[4.0, 0.0], [8.0, 0.5], [11.0, 1.5], [13.0, 3.0], [15.0, 5.0], [16.0, 7.0]]), 0.5, 8.0
    )
    turning, _ = expert_answers(preset("points"), tmp_path, frame, action, scene, curve)
    assert turning.answer == "[[4.00, 0.00], [8.00, 0.50], [11.00, 1.50], [13.00, 3.00], [15.00, 5.00], [16.00, 7.00]]"
    too_short, _ = expert_answers(preset("points"), tmp_path, frame, action, scene, curve.sample([0.0, 0.5, 1.0]))
    assert too_short.answer == points.answer
    with pytest.raises(OwledError, match="several calls"):
        expert_answers(preset("three_calls"), tmp_path, frame, action, scene)
