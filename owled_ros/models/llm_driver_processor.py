"""Prompts with vector scenes: a tokenizer, and packed scenes in the place that images have in other models. Needs transformers.

A scene stands in the text as one vector token; it becomes as many as the encoder has latents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.driving.vectors import unpack
from owled_ros.errors import OwledError
from owled_ros.files import write_atomic

PROCESSOR_NAME = "llm_driver_processor.json"
VECTOR_TOKEN = "<vectors>"


class SceneProcessor:
    """Checks packed scenes (81, 33) and makes a tensor of them."""

    def __call__(self, images: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Return `vectors` (B, 81, 33) float32 of scenes in a list, or in lists of one prompt each."""
        return {"vectors": torch.from_numpy(np.stack([unpack(scene).packed() for scene in _flat(images)]))}


class LlmDriverProcessor:
    """What models.prompt asks of a processor: tokens, scenes, the chat template."""

    image_token = VECTOR_TOKEN

    def __init__(self, tokenizer: Any, latents: int) -> None:
        self.tokenizer, self.latents = tokenizer, latents
        self.image_processor: Any = SceneProcessor()
        self.chat_template = tokenizer.chat_template
        self.image_token_id = tokenizer.convert_tokens_to_ids(VECTOR_TOKEN)

    def __call__(self, text: str | Sequence[str], images: Any = None, **options: Any) -> dict[str, Any]:
        """Tokenize text with its scenes."""
        texts = [text] if isinstance(text, str) else list(text)
        scenes = list(_flat(images)) if images is not None else []
        told = sum(one.count(VECTOR_TOKEN) for one in texts)
        if told != len(scenes):
            raise ValueError(f"{told} {VECTOR_TOKEN} in the text, {len(scenes)} scenes")
        expanded = [one.replace(VECTOR_TOKEN, VECTOR_TOKEN * self.latents) for one in texts]
        encoded = dict(self.tokenizer(expanded, **options))
        return {**encoded, **(dict(self.image_processor(images)) if scenes else {})}

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render turns; a part of type image is the scene."""
        return self.tokenizer.apply_chat_template(conversation, **{"tokenize": False, **options})

    def save_pretrained(self, directory: Path | str) -> None:
        """Write tokenizer and processor beside the weights."""
        self.tokenizer.save_pretrained(directory)
        write_atomic(Path(directory) / PROCESSOR_NAME, json.dumps({"latents": self.latents}) + "\n")

    @classmethod
    def from_pretrained(cls, directory: Path | str, **options: Any) -> LlmDriverProcessor:
        """Read what save_pretrained wrote.

        Raises:
            OwledError: the tokenizer has no vector token, or the file is missing or damaged.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(directory), **options)
        path = Path(directory) / PROCESSOR_NAME
        try:
            values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            latents = int(values["latents"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OwledError(f'{path} cannot be read ({error!r}); expected {{"latents": <number>}}') from error
        if VECTOR_TOKEN not in tokenizer.get_vocab():
            raise OwledError(f"the tokenizer of {directory} has no token {VECTOR_TOKEN}; it belongs to another model")
        return cls(tokenizer, latents)


def with_vector_token(tokenizer: Any) -> Any:
    """Give a host's tokenizer the vector token, and a pad token where it has none."""
    tokenizer.add_special_tokens({"additional_special_tokens": [VECTOR_TOKEN]})
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise OwledError("the host's tokenizer has neither a pad token nor an end token; give it one of them")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _flat(images: Any) -> Any:
    for item in images:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield np.asarray(item)
