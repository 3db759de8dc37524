"""The driving engine: one prefix per frame, the action decoded first, everything else continued from the same prefix.

Needs numpy; prompts, cache and decoding are models.chat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from owled_ros.driving.conversation import AnswerLimits, Conversation
from owled_ros.driving.engine import never
from owled_ros.driving.familiarity import Familiarity
from owled_ros.driving.frame import MIN_IMAGE_SIDE, EgoState, Frame
from owled_ros.driving.prediction import (
    ActionAnswer,
    Generation,
    ModelIdentity,
    SceneAnswer,
    judge_action,
    judge_scene,
)
from owled_ros.driving.profile import DrivingProfile
from owled_ros.models.chat import Chat, Reply, images_of
from owled_ros.models.prompt import Prompt, user_turn


@dataclass
class Prefix:
    """A frame that the model has read; valid until the next one."""

    frame: Frame
    images: tuple[Any, ...]  # as the processor gets them, in prompt order
    action: Prompt  # read with the frame
    started: float  # [s], monotonic
    familiarity: float = 1.0  # [0, 1] of the image, see driving.familiarity


class VlmEngine:
    """A Hugging Face VLM as a driving engine (driving.engine.Engine)."""

    def __init__(
        self,
        chat: Chat,
        profile: DrivingProfile,
        identity: ModelIdentity,
        facts: Mapping[str, Any],
        familiarity: Familiarity | None = None,
    ) -> None:
        self.identity, self.facts, self.profile, self.chat = identity, facts, profile, chat
        self._familiarity = familiarity

    def see(self, frame: Frame) -> Prefix:
        """Read the images, the ego sentence and, in the same pass, the action question."""
        started = time.monotonic()
        arrays = [self._shrink(image) for image in frame.images]
        familiarity = 1.0 if self._familiarity is None else self._familiarity.of(self._shrink(frame.image))
        images = images_of(arrays)
        prompt = self.chat.prompt(self._conversation(frame, self.profile.action_question), images)
        self.chat.read(prompt, self.profile.max_action_tokens)
        return Prefix(frame, images, prompt, started, familiarity)

    def act(self, prefix: Prefix) -> ActionAnswer:
        """Decode the action."""
        reply = self.chat.reply(prefix.action, AnswerLimits(self.profile.max_action_tokens))
        assert reply is not None
        return judge_action(self._generation(prefix, reply))

    def describe(self, prefix: Prefix, cancelled: Callable[[], bool] = never) -> SceneAnswer | None:
        """Decode the scene description."""
        generation = self._answer(prefix, self.profile.scene_question, self.profile.max_scene_tokens, cancelled)
        return None if generation is None else judge_scene(generation)

    def ask(self, prefix: Prefix, question: str, cancelled: Callable[[], bool] = never) -> Generation | None:
        """Decode a free answer."""
        return self._answer(prefix, self.chat.prompter.harmless(question), self.profile.max_answer_tokens, cancelled)

    def usual_conversations(self) -> tuple[Conversation, Conversation]:
        """Give the two that are asked about every frame, with a made-up ego state."""
        frame = Frame(np.full((MIN_IMAGE_SIDE, MIN_IMAGE_SIDE, 3), 127, np.uint8), 0, EgoState(0, 5.0))
        action, scene = self.profile.action_question, self.profile.scene_question
        return self._conversation(frame, action), self._conversation(frame, scene)

    def close(self) -> None:
        """Free the model."""
        self.chat.close()

    def _answer(self, prefix: Prefix, question: str, limit: int, cancelled: Callable[[], bool]) -> Generation | None:
        if cancelled():
            return None
        prompt = self.chat.prompt(self._conversation(prefix.frame, question), prefix.images)
        reply = self.chat.reply(prompt, AnswerLimits(limit), cancelled)
        return None if reply is None else self._generation(prefix, reply)

    def _conversation(self, frame: Frame, question: str) -> Conversation:
        text = f"{self.profile.ego_sentence(frame.ego)}{question}"
        return Conversation((user_turn(len(frame.images), text),))

    def _generation(self, prefix: Prefix, reply: Reply) -> Generation:
        """Confidence = calibrated product of the tokens' probabilities times the image's familiarity."""
        confidence = self.profile.confidence.apply(math.exp(reply.score)) * prefix.familiarity
        return Generation(reply.text.strip(), reply.complete, confidence, len(reply.ids), reply.seconds, reply.ids)

    def _shrink(self, image: np.ndarray) -> np.ndarray:
        size = self.profile.image_size
        if size is None or image.shape[1::-1] == size:
            return image
        shrinks = image.shape[1] >= size[0] and image.shape[0] >= size[1]
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
