"""Questions with their answers as the tensors that a model is trained on. Needs torch and models.prompt.

The prompt is token for token what the engine reads in driving, the answer follows as the processor writes it, with the end at
which the engine stops; only the answer and its end are learned. Letters: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from owled_ros.driving.conversation import Conversation
from owled_ros.errors import OwledError
from owled_ros.models.prompt import Prompter

IGNORED = -100  # label of a token that is not learned
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One question with its answer."""

    tensors: Tensors  # leading axis 1; input_ids, labels and what else the model's forward takes
    answer: tuple[int, ...]  # the learned tokens, without the end
    prompt_tokens: int


def encode(
    prompter: Prompter,
    conversation: Conversation,
    images: Sequence[Any],
    answer: str,
    stop_ids: frozenset[int],
    finished: bool = True,
) -> Encoded:
    """Encode a question about PIL images and its answer.

    Args:
        stop_ids: tokens at which the engine ends an answer; one of them is learned behind it.
        finished: False for an answer that was cut off: then no end is learned.
    """
    asked = prompter.make(conversation, images)
    whole, _ = prompter.make_answered(conversation, images, answer, asked)
    start = len(asked.ids)
    told = whole.ids[start:] if whole.ids[:start] == asked.ids else []
    end = next((place for place, token in enumerate(told) if token in stop_ids), None)
    if end is None or not told:  # the template ends a turn otherwise, or its tokens change where prompt and answer meet
        said = prompter.tokenizer(answer, add_special_tokens=False).input_ids
        told, end = [*said, _stop(prompter, stop_ids)], len(said)
    said, stop = tuple(told[:end]), told[end]
    if not said:
        raise OwledError(f"the answer {answer!r} has no tokens in the model's tokenizer")
    ids = torch.tensor([[*asked.ids, *said, *([stop] if finished else [])]])  # (1, T)
    labels = ids.clone()
    labels[:, :start] = IGNORED
    tensors = {
        name: _as_long_as(value, start, ids.shape[1], name)
        for name, value in asked.inputs.items()
        if isinstance(value, torch.Tensor) and name != "input_ids"
    }
    return Encoded({"input_ids": ids, **tensors, "labels": labels}, said, start)


def stacked(parts: Sequence[Encoded], pad_id: int) -> list[Tensors]:
    """Put sequences into batches: those whose images have one shape share one, shorter ones are filled up at their end."""
    groups: dict[tuple[Any, ...], list[Encoded]] = {}
    for part in parts:
        groups.setdefault(_shape_of(part), []).append(part)
    return [_joined([part.tensors for part in group], pad_id) for group in groups.values()]


def learned_tokens(batch: Mapping[str, torch.Tensor]) -> int:
    """Count the tokens that a batch teaches."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def _stop(prompter: Prompter, stop_ids: frozenset[int]) -> int:
    end = prompter.tokenizer.eos_token_id
    return end if end in stop_ids else min(stop_ids)


def _as_long_as(value: torch.Tensor, start: int, length: int, name: str) -> torch.Tensor:
    """Let what is said of every token of the prompt be said of the answer's too: seen, of no image."""
    if value.ndim < 2 or value.shape[:2] != (1, start):
        return value
    last = torch.ones_like(value[:, :1]) if name == "attention_mask" else value[:, -1:]
    return torch.cat([value, last.expand(1, length - start, *value.shape[2:])], dim=1)


def _shape_of(part: Encoded) -> tuple[Any, ...]:
    length = part.tensors["input_ids"].shape[1]
    shapes = []
    for name, value in sorted(part.tensors.items()):
        of_tokens = value.ndim >= 2 and value.shape[:2] == (1, length)
        shapes.append((name, tuple(value.shape[2:] if of_tokens else value.shape), value.dtype))
    return tuple(shapes)


def _joined(parts: Sequence[Tensors], pad_id: int) -> Tensors:
    longest = max(part["input_ids"].shape[1] for part in parts)
    fill = {"input_ids": pad_id, "labels": IGNORED}
    return {
        name: torch.cat([_filled(part[name], part["input_ids"].shape[1], longest, fill.get(name, 0)) for part in parts])
        for name in parts[0]
    }


def _filled(value: torch.Tensor, length: int, longest: int, fill: int) -> torch.Tensor:
    if length == longest or value.ndim < 2 or value.shape[:2] != (1, length):
        return value
    extra = value.new_full((1, longest - length, *value.shape[2:]), fill)
    return torch.cat([value, extra], dim=1)
