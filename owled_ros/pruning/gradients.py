"""Mean absolute loss gradient of every prunable weight, for Pruner-Zero (arXiv 2406.02924). Needs torch.

Costs one backward pass per batch and a float32 copy of the prunable weights. Letters: R outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from owled_ros.models.components import Structure
from owled_ros.pruning.config import Batch
from owled_ros.pruning.passes import to_device
from owled_ros.pruning.quality import token_loss


def dense_gradients(model: nn.Module, structure: Structure, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """Return the sum over batches of |dL/dW| (R, K) by matrix name; the model is left as it was.

    Per batch rather than per sequence where a batch holds several; the metric is scaled to [0, 1] afterwards.
    """
    matrices = [matrix for block in structure.blocks for matrix in block.matrices]
    sums = {matrix.name: torch.zeros(matrix.rows, matrix.columns, device=matrix.weight().device) for matrix in matrices}
    by_parameter: dict[int, list[int]] = {}
    for place, matrix in enumerate(matrices):
        by_parameter.setdefault(id(getattr(matrix.module, matrix.parameter)), []).append(place)

    def collect(parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        for place in by_parameter[id(parameter)]:
            matrix = matrices[place]
            part = gradient if matrix.expert is None else gradient[matrix.expert]
            sums[matrix.name] += (part.t() if matrix.transposed else part).abs()
        parameter.grad = None

    wanted = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    hooks = []
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in by_parameter)
            if id(parameter) in by_parameter:
                hooks.append(parameter.register_post_accumulate_grad_hook(collect))
        first = next(model.parameters())
        for batch in batches:
            with torch.enable_grad():
                loss, _ = token_loss(model, to_device(batch, first.device, first.dtype))
                loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in model.parameters():
            parameter.requires_grad_(wanted[id(parameter)])
    return sums
