"""Round both ends of a model, embedding and output matrix, which pruning leaves alone. Needs torch.

The output matrix is rounded by what enters it: to nearest it would cost the logits much. Where it is the embedding too, an error of a
row also enters the model, so that its inputs count as seen from every side as well. An embedding of its own loses little to nearest.
Letters: V words, K hidden size, G groups.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.pruning.config import Batch
from owled_ros.pruning.on_grid import round_kept
from owled_ros.pruning.passes import LABEL_KEYS, in_words, takes_argument, to_device, token_mask
from owled_ros.pruning.rounding import Grid
from owled_ros.pruning.statistics import InputStatistics

ROWS = 1 << 14  # words rounded at a time: a float32 copy of some vocabularies takes gigabytes
EVERY_SIDE = 0.3  # of the mean square input, added for inputs from every side where the matrix is the embedding too
logger = logging.getLogger(__name__)


def round_ends(
    model: nn.Module,
    batches: Sequence[Batch],
    grid: Grid,
    damping: float = 0.01,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, torch.Tensor]:
    """Round a model's output matrix, by its inputs in the model as it is now, and its embedding, in place.

    Args:
        damping: as with the matrices of the blocks.
        report: called with the words done and all words.

    Returns:
        The scales (V, G) by the names of the matrices, the embedding's where both are one; nothing where there is no output matrix, no
        token reached it, or the model cannot run without it.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if type(head) is not nn.Linear:
        return {}
    table = model.get_input_embeddings()  # type: ignore[operator]
    tied = getattr(table, "weight", None) is head.weight
    name = _name_of(model, table if tied else head)
    try:
        with in_words("the calibration without its output matrix"):
            seen = inputs_of(model, head, batches)
    except OwledError as err:  # the blocks are pruned: nothing of that is given up
        logger.warning("embedding and output matrix are not rounded: %s", err)
        return {}
    seen.check(name)
    hessian = seen.hessian
    if hessian is None or not bool(seen.squares.any()):
        return {}
    if tied:
        hessian.diagonal().add_(EVERY_SIDE * hessian.diagonal().mean())
    matrices: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {name: (head.weight, hessian)}
    if not tied and type(table) is nn.Embedding:
        matrices[_name_of(model, table)] = (table.weight, None)
    total, done = sum(len(weight) for weight, _ in matrices.values()), 0
    scales: dict[str, list[torch.Tensor]] = {name: [] for name in matrices}
    with torch.no_grad(), torch.autocast(hessian.device.type, enabled=False):
        for name, (whole, inputs) in matrices.items():
            for part in whole.split(ROWS):
                weight, nothing = part.float(), torch.zeros_like(part, dtype=torch.bool)
                found, of_part = round_kept(weight, weight, nothing, grid, inputs, damping)
                part.copy_(found)
                scales[name].append(of_part)
                done += len(part)
                report(done, total)
    return {name: torch.cat(found) for name, found in scales.items()}


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


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
