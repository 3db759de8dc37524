"""Zeros and the weights that stay chosen together for one matrix, by ADMM (arXiv 2401.02938, section 3.3). Needs torch.

The squared error of the layer's output is minimised over weights X that must equal a sparse Z. Both meet in STEPS steps: X is a ridge
regression towards Z, Z is X without its smallest weights, and the multipliers U keep account of what they still differ by. Inputs are
scaled to the same norm first, so that small means what it means to Wanda. The zeros become more from step to step, most of them at
once and the last few slowly: the paper lets the share grow as the cube of the step, its mirror image leaves less error.
Letters: R outputs, K inputs.
"""

from __future__ import annotations

import torch

from owled_ros.errors import OwledError
from owled_ros.pruning.scores import mask_groups
from owled_ros.pruning.sparsegpt import NOT_INVERTIBLE, damped, lowest

STEPS, GROWING = 35, 30  # in all, and those in which the zeros become more
PENALTY = 1.0  # rho, beside the scaled Hessian's diagonal of ones


def admm(
    weight: torch.Tensor, hessian: torch.Tensor, zeros: int, group: tuple[int, int] | None = None, damping: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune `zeros` weights of a matrix and return the weight (R, K) float32 whose kept ones make up for them, and the mask (R, K).

    The zeros are chosen over all rows at once. Costs STEPS + 1 products (R, K) x (K, K) and one inverse.

    Args:
        group: (N, M) zeroes N of every M neighbouring inputs and ignores `zeros`.
        damping: share of the mean diagonal of the Hessian (K, K) that is added to its diagonal.
    """
    whole = damped(hessian, damping)
    norms = whole.diagonal().sqrt()  # (K,)
    whole /= norms[:, None] * norms
    scaled = (weight.float() * norms).masked_fill(hessian.diagonal() == 0, 0.0)  # inputs that are always zero
    target = scaled @ whole
    whole.diagonal().add_(PENALTY)
    factor, failed = torch.linalg.cholesky_ex(whole)
    if failed or not bool(factor.isfinite().all()):
        raise OwledError(NOT_INVERTIBLE)
    inverse = torch.cholesky_inverse(factor)
    if group is not None:
        zeros = scaled.numel() * group[0] // group[1]
    sparse, multiplier = scaled, torch.zeros_like(scaled)
    mask = torch.zeros_like(scaled, dtype=torch.bool)
    for step in range(1, STEPS + 1):
        free = (target + PENALTY * (sparse - multiplier)) @ inverse + multiplier  # X + U
        if step <= GROWING:
            mask = _smallest(free.abs(), round(zeros * (1 - (1 - step / GROWING) ** 3)), group)
        sparse = free.masked_fill(mask, 0.0)
        multiplier = free - sparse
    return sparse / norms, mask


def _smallest(size: torch.Tensor, count: int, group: tuple[int, int] | None) -> torch.Tensor:
    """Mark the `count` smallest, of those that a pattern may zero."""
    if group is not None:
        size = size.where(mask_groups(size, *group), torch.inf)
    return lowest(size, count)
