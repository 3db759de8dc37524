"""Round the output matrix by what enters it: the logits then keep nearly what four bits would cost them. Needs torch.

It is the one large matrix outside the blocks that a token reads whole. Where it is the embedding too, an error of a row also
enters the model, so that its inputs count as seen from every side as well. Letters: V words, K hidden size, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from owled_ros.pruning.config import Batch
from owled_ros.pruning.on_grid import settle, sweep
from owled_ros.pruning.passes import LABEL_KEYS, in_words, takes_argument, to_device, token_mask
from owled_ros.pruning.rounding import Grid
from owled_ros.pruning.statistics import InputStatistics

ROWS = 1 << 14  # words rounded at a time: a float32 copy of some vocabularies takes gigabytes
EVERY_SIDE = 0.3  # of the mean square input, added for inputs from every side where the matrix is the embedding too


def round_head(
    model: nn.Module,
    batches: Sequence[Batch],
    grid: Grid,
    damping: float = 0.01,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, torch.Tensor]:
    """Round a model's output matrix in place, by its inputs in the model as it is now.

    Args:
        damping: as with the matrices of the blocks.
        report: called with the words done and all words.

    Returns:
        The scales (V, G) by the name of the matrix, the embedding's where both are one; nothing where there is no such matrix, or no
        token reached it.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if type(head) is not nn.Linear:
        return {}
    table = model.get_input_embeddings()  # type: ignore[operator]
    tied = getattr(table, "weight", None) is head.weight
    name = next(name for name, module in model.named_modules() if module is (table if tied else head))
    with in_words("the calibration"):
        seen = inputs_of(model, head, batches)
    seen.check(name)
    hessian = seen.hessian
    if hessian is None or not bool(seen.squares.any()):
        return {}
    if tied:
        hessian.diagonal().add_(EVERY_SIDE * hessian.diagonal().mean())
    scales, done = [], 0
    with torch.no_grad(), torch.autocast(hessian.device.type, enabled=False):
        for part in head.weight.split(ROWS):
            weight, nothing = part.float(), torch.zeros_like(part, dtype=torch.bool)
            swept, _, found = sweep(weight, hessian, 0, grid, damping=damping, mask=nothing)
            part.copy_(settle(weight, swept, nothing, found, grid, hessian, damping=damping))
            scales.append(found)
            done += len(part)
            report(done, len(head.weight))
    return {name: torch.cat(scales)}


def inputs_of(model: nn.Module, head: nn.Linear, batches: Sequence[Batch]) -> InputStatistics:
    """Run the model without its output matrix and return the statistics of what would enter it."""
    seen = InputStatistics.empty(head.in_features, True, head.weight.device)
    mask: torch.Tensor | None = None

    def note(hidden: torch.Tensor) -> torch.Tensor:
        seen.add(hidden, mask)
        return hidden[..., :1]  # logits of a single word, which nobody reads

    more: dict[str, Any] = {"use_cache": False} if takes_argument(model, "use_cache") else {}
    head.forward = note  # type: ignore[assignment, method-assign]
    try:
        with torch.no_grad():
            for batch in batches:
                inputs = to_device(batch, head.weight.device, head.weight.dtype)
                mask = token_mask(inputs)
                model(**{key: value for key, value in inputs.items() if key not in LABEL_KEYS}, **more)
    finally:
        del head.forward
    return seen
