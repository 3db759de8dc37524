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
    work = weight.float().t().contiguous()  # (K, R): a column of W is a row here
    inverse = inverse_factor(hessian, damping)  # (K, K) upper
    columns, rows = work.shape
    mask = torch.zeros(columns, rows, dtype=torch.bool, device=work.device)  # (K, R)
    dead = hessian.diagonal() == 0
    work[dead] = 0.0
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
    diagonal[diagonal == 0] = 1.0
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
    raise OwledError("the Hessian of a layer cannot be inverted: check the calibration for NaN or huge activations")


def _prune_columns(
    work: torch.Tensor, mask: torch.Tensor, inverse: torch.Tensor, start: int, stop: int, group: tuple[int, int] | None
) -> torch.Tensor:
    """Zero the masked weights of inputs start..stop one input at a time; return the scaled errors (stop - start, R)."""
    errors = torch.zeros_like(work[start:stop])
    for column in range(start, stop):
        if group is not None and column % group[1] == 0:
            ahead = slice(column, column + group[1])
            saliency = (work[ahead] / inverse.diagonal()[ahead, None]).square()
            mask[ahead] = mask_groups(saliency.t().contiguous(), *group).t()
        error = (work[column] * mask[column]) / inverse[column, column]  # (R,)
        work[column:stop].addr_(inverse[column, column:stop], error, alpha=-1.0)
        errors[column - start] = error
    return errors


def lowest(saliency: torch.Tensor, count: int) -> torch.Tensor:
    """Mark exactly the `count` lowest values; of equal values the first ones."""
    mask = torch.zeros_like(saliency, dtype=torch.bool)
    if count > 0:
        flat = saliency.flatten()
        border = _kth_smallest(flat, count)
        below = flat < border
        ties = (flat == border).nonzero().flatten()[: count - int(below.sum())]
        below[ties] = True
        mask = below.view_as(saliency)
    return mask


def _kth_smallest(flat: torch.Tensor, count: int) -> torch.Tensor:
    if flat.device.type == "cpu":  # numpy's selection is vectorised
        return torch.tensor(np.partition(flat.numpy(), count - 1)[count - 1])
    return flat.kthvalue(count).values
