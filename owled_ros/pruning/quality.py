"""How well a model predicts held-out tokens. Needs torch and a loaded model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.pruning.config import Batch
from owled_ros.pruning.passes import LABEL_KEYS, in_words, takes_argument, to_device

IGNORED = -100  # the label of tokens that are not scored, as everywhere in transformers


@dataclass(frozen=True)
class Quality:
    """Mean negative log-likelihood per scored token [nat], and how many tokens were scored."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


def measure(model: nn.Module, batches: Iterable[Batch]) -> Quality:
    """Score every labelled token of the batches; without labels every token but the first is one."""
    parameter = next(model.parameters())
    total, tokens = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            moved = to_device(batch, parameter.device, parameter.dtype)
            loss, count = token_loss(model, moved)
            total += float(loss)
            tokens += count
    if tokens == 0:
        raise OwledError("no token to score: the batches hold no labels and no second token")
    return Quality(total / tokens, tokens)


def token_loss(model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, int]:
    """Return the summed loss of a batch on the model's device, differentiable, and the number of scored tokens."""
    labels = targets(batch)  # (B, T)
    inputs = {key: value for key, value in batch.items() if key not in LABEL_KEYS}
    if takes_argument(model, "use_cache"):
        inputs["use_cache"] = False
    with in_words("a batch that is scored"):
        logits = scored_logits(model(**inputs).logits, labels, "labels" in batch)  # (B, T, V)
    aligned = labels[:, 1:].flatten()  # (B T')
    wanted = aligned != IGNORED
    flat = logits[:, :-1].flatten(0, 1)[wanted].float()
    return nn.functional.cross_entropy(flat, aligned[wanted], reduction="sum"), int(wanted.sum())


def scored_logits(logits: torch.Tensor, labels: torch.Tensor, answers: bool) -> torch.Tensor:
    """Return the logits (B, T, V) that belong to the labels (B, T).

    Some models put an image's tokens before or into the text, so that there are more logits than labels. The answers stand
    at the end, where both agree; text without answers is scored from its first token, of which the same is not known.

    Raises:
        OwledError: when it is not clear which logits belong to which labels.
    """
    tokens = labels.shape[1]
    if logits.ndim == 3 and logits.shape[0] == labels.shape[0]:
        if logits.shape[1] == tokens:
            return logits
        if logits.shape[1] > tokens and answers:
            return logits[:, -tokens:]
    raise OwledError(
        f"the model gives logits {tuple(logits.shape)} for {tokens} tokens: it is not clear which belong to which. Calibrate it on "
        "frames with answers (--bag, --scenes), with a score and an allocation that need no loss, or on text alone"
    )


def targets(batch: dict[str, Any]) -> torch.Tensor:
    """Return the labels (B, T); without any, the input ids with padding ignored."""
    labels = batch.get("labels")
    if labels is None:
        if "input_ids" not in batch:
            raise OwledError("a batch needs labels or input_ids to measure the loss")
        labels = batch["input_ids"].clone()
        if isinstance(mask := batch.get("attention_mask"), torch.Tensor) and mask.shape == labels.shape:
            labels[mask == 0] = IGNORED
    return labels
