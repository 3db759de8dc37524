"""Optional recovery: a short distillation of the pruned model from the dense one, in which no zero ever comes back.

Needs torch and both models. Only the prunable matrices learn, and masks are fixed before the first step; of a rounded model scales, gains
and biases learn, and its codes are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Structure
from owled_ros.pruning.config import Batch
from owled_ros.pruning.fitted import Fitted, parameters_of
from owled_ros.pruning.passes import LABEL_KEYS, in_words, takes_argument, to_device
from owled_ros.pruning.quality import IGNORED, scored_logits, targets

RATE = 1e-4  # Adam's step on weights at the start; falls to zero as a half cosine
CLIP = 1.0  # largest norm of all gradients of a step on weights
TEXT_KEYS = {"input_ids", "attention_mask", "labels"}


def recover(
    model: nn.Module,
    dense: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    steps: int,
    seed: int,
    report: Callable[[int, int, float], None] = lambda done, total, loss: None,
    fitted: Fitted | None = None,
) -> None:
    """Train the kept weights in place towards the dense model's token distribution (forward KL, scored tokens only).

    Costs per step one pass of the dense model and about three of the pruned one; Adam keeps two float32 values per weight.

    Args:
        fitted: what learns in place of the weights, as `BesideCodes`. So few numbers need few tokens a step: one text.
    """
    matrices = [matrix for block in structure.blocks for matrix in block.matrices]
    trained = fitted.parameters if fitted else parameters_of(matrices)
    kept = {} if fitted else {matrix.name: matrix.weight() != 0 for matrix in matrices}
    learning = fitted.steps if fitted else [(parameter, RATE) for parameter in trained]
    samples = texts_of(batches) if fitted else batches
    groups = [{"params": [tensor], "lr": first} for tensor, first in learning]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98))
    wanted = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    chosen = {id(parameter) for parameter in trained}
    generator = np.random.default_rng(seed)
    queue: list[int] = []
    first = next(model.parameters())
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        for step in range(steps):
            if not queue:
                queue = list(generator.permutation(len(samples)))
            batch = to_device(samples[queue.pop()], first.device, first.dtype)
            with torch.enable_grad():
                loss = distillation_loss(model, dense, batch)
                loss.backward()
            if not math.isfinite(float(loss.detach())):
                raise OwledError("the loss became NaN during recovery: prune without recovery_steps")
            if fitted:
                fitted.pull()
            else:
                nn.utils.clip_grad_norm_(trained, CLIP)
            for group, (_, start) in zip(optimizer.param_groups, learning, strict=True):
                group["lr"] = start * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
            for parameter in trained:
                parameter.grad = None
            if fitted:
                fitted.push()
            else:
                for matrix in matrices:
                    matrix.weight().mul_(kept[matrix.name])
            report(step + 1, steps, float(loss.detach()))
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(wanted[id(parameter)])


def texts_of(batches: Sequence[Batch]) -> list[Batch]:
    """Cut batches of nothing but text into their sequences, but for those that score no token; others stay whole."""
    found: list[Batch] = []
    for batch in batches:
        if set(batch) - TEXT_KEYS:
            found.append(batch)
            continue
        rows = (
            {key: value[place : place + 1] for key, value in batch.items()} for place in range(len(batch["input_ids"]))
        )
        found += [row for row in rows if bool((targets(row)[:, 1:] != IGNORED).any())]
    if not found:
        raise OwledError(
            "no token to score: the batches hold no labels and no second token; prune without recovery_steps"
        )
    return found


def distillation_loss(model: nn.Module, dense: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Return KL(dense || pruned) per scored token [nat]."""
    labels = targets(batch)
    aligned = labels[:, 1:].flatten() != IGNORED  # (B T')
    inputs = {key: value for key, value in batch.items() if key not in LABEL_KEYS}
    if takes_argument(model, "use_cache"):
        inputs["use_cache"] = False

    def answer(of: nn.Module) -> torch.Tensor:
        logits = scored_logits(of(**inputs).logits, labels, "labels" in batch)
        return logits[:, :-1].flatten(0, 1)[aligned].float().log_softmax(-1)  # (N, V)

    with in_words("a batch of the recovery"), torch.no_grad():
        teacher = answer(dense)
    with in_words("a batch of the recovery"):
        student = answer(model)
    return nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
