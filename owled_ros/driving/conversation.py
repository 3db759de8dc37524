"""A chat with a model as data: turns of text and images in prompt order, and how long the answer may be. Needs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Slot(Enum):
    """What stands in a turn where no text stands."""

    IMAGE = "image"  # the next image in prompt order


IMAGE = Slot.IMAGE


@dataclass(frozen=True)
class Turn:
    """What one side says: texts and images in order."""

    role: str  # "system", "user" or "assistant"
    parts: tuple[str | Slot, ...]


@dataclass(frozen=True)
class Conversation:
    """Turns, to be answered by the model."""

    turns: tuple[Turn, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # of the chat template, such as enable_thinking
    answer_start: str = ""  # text that the answer is made to begin with; not part of the reply

    @property
    def images(self) -> int:
        """How many images it shows."""
        return sum(part is IMAGE for turn in self.turns for part in turn.parts)


@dataclass(frozen=True)
class AnswerLimits:
    """Where an answer ends, and how its text is written."""

    max_tokens: int
    stop: tuple[str, ...] = ()  # the answer is complete where one of these appears; the text ends before it
    keep_special: bool = False  # keep special tokens (action tokens, reasoning marks) in the text
