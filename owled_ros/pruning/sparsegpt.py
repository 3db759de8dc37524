"""SparseGPT for one matrix (arXiv 2301.00774, algorithm 1), and least squares for any fixed mask. Needs torch.

Letters: R outputs, K inputs. The Hessian of the layer's squared error is X^T X up to a factor, (K, K), float32.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from owled_ros.errors import OwledError
from owled_ros.pruning.scores import mask_groups

COLUMN_BLOCK = 128
DAMPING_TRIES = 5
NOT_INVERTIBLE = "the Hessian of a layer cannot be inverted: check the calibration for NaN or huge activations"
CONVERGED = 1e-7  # of the first squared gradient, about float32's resolution
logger = logging.getLogger(__name__)


def sparsegpt(
    weight: torch.Tensor, hessian: torch.Tensor, zeros: int, group: tuple[int, int] | None = None, damping: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune `zeros` weights of a matrix and return the corrected weight (R, K) float32 and the mask (R, K).

    Each block of 128 inputs gets its even share of the zeros, chosen over all rows at once by w^2 / [H^-1]_jj^2; the
    error of every zero is moved to the inputs after it.

    Args:
        group: (N, M) zeroes N of every M neighbouring inputs and ignores `zeros`.
        damping: share of the mean diagonal that is added to the diagonal; raised tenfold while H is not positive definite.
    """
    work = transposed(weight.float())  # (K, R): a column of W is a row here
    inverse = inverse_factor(hessian, damping)  # (K, K) upper
    columns, rows = work.shape
    mask = torch.zeros(columns, rows, dtype=torch.bool, device=work.device)  # (K, R)
    work.masked_fill_((hessian.diagonal() == 0)[:, None], 0.0)  # inputs that are always zero
    done = 0
    for start in range(0, columns, COLUMN_BLOCK):
        stop = min(start + COLUMN_BLOCK, columns)
        if group is None:
            share = zeros * stop // columns - done
            done += share
            saliency = (work[start:stop] / inverse.diagonal()[start:stop, None]).square()
            mask[start:stop] = lowest(saliency, share)
        errors = _prune_columns(work, mask, inverse, start, stop, group)
        work[stop:] -= inverse[start:stop, stop:].t() @ errors
    work.masked_fill_(mask, 0.0)
    return work.t().contiguous(), mask.t().contiguous()


def refine(
    weight: torch.Tensor,
    pruned: torch.Tensor,
    mask: torch.Tensor,
    hessian: torch.Tensor,
    steps: int,
    damping: float = 0.01,
) -> torch.Tensor:
    """Move the kept weights towards the least squares of their fixed mask: the one that reproduces W X best.

    Conjugate gradients on all rows at once, with the diagonal as preconditioner; each row has its own step. SparseGPT's
    greedy corrections stop well short of this optimum. No row becomes worse than it was. Costs `steps` products (R, K) x (K, K).

    Args:
        weight: the dense weight (R, K). pruned: where to start. mask: True stays zero.
    """
    whole = damped(hessian, damping)  # (K, K)
    scale = whole.diagonal()
    free = ~mask
    current = pruned.float()
    residual = ((weight.float() - current) @ whole) * free  # (R, K), minus the gradient
    direction = residual / scale
    strength = (residual * direction).sum(1, keepdim=True)  # (R, 1)
    noise = strength * CONVERGED  # below it a row only follows rounding errors: it rests
    for _ in range(steps):
        image = (direction @ whole) * free
        curvature = (direction * image).sum(1, keepdim=True)
        moves = (strength > noise) & (curvature > 0)
        step = torch.where(moves, strength / curvature, 0.0)
        current = current + step * direction
        residual = residual - step * image
        steep = residual / scale
        following = (residual * steep).sum(1, keepdim=True)
        direction = steep + torch.where(moves, following / strength, 0.0) * direction
        strength = torch.where(moves, following, 0.0)
    better = output_error(weight, current, whole) < output_error(weight, pruned, whole)  # False for NaN
    return torch.where(better, current, pruned.float())


def transposed(matrix: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy of the transpose: of a single row too, whose transpose is contiguous as it is."""
    return matrix.t().clone(memory_format=torch.contiguous_format)


def damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Return a float32 copy of the Hessian with a share of its mean diagonal added to the diagonal."""
    whole = hessian.float().clone()
    whole.diagonal().add_(damping * whole.diagonal().mean().clamp(min=1e-30))
    return whole


def output_error(weight: torch.Tensor, other: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Return the squared error of each row's output (R, 1)."""
    difference = weight.float() - other.float()
    return ((difference @ hessian) * difference).sum(1, keepdim=True)


def inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the upper Cholesky factor of the inverse of the damped Hessian (K, K).

    Raises:
        OwledError: when it is not positive definite with any damping tried.
    """
    hessian = hessian.float().clone()
    diagonal = hessian.diagonal()
    diagonal.masked_fill_(diagonal == 0, 1.0)
    mean = diagonal.mean()
    for attempt in range(DAMPING_TRIES):
        stronger = hessian.clone()
        stronger.diagonal().add_(damping * 10**attempt * mean)
        lower, failed = torch.linalg.cholesky_ex(stronger)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and upper.isfinite().all():
            if attempt:
                logger.warning("Hessian not positive definite: damping raised to %g", damping * 10**attempt)
            return upper
    raise OwledError(NOT_INVERTIBLE)


def _prune_columns(
    work: torch.Tensor, mask: torch.Tensor, inverse: torch.Tensor, start: int, stop: int, group: tuple[int, int] | None
) -> torch.Tensor:
    """Correct inputs start..stop for the masked weights before them; return the scaled errors (stop - start, R).

    Two operations an input, as a GPU waits for the launches of this loop: a kept weight is divided by infinity, its error is 0.
    """
    diagonal = inverse.diagonal()[:, None]  # (K, 1)
    errors = torch.empty_like(work[start:stop])
    divisors = diagonal[start:stop].where(mask[start:stop], torch.inf)  # (stop - start, R)
    for column in range(start, stop):
        if group is not None and column % group[1] == 0:
            ahead = slice(column, column + group[1])
            saliency = (work[ahead] / diagonal[ahead]).square()
            mask[ahead] = mask_groups(saliency.t().contiguous(), *group).t()
            divisors[column - start : column - start + group[1]] = diagonal[ahead].where(mask[ahead], torch.inf)
        error = torch.div(work[column], divisors[column - start], out=errors[column - start])  # (R,)
        if column + 1 < stop:
            work[column + 1 : stop].addr_(inverse[column, column + 1 : stop], error, alpha=-1.0)
    return errors


def lowest(saliency: torch.Tensor, count: int) -> torch.Tensor:
    """Mark exactly the `count` lowest values; of equal values the first ones."""
    if count == 0:
        return torch.zeros_like(saliency, dtype=torch.bool)
    select = _lowest_by_value if saliency.device.type == "cpu" else lowest_by_order
    return select(saliency.flatten(), count).view_as(saliency)


def _lowest_by_value(flat: torch.Tensor, count: int) -> torch.Tensor:
    border = torch.tensor(np.partition(flat.numpy(), count - 1)[count - 1])  # numpy's selection is vectorised
    below = flat < border
    ties = (flat == border).nonzero().flatten()[: count - int(below.sum())]
    below[ties] = True
    return below


def lowest_by_order(flat: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the `count` lowest values without a word to the host, of equal ones the first: a GPU sorts faster than it selects."""
    order = flat.sort(stable=True).indices
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order[:count], True)
