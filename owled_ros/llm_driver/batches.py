"""Examples as tensors: prompts in the processor's template, padded to the longest. Needs torch.

Letters: B examples, R rows, T tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from owled_ros.llm_driver.examples import TRAINING_SEEDS, ActedScene, Example, Mix, make_examples
from owled_ros.models.llm_driver_processor import VECTOR_TOKEN, LlmDriverProcessor

IGNORE = -100
DECIMALS = re.compile(r"(?<=\d\.)\d+")
AMOUNTS = re.compile(r"(?<=pedal )\d+|(?<=steer )\d+")  # of an action, in percent
NO_AMOUNT = math.nan
WEIGHT_OF_DECIMALS = 0.1  # hardly to be foretold, and worth little: at full weight their noise hides the metres


@dataclass(frozen=True)
class Batch:
    """Tensors of one step. Several questions about one scene may share a row: each sees the scene and itself."""

    inputs: dict[str, torch.Tensor]
    # input_ids (R, T), vectors (R, 81, 33), attention_mask (R, T); packed: (R, 1, T, T) bool, and position_ids (R, T)
    labels: torch.Tensor  # (R, T), IGNORE where nothing is predicted
    weights: torch.Tensor  # (R, T) of the labels in the loss
    amounts: torch.Tensor  # (R, T) what the label says of a pedal or the steering [%]; NaN: it says something else

    def to(self, device: str) -> Batch:
        """Move to a device."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(inputs, self.labels.to(device), self.weights.to(device), self.amounts.to(device))


@dataclass(frozen=True)
class NumberWords:
    """Which tokens are whole numbers; V tokens that a model can say."""

    other: torch.Tensor  # (V,) bool: is none
    values: torch.Tensor  # (V,), 0 for others

    @classmethod
    def of(cls, processor: LlmDriverProcessor, size: int, device: str) -> NumberWords:
        """Find them in a vocabulary of a model that can say `size` tokens."""
        other, values = torch.ones(size, dtype=torch.bool), torch.zeros(size)
        for word, token in processor.tokenizer.get_vocab().items():
            if _is_whole(word):
                other[token], values[token] = False, float(word)
        return cls(other.to(device), values.to(device))


def prompt_text(processor: LlmDriverProcessor, question: str) -> str:
    """Write a question about one scene as the model's template has it, up to where the answer goes on."""
    said = VECTOR_TOKEN + question
    if not processor.chat_template:
        return said
    turns = [{"role": "user", "content": said}]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True))


def collate(processor: LlmDriverProcessor, examples: Sequence[Example]) -> Batch:
    """Give every example a row of its own, padded on the right."""
    table = _table(processor, [[example] for example in examples])
    return table.batch({"attention_mask": (table.part >= 0).long()})


def pack(processor: LlmDriverProcessor, scenes: Sequence[Sequence[Example]]) -> Batch:
    """Give every scene a row for all questions about it: the scene is read once, and no question sees another one."""
    table = _table(processor, scenes)
    asking, asked = table.part[:, :, None], table.part[:, None, :]
    seen = ((asked == 0) | (asked == asking)).tril()  # padding sees itself, which no loss sees
    return table.batch({"attention_mask": seen[:, None], "position_ids": table.position})


def training_batches(
    processor: LlmDriverProcessor, mix: Mix, released: Sequence[ActedScene], size: int, first: int
) -> Iterator[Batch]:
    """Yield batches from the scene `first` on, without end; the same ones for the same place. The next is made meanwhile."""

    def make(first: int) -> Batch:
        numbers = range(TRAINING_SEEDS + first, TRAINING_SEEDS + first + size)
        return pack(processor, [make_examples(number, mix, released) for number in numbers])

    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(make, first)
        while True:
            batch, first = coming.result(), first + size
            coming = maker.submit(make, first)
            yield batch


@dataclass(frozen=True)
class _Table:
    """Tokens of rows (R, T): a row begins with its scene (part 0), then come its questions with answers (parts 1, 2, ...)."""

    ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    amounts: torch.Tensor
    part: torch.Tensor  # -1: padding
    position: torch.Tensor  # as if every question were the first one
    vectors: torch.Tensor  # (R, 81, 33)

    def batch(self, how: dict[str, torch.Tensor]) -> Batch:
        """Make a batch in which `how` says what sees what."""
        return Batch({"input_ids": self.ids, "vectors": self.vectors, **how}, self.labels, self.weights, self.amounts)


def _table(processor: LlmDriverProcessor, scenes: Sequence[Sequence[Example]]) -> _Table:
    rows = [_row(processor, examples) for examples in scenes]
    length = max(len(row[0]) for row in rows)
    empty = (processor.tokenizer.pad_token_id, IGNORE, 1.0, NO_AMOUNT, -1, 0)
    ids, labels, weights, amounts, part, position = (
        torch.tensor([list(row[kind]) + [nothing] * (length - len(row[kind])) for row in rows])
        for kind, nothing in enumerate(empty)
    )
    vectors = torch.from_numpy(np.stack([examples[0].scene.packed() for examples in scenes]))
    return _Table(ids, labels, weights, amounts, part, position, vectors)


def _row(processor: LlmDriverProcessor, examples: Sequence[Example]) -> tuple[Sequence[float], ...]:
    """Write questions about one scene: id, label, weight, amount, part and position of every token."""
    tokenizer: Any = processor.tokenizer
    tokens: list[tuple[float, ...]] = []
    for part, example in enumerate(examples, start=1):
        asked = prompt_text(processor, example.question).replace(VECTOR_TOKEN, VECTOR_TOKEN * processor.latents)
        given = tokenizer(asked, add_special_tokens=False).input_ids
        scene = len(given) - given[::-1].index(tokenizer.convert_tokens_to_ids(VECTOR_TOKEN))  # with all before it
        if part == 1:
            tokens += [(token, IGNORE, 1.0, NO_AMOUNT, 0, place) for place, token in enumerate(given[:scene])]
        tokens += [
            (token, IGNORE, 1.0, NO_AMOUNT, part, place) for place, token in enumerate(given[scene:], start=scene)
        ]
        said = tokenizer(example.answer, add_special_tokens=False, return_offsets_mapping=True)
        light, amounts = (_within(kind, example.answer) for kind in (DECIMALS, AMOUNTS))
        for place, (token, (first, end)) in enumerate(
            zip(said.input_ids, said.offset_mapping, strict=True), start=len(given)
        ):
            weight = WEIGHT_OF_DECIMALS if light(first, end) else 1.0
            word = example.answer[first:end]
            amount = float(word) if amounts(first, end) and _is_whole(word) else NO_AMOUNT
            tokens.append((token, token, weight, amount, part, place))
        if not example.open_end:
            ends = tokenizer.eos_token_id
            tokens.append((ends, ends, 1.0, NO_AMOUNT, part, len(given) + len(said.input_ids)))
    return tuple(zip(*tokens, strict=True))


def _within(kind: re.Pattern[str], text: str) -> Callable[[int, int], bool]:
    """Tell whether characters lie in a match."""
    spans = [match.span() for match in kind.finditer(text)]
    return lambda first, end: any(start <= first and end <= stop for start, stop in spans)


def _is_whole(word: str) -> bool:
    return word.isdecimal() and word.isascii() and (word == "0" or not word.startswith("0"))
