"""The driving engine: one prefix per frame, the action decoded first, everything else continued from the same prefix.

Needs numpy; the model itself sits behind a TextRunner (models.runners), so that torch and the sparse decoder share this file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from owled_ros.driving.confidence import number_neighbours
from owled_ros.driving.engine import never
from owled_ros.driving.familiarity import Familiarity
from owled_ros.driving.frame import Frame
from owled_ros.driving.prediction import (
    ActionAnswer,
    Generation,
    ModelIdentity,
    SceneAnswer,
    judge_action,
    judge_scene,
)
from owled_ros.driving.profile import DrivingProfile
from owled_ros.errors import OwledError


class TextRunner(Protocol):
    """A language model with a cache that can return to its prefix."""

    def prefill(self, inputs: Mapping[str, Any], suffix: list[int]) -> np.ndarray:
        """Forget the cache, read the prefix (ids and image) and a suffix; return the last logits (V,) float32."""

    def rewind(self) -> None:
        """Cut the cache back to the prefix."""

    def extend(self, ids: list[int]) -> np.ndarray:
        """Read further tokens; return the last logits (V,) float32."""

    def close(self) -> None:
        """Free everything."""


@dataclass
class Prefix:
    """A frame that the model has read; valid until the next one."""

    frame: Frame
    action_logits: np.ndarray | None  # (V,) after the action question; None once the cache has moved on
    started: float  # [s], monotonic
    familiarity: float = 1.0  # [0, 1] of the image, see driving.familiarity


class VlmEngine:
    """A Hugging Face VLM as a driving engine (driving.engine.Engine)."""

    def __init__(
        self,
        runner: TextRunner,
        processor: Any,
        profile: DrivingProfile,
        identity: ModelIdentity,
        facts: Mapping[str, Any],
        stop_ids: frozenset[int],
        familiarity: Familiarity | None = None,
    ) -> None:
        self.identity, self.facts, self.profile = identity, facts, profile
        self._runner, self._processor, self._stop_ids = runner, processor, stop_ids
        self._tokenizer = processor.tokenizer
        self._neighbours = number_neighbours(self._tokenizer.get_vocab())
        self._suffixes: dict[str, list[int]] = {}
        self._familiarity = familiarity

    def see(self, frame: Frame) -> Prefix:
        """Read the image, the ego sentence and, in the same pass, the action question."""
        started = time.monotonic()
        head, suffix = self._prompt(frame, self.profile.action_question)
        image = self._shrink(frame.image)
        familiarity = 1.0 if self._familiarity is None else self._familiarity.of(image)
        inputs = self._processor(text=head, images=image, return_tensors="pt")
        return Prefix(frame, self._runner.prefill(inputs, suffix), started, familiarity)

    def act(self, prefix: Prefix) -> ActionAnswer:
        """Decode the action."""
        logits, prefix.action_logits = prefix.action_logits, None
        if logits is None:
            logits = self._ask_again(prefix, self.profile.action_question)
        generation = self._generate(prefix, logits, self.profile.max_action_tokens, never)
        assert generation is not None
        return judge_action(generation)

    def describe(self, prefix: Prefix, cancelled: Callable[[], bool] = never) -> SceneAnswer | None:
        """Decode the scene description."""
        generation = self._answer(prefix, self.profile.scene_question, self.profile.max_scene_tokens, cancelled)
        return None if generation is None else judge_scene(generation)

    def ask(self, prefix: Prefix, question: str, cancelled: Callable[[], bool] = never) -> Generation | None:
        """Decode a free answer."""
        return self._answer(prefix, question, self.profile.max_answer_tokens, cancelled)

    def close(self) -> None:
        """Free the model."""
        self._runner.close()

    def _answer(self, prefix: Prefix, question: str, limit: int, cancelled: Callable[[], bool]) -> Generation | None:
        prefix.action_logits = None
        if cancelled():
            return None
        return self._generate(prefix, self._ask_again(prefix, question), limit, cancelled)

    def _ask_again(self, prefix: Prefix, question: str) -> np.ndarray:
        self._runner.rewind()
        return self._runner.extend(self._prompt(prefix.frame, question)[1])

    def _prompt(self, frame: Frame, question: str) -> tuple[str, list[int]]:
        """Render the chat up to the question as text, and the question with all after it as tokens."""
        text = [{"type": "image"}, {"type": "text", "text": f"{self.profile.ego_sentence(frame.ego)}{question}"}]
        chat = [{"role": "user", "content": text}]
        rendered = self._processor.apply_chat_template(chat, add_generation_prompt=True)
        head, found, tail = rendered.rpartition(question)
        if not found:
            raise OwledError(
                "the model's chat template drops the question; expected one that keeps the user's text as it is"
            )
        ids = self._suffixes.get(question + tail)
        if ids is None:
            ids = self._suffixes[question + tail] = self._tokenizer(question + tail, add_special_tokens=False).input_ids
        return head, ids

    def _shrink(self, image: np.ndarray) -> np.ndarray:
        size = self.profile.image_size
        if size is None or image.shape[1::-1] == size:
            return image
        shrinks = image.shape[1] >= size[0] and image.shape[0] >= size[1]
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def _generate(
        self, prefix: Prefix, logits: np.ndarray, limit: int, cancelled: Callable[[], bool]
    ) -> Generation | None:
        """Decode greedily; confidence = calibrated product of the tokens' probabilities times the image's familiarity."""
        started = time.monotonic()
        ids: list[int] = []
        score, complete = 0.0, False
        for _ in range(limit):
            if cancelled():
                return None
            token, log_probability = self._pick(logits)
            score += log_probability
            if token in self._stop_ids:
                complete = True
                break
            ids.append(token)
            if len(ids) < limit:
                logits = self._runner.extend([token])
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        confidence = self.profile.confidence.apply(math.exp(score)) * prefix.familiarity
        return Generation(text.strip(), complete, confidence, len(ids), time.monotonic() - started)

    def _pick(self, logits: np.ndarray) -> tuple[int, float]:
        token = int(np.argmax(logits))
        scores = logits.astype(np.float64) - float(logits[token])
        probabilities = np.exp(scores)
        mass = probabilities[self._neighbours[token]].sum() if token in self._neighbours else probabilities[token]
        return token, float(np.log(mass / probabilities.sum()))
