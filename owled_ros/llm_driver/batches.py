"""Examples as tensors: prompts in the processor's template, padded to the longest. Needs torch.

Letters: B examples, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from owled_ros.llm_driver.examples import TRAINING_SEEDS, ActedScene, Example, Mix, make_example
from owled_ros.models.llm_driver_processor import VECTOR_TOKEN, LlmDriverProcessor

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """Tensors of one step."""

    inputs: dict[str, torch.Tensor]  # input_ids (B, T), vectors (B, 81, 33), attention_mask (B, T)
    labels: torch.Tensor  # (B, T), IGNORE where nothing is predicted

    def to(self, device: str) -> Batch:
        """Move to a device."""
        return Batch({name: value.to(device) for name, value in self.inputs.items()}, self.labels.to(device))


def prompt_text(processor: LlmDriverProcessor, question: str) -> str:
    """Write a question about one scene as the model's template has it, up to where the answer goes on."""
    said = VECTOR_TOKEN + question
    if not processor.chat_template:
        return said
    turns = [{"role": "user", "content": said}]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True))


def collate(processor: LlmDriverProcessor, examples: Sequence[Example]) -> Batch:
    """Pad examples on the right."""
    tokenizer: Any = processor.tokenizer
    rows = []
    for example in examples:
        asked = prompt_text(processor, example.question).replace(VECTOR_TOKEN, VECTOR_TOKEN * processor.latents)
        given = _ids(tokenizer, asked)
        said = _ids(tokenizer, example.answer) + ([] if example.open_end else [tokenizer.eos_token_id])
        rows.append((given + said, len(given)))
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), IGNORE)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for row, (tokens, start) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, start : len(tokens)] = ids[row, start : len(tokens)]
        mask[row, : len(tokens)] = 1
    scenes = torch.from_numpy(np.stack([example.scene.packed() for example in examples]))
    return Batch({"input_ids": ids, "vectors": scenes, "attention_mask": mask}, labels)


def training_batches(
    processor: LlmDriverProcessor, mix: Mix, released: Sequence[ActedScene], size: int, first: int
) -> Iterator[Batch]:
    """Yield batches from the sample `first` on, without end; the same ones for the same place."""
    while True:
        numbers = range(TRAINING_SEEDS + first, TRAINING_SEEDS + first + size)
        yield collate(processor, [make_example(number, mix, released) for number in numbers])
        first += size


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
