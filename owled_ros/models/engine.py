"""The driving engine: a frame is read with its first question, its plan decoded first, everything else from the same prefix.

Needs numpy. What is asked is driving.asking, how an answer becomes a trajectory driving.judging; prompts, cache and decoding are
models.chat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from owled_ros.driving import asking
from owled_ros.driving.answers.kind import AnswerKind
from owled_ros.driving.conversation import AnswerLimits, Conversation
from owled_ros.driving.engine import never
from owled_ros.driving.familiarity import Familiarity
from owled_ros.driving.frame import Frame
from owled_ros.driving.judging import judge_answer, reads_text
from owled_ros.driving.prediction import (
    ActionAnswer,
    Generation,
    ModelIdentity,
    Reason,
    SceneAnswer,
    judge_scene,
)
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.models.calls import Answered, answer_calls
from owled_ros.models.chat import Chat, Reply, images_of

NOT_ASKED = "the model's profile has no question about the scene"


@dataclass(frozen=True, eq=False)
class Prefix:
    """A frame that the model has read; valid until the next one."""

    frame: Frame
    images: tuple[Any, ...]  # as the processor gets them, in prompt order
    started: float  # [s], monotonic
    familiarity: float = 1.0  # [0, 1] of the image, see driving.familiarity


class VlmEngine:
    """A Hugging Face VLM as a driving engine (driving.engine.Engine)."""

    def __init__(
        self,
        chat: Chat,
        profile: DrivingProfile,
        kind: AnswerKind,
        identity: ModelIdentity,
        facts: Mapping[str, Any],
        familiarity: Familiarity | None = None,
    ) -> None:
        self.identity, self.facts, self.profile, self.chat = identity, facts, profile, chat
        self.vehicle = VehicleParameters()  # what trajectories are held against
        self._kind, self._familiarity = kind, familiarity
        self._cutting = profile.cutting if reads_text(profile.answer) else None

    def see(self, frame: Frame) -> Prefix:
        """Read the images and, in the same pass, all of the first call."""
        started, familiarity = time.monotonic(), 1.0
        if self._familiarity is not None:
            familiarity = self._familiarity.of(asking.main_image(self.profile, frame))
        images = images_of(asking.images(self.profile, frame))
        call = self.profile.calls[0]
        self.chat.read(self.chat.prompt(self.first_conversation(frame), images), call.max_tokens)
        return Prefix(frame, images, started, familiarity)

    def act(self, prefix: Prefix) -> ActionAnswer:
        """Ask every call and read the trajectory from the last answer."""
        answered = answer_calls(self.chat, self.profile, prefix.frame, prefix.images, started=prefix.started)
        return self.judge(prefix, answered)

    def judge(self, prefix: Prefix, answered: list[Answered]) -> ActionAnswer:
        """Read the trajectory from the answers to the calls, the last of which was just given."""
        generation = self._last(prefix, answered)
        if len(answered) < len(self.profile.calls) or not answered[-1].usable:
            name = self.profile.calls[max(len(answered), 1) - 1].name
            detail = f"token limit reached before the end of the answer to call {name}"
            if not answered or answered[-1].usable:
                name = self.profile.calls[len(answered)].name
                detail = f"call {name} had no end after {self.profile.max_seconds} s, the limit of the profile"
            return ActionAnswer(replace(generation, complete=False, confidence=0.0), None, Reason.INCOMPLETE, detail)
        hidden = self.chat.runner.hidden() if self._kind.needs_hidden else None
        return judge_answer(generation, self._kind, self._cutting, prefix.frame.ego, self.vehicle, hidden)

    def describe(self, prefix: Prefix, cancelled: Callable[[], bool] = never) -> SceneAnswer | None:
        """Decode the scene description."""
        conversation = asking.scene_conversation(self.profile, prefix.frame, self.chat.prompter.harmless)
        if conversation is None or self.profile.scene is None:
            return SceneAnswer(Generation("", True, 0.0, 0, 0.0), None, Reason.DECLINED, NOT_ASKED)
        generation = self._answer(prefix, conversation, asking.limits(self.profile.scene), cancelled)
        return None if generation is None else judge_scene(generation, self.profile.cutting.of_reasoning())

    def ask(self, prefix: Prefix, question: str, cancelled: Callable[[], bool] = never) -> Generation | None:
        """Decode a free answer."""
        conversation = asking.free_conversation(self.profile, prefix.frame, question, self.chat.prompter.harmless)
        return self._answer(prefix, conversation, asking.limits(self.profile.question), cancelled)

    def first_conversation(self, frame: Frame) -> Conversation:
        """Make the conversation of the first call."""
        return asking.conversation(self.profile, self.profile.calls[0], frame, None, self.chat.prompter.harmless)

    def close(self) -> None:
        """Free the model."""
        self.chat.close()

    def _answer(
        self, prefix: Prefix, conversation: Conversation, limits: AnswerLimits, cancelled: Callable[[], bool]
    ) -> Generation | None:
        if cancelled():
            return None
        prompt = self.chat.prompt(conversation, prefix.images if conversation.images else ())
        reply = self.chat.reply(prompt, limits, cancelled)
        return None if reply is None else self._generation(prefix, reply)

    def _last(self, prefix: Prefix, answered: list[Answered]) -> Generation:
        """Give the last answer with what was said before it, and what all calls took."""
        if not answered:
            return Generation("", False, 0.0, 0, time.monotonic() - prefix.started)
        replies = [item.reply for item in answered]
        return replace(
            self._generation(prefix, replies[-1]),
            tokens=sum(len(reply.ids) for reply in replies),
            seconds=sum(reply.seconds for reply in replies),
            reasoning="\n".join(reply.text.strip() for reply in replies[:-1]),
        )

    def _generation(self, prefix: Prefix, reply: Reply) -> Generation:
        """Confidence = calibrated product of the tokens' probabilities times the image's familiarity."""
        confidence = self.profile.confidence.apply(math.exp(reply.score)) * prefix.familiarity
        return Generation(reply.text.strip(), reply.complete, confidence, len(reply.ids), reply.seconds, reply.ids)
