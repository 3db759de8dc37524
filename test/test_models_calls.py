"""Several calls on one cache: order, what they hand on, and where they end. The model is a list of replies."""

import json
from dataclasses import dataclass, field

import pytest

from owled_ros.driving import asking
from owled_ros.driving.conversation import Slot
from owled_ros.driving.profile import parse_profile
from owled_ros.models import calls as module
from owled_ros.models.calls import answer_calls
from owled_ros.models.chat import Reply


class Words:
    def harmless(self, text):
        return text.replace("<image>", "< image>")


@dataclass
class FakeChat:
    replies: list
    prompter: Words = field(default_factory=Words)
    asked: list = field(default_factory=list)

    def prompt(self, conversation, images):
        assert conversation.images == len(images)
        parts = (part for turn in conversation.turns for part in turn.parts)
        return "".join("#" if isinstance(part, Slot) else part for part in parts)

    def reply(self, prompt, limits, cancelled):
        if cancelled():
            return None
        self.asked.append((prompt, limits.max_tokens))
        text, complete = self.replies[len(self.asked) - 1]
        return Reply(text, (1, 2), complete, (0.0,), 0.0, 0.1)


def profile_of(unfinished="refuse", **values):
    calls = [
        {"name": "scene_words", "user": "{images}scene?", "max_tokens": 5, "unfinished": unfinished},
        {"name": "plan", "user": "{scene_words}: plan?", "max_tokens": 7},
    ]
    text = json.dumps({"format_version": 2, "answer": {"kind": "line"}, "calls": calls, **values})
    return parse_profile(text, "driving.json")


def asked(profile, chat, cancelled=lambda: False):
    frame = asking.made_up_frame(profile)
    return answer_calls(chat, profile, frame, asking.images(profile, frame), cancelled)


def test_a_later_call_gets_what_an_earlier_one_said():
    chat = FakeChat([(" a <image> ", True), ("stop", True)])
    found = asked(profile_of(), chat)
    assert chat.asked == [("#scene?", 5), ("a < image>: plan?", 7)]
    assert [item.call.name for item in found] == ["scene_words", "plan"]
    assert all(item.usable for item in found)


@pytest.mark.parametrize(("unfinished", "count", "usable"), [("refuse", 1, False), ("use", 2, True)])
def test_what_did_not_end_is_used_only_where_the_profile_says_so(unfinished, count, usable):
    found = asked(profile_of(unfinished), FakeChat([("a", False), ("stop", True)]))
    assert (len(found), found[-1].usable) == (count, usable)


def test_time_and_cancelling_end_the_calls(monkeypatch):
    chat = FakeChat([("a", True), ("stop", True)])
    assert asked(profile_of(), chat, lambda: len(chat.asked) == 1)[-1].call.name == "scene_words"
    times = iter([0.0, 1.0, 2.0])  # begun, at the first call, at the second
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    assert len(asked(profile_of(max_seconds=1.5), FakeChat([("a", True), ("stop", True)]))) == 1
