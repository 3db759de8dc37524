"""A model that answers conversations about images from one cache: what a new prompt shares with the last is not read again.

Needs numpy; the model itself sits behind a TextRunner (models.runners), so that torch and the sparse decoder share this file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from owled_ros.driving.conversation import AnswerLimits, Conversation
from owled_ros.driving.engine import never
from owled_ros.models.choice import DeviceLogits
from owled_ros.models.decoding import Decoding, pick
from owled_ros.models.prompt import Prompt, Prompter, as_pil

Logits = np.ndarray | DeviceLogits
STOP_WINDOW = 8  # tokens looked at for a stop string besides one per character
logger = logging.getLogger(__name__)


class TextRunner(Protocol):
    """A language model with a cache that can be cut back."""

    def read(self, inputs: Mapping[str, Any], keep: int = 0, room: int = 0) -> Logits:
        """Make the cache hold a whole prompt whose first `keep` tokens it holds; return the last logits (V,) float32.

        With keep = 0 everything is forgotten and the images are seen again. `room`: so many tokens may follow.
        """

    def extend(self, token: int) -> Logits:
        """Read one more token; return the logits (V,) float32, good until the next call where they are on a device."""

    def can_keep(self, length: int) -> bool:
        """Tell whether the first `length` tokens of the cache can be kept."""

    def keep_hidden(self) -> None:
        """Keep the last hidden states from now on; raises OwledError where the runner has none."""

    def hidden(self) -> np.ndarray:
        """Give the last hidden states (T, C) float32 of all that is in the cache."""

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class Reply:
    """What the model answered."""

    text: str
    ids: tuple[int, ...]  # without the end token
    complete: bool  # an end token or a stop string was reached
    log_probabilities: tuple[float, ...]  # of every token, the end token too; natural logarithm
    score: float  # their sum, numbers counted with their neighbours
    seconds: float


class Chat:
    """Prompts, cache and decoding of one model. Not thread-safe."""

    def __init__(
        self,
        runner: TextRunner,
        prompter: Prompter,
        decoding: Decoding,
        neighbours: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        self.prompter, self.reuses = prompter, True
        self.runner, self.decoding, self._neighbours = runner, decoding, neighbours
        self._held: list[int] = []  # ids in the cache
        self._shown: Sequence[Any] | None = None  # the images in the cache
        self._logits: Logits | None = None  # behind the last of them
        self._made: tuple[Conversation, Prompt] | None = None  # the last prompt: it is read first and answered later

    def prompt(self, conversation: Conversation, images: Sequence[Any]) -> Prompt:
        """Make a prompt; the same `images` object for every question about one observation."""
        if self._made is None or self._made[1].images is not images or self._made[0] != conversation:
            self._made = conversation, self.prompter.make(conversation, images)
        return self._made[1]

    def read(self, prompt: Prompt, room: int) -> Logits:
        """Read a prompt, from the cache as far as it holds it; return the logits (V,) behind it."""
        if self._logits is not None and prompt.images is self._shown and prompt.ids == self._held:
            return self._logits
        keep = self.shared(prompt)
        self._logits, self._held = None, []  # nothing is held until it has been read
        logits = self.runner.read(prompt.inputs, keep, room)
        self._held, self._shown, self._logits = list(prompt.ids), prompt.images, logits
        return logits

    def reply(self, prompt: Prompt, limits: AnswerLimits, cancelled: Callable[[], bool] = never) -> Reply | None:
        """Decode an answer greedily; None when `cancelled` became true before it ended."""
        started = time.monotonic()
        if cancelled():
            return None
        logits = self.read(prompt, limits.max_tokens)
        rules = self.decoding.rules(len(prompt.ids), limits.max_tokens)
        stops = (*limits.stop, *self.decoding.stop_strings)
        ids: list[int] = []
        chances: list[float] = []
        score, complete = 0.0, False
        while len(ids) < limits.max_tokens:
            if cancelled():
                return None
            scores = logits if rules is None else rules([*prompt.ids, *ids], logits)
            token, log_probability, near = pick(scores, self._neighbours)
            chances.append(log_probability)
            score += near
            if token in self.decoding.stop_ids:
                complete = True
                break
            ids.append(token)
            if stops and self._stopped(ids, stops):
                complete = True
                break
            if len(ids) < limits.max_tokens:
                self._logits = None
                logits = self._logits = self.runner.extend(token)
                self._held.append(token)
        text = _cut(self.prompter.decode(ids, limits.keep_special), stops)
        return Reply(text, tuple(ids), complete, tuple(chances), score, time.monotonic() - started)

    def forget(self) -> None:
        """Read the next prompt whole."""
        self._held, self._shown, self._logits, self._made = [], None, None, None

    def close(self) -> None:
        """Free the model."""
        self.forget()
        self.runner.close()

    def shared(self, prompt: Prompt) -> int:
        """Count the tokens of a prompt that need not be read again."""
        if not self.reuses or prompt.images is not self._shown or not self._held:
            return 0
        shared = 0
        for mine, theirs in zip(self._held, prompt.ids[:-1], strict=False):  # the last one is read for its logits
            if mine != theirs:
                break
            shared += 1
        return shared if shared >= max(prompt.images_end, 1) and self.runner.can_keep(shared) else 0

    def _stopped(self, ids: list[int], stops: tuple[str, ...]) -> bool:
        tail = self.prompter.decode(ids[-STOP_WINDOW - max(map(len, stops)) :], keep_special=True)
        return any(stop in tail for stop in stops)


def images_of(arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """Wrap the images (H, W, 3) of one observation; what is no image (a packed vector scene) stays as it is."""
    return tuple(as_pil(array) if array.dtype == np.uint8 else array for array in arrays)


def _cut(text: str, stops: tuple[str, ...]) -> str:
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(places)] if places else text
