"""The calls of a profile, one after the other, on one cache. Needs models.chat.

Driving, calibration and `owled profile check` all ask through this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from owled_ros.driving import asking
from owled_ros.driving.conversation import Conversation
from owled_ros.driving.engine import never
from owled_ros.driving.frame import Frame
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.profile_parts import Call
from owled_ros.models.chat import Chat, Reply
from owled_ros.models.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Answered:
    """One call and what the model said."""

    call: Call
    conversation: Conversation
    prompt: Prompt
    reply: Reply

    @property
    def usable(self) -> bool:
        """Whether a later call may use it, or a plan be read from it."""
        return self.reply.complete or self.call.unfinished == "use"


def answer_calls(
    chat: Chat,
    profile: DrivingProfile,
    frame: Frame,
    images: Sequence[Any],
    cancelled: Callable[[], bool] = never,
    started: float | None = None,
) -> list[Answered]:
    """Ask every call of the profile; fewer come back where one was cancelled, late or not usable (then it is the last).

    Args:
        images: of the frame, prepared and in prompt order; the same object for every question about it.
        started: [s], monotonic, when the time of `max_seconds` began; None: now.
    """
    ends = (time.monotonic() if started is None else started) + (profile.max_seconds or float("inf"))
    answered: list[Answered] = []
    said: dict[str, str] = {}
    for call in profile.calls:
        conversation = asking.conversation(profile, call, frame, said, chat.prompter.harmless)
        prompt = chat.prompt(conversation, images if conversation.images else ())
        reply = chat.reply(prompt, asking.limits(call), lambda: cancelled() or time.monotonic() >= ends)
        if reply is None:
            return answered
        answered.append(Answered(call, conversation, prompt, reply))
        if not answered[-1].usable:
            return answered
        said[call.name] = reply.text.strip()
    return answered
