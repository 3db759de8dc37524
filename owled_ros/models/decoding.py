"""Greedy decoding as a model's generation_config wants it: end tokens, penalties, forbidden tokens. Needs torch and transformers.

The rules are transformers' own logits processors. What belongs to sampling (temperature, top_p) and to searches (beams,
guidance) does not count: the engine decodes greedily.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import GenerationMixin

from owled_ros.errors import OwledError
from owled_ros.models.choice import DeviceLogits

IGNORED = {
    "num_beams": (None, 1),
    "guidance_scale": (None, 1, 1.0),
    "penalty_alpha": (None,),
    "num_beam_groups": (None, 1),
}
Rules = Callable[[list[int], np.ndarray | DeviceLogits], np.ndarray]  # (ids so far, logits (V,)) -> scores (V,)
logger = logging.getLogger(__name__)


class Decoding(GenerationMixin):
    """The settings of one model, without the model."""

    def __init__(self, config: Any, generation_config: Any, tokenizer: Any) -> None:
        self.config, self.generation_config = config, generation_config
        self.stop_ids = _stop_ids(generation_config, tokenizer)
        self.stop_strings = tuple(_listed(getattr(generation_config, "stop_strings", None)))
        self._has_rules = bool(self._processors(1, 1))
        for name, usual in IGNORED.items():
            if getattr(generation_config, name, None) not in usual:
                logger.warning("generation_config sets %s: it does not count, the engine decodes greedily", name)

    def rules(self, prompt_tokens: int, max_tokens: int) -> Rules | None:
        """Make the rules for one answer; None where the logits count as they are."""
        if not self._has_rules:
            return None
        processors = self._processors(prompt_tokens, max_tokens)

        def apply(ids: list[int], logits: np.ndarray | DeviceLogits) -> np.ndarray:
            scores = torch.from_numpy(np.array(logits, np.float32))[None]  # (1, V)
            return np.asarray(processors(torch.tensor([ids]), scores)[0].numpy())

        return apply

    def _processors(self, prompt_tokens: int, max_tokens: int) -> Any:
        hooks: Any = self
        settings, _ = hooks._prepare_generation_config(None, do_sample=False, num_beams=1, max_new_tokens=max_tokens)
        settings.guidance_scale = None
        settings.eos_token_id = sorted(self.stop_ids)
        hooks._prepare_special_tokens(settings, True, device="cpu", batch_size=1)
        settings.max_length = prompt_tokens + max_tokens
        return hooks._get_logits_processor(settings, input_ids_seq_length=prompt_tokens, device="cpu")


def pick(
    scores: np.ndarray | DeviceLogits, neighbours: Mapping[int, np.ndarray] | None = None
) -> tuple[int, float, float]:
    """Return the best token, its log probability, and that of it and its neighbours together."""
    if isinstance(scores, DeviceLogits):
        return scores.choice()
    token = int(np.argmax(scores))
    shares = np.exp((scores - scores[token]).astype(np.float64))
    total = float(shares.sum())
    near = float(shares[neighbours[token]].sum()) if neighbours and token in neighbours else 1.0
    return token, float(-np.log(total)), float(np.log(near / total))


def _stop_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Give the end tokens that `generate` stops at; the tokenizer's where the model names none."""
    named = _listed(getattr(generation_config, "eos_token_id", None)) or _listed(tokenizer.eos_token_id)
    if not named:
        raise OwledError("the model names no end-of-sequence token; add eos_token_id to generation_config.json")
    return frozenset(int(index) for index in named)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
