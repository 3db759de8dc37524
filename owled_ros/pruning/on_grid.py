"""Prune and round one matrix in the same sweep, and settle its codes afterwards. Needs torch.

The sweep is SparseGPT's (arXiv 2301.00774, algorithm 1); a weight that stays is rounded there to its grid, as in GPTQ (arXiv
2210.17323), and its error is moved on like that of a zero. What a sweep leaves is a greedy answer; `settle` then moves single codes as
long as the squared error of the output falls (coordinate descent, arXiv 2309.01885). Letters: R outputs, K inputs, G groups.
"""

from __future__ import annotations

import torch

from owled_ros.errors import OwledError
from owled_ros.pruning.rounding import Grid, choose_scales, rounded, spread
from owled_ros.pruning.scores import mask_groups
from owled_ros.pruning.sparsegpt import COLUMN_BLOCK, damped, inverse_factor, lowest, output_error

SETTLE_PASSES = 2


def sweep(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    zeros: int,
    grid: Grid,
    group: tuple[int, int] | None = None,
    damping: float = 0.01,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weight (R, K) on its grid, the mask (R, K) and the scales (R, G), bf16 numbers in float32.

    The scales of a group are chosen when the sweep reaches it, for the weights as they are by then and without those that
    become zero; an error counts as it does in the sweep, by 1 / [H^-1]_jj^2, and not at all where an input was always zero.

    Args:
        zeros, group: which weights become zero, as in `sparsegpt`.
        mask: (R, K), chosen already; `zeros` and `group` then do not count.
    """
    if not bool(weight.isfinite().all()):
        raise OwledError("the weights of a matrix hold NaN or infinities: the model is damaged")
    work = weight.float().t().contiguous()  # (K, R)
    inverse = inverse_factor(hessian, damping)
    columns, rows = work.shape
    chosen = torch.zeros(columns, rows, dtype=torch.bool, device=work.device) if mask is None else mask.t().contiguous()
    scales = torch.zeros(rows, grid.groups(columns), device=work.device)
    worth = torch.where(
        hessian.diagonal() == 0, 0.0, inverse.diagonal().square().reciprocal()
    )  # (K,), of an error's square
    done = 0
    for start in range(0, columns, COLUMN_BLOCK):
        stop = min(start + COLUMN_BLOCK, columns)
        if mask is None and group is None:
            share = zeros * stop // columns - done
            done += share
            chosen[start:stop] = lowest(work[start:stop].square() * worth[start:stop, None], share)
        errors = torch.zeros_like(work[start:stop])
        for column in range(start, stop):
            if column % grid.group == 0:
                ahead = slice(column, min(column + grid.group, columns))
                if mask is None and group is not None:
                    chosen[ahead] = mask_groups(
                        (work[ahead].square() * worth[ahead, None]).t().contiguous(), *group
                    ).t()
                left = work[ahead].masked_fill(chosen[ahead], 0.0).t()  # (R, g)
                scale = choose_scales(left, worth[ahead], grid)  # (R, 1)
                scales[:, column // grid.group] = scale[:, 0]
            target = rounded(work[column], scale[:, 0], grid).masked_fill(chosen[column], 0.0)
            error = (work[column] - target) / inverse[column, column]
            work[column:stop].addr_(inverse[column, column:stop], error, alpha=-1.0)
            work[column] = target
            errors[column - start] = error
        work[stop:] -= inverse[start:stop, stop:].t() @ errors
    return work.t().contiguous(), chosen.t().contiguous(), scales


def settle(
    weight: torch.Tensor,
    current: torch.Tensor,
    mask: torch.Tensor,
    scales: torch.Tensor,
    grid: Grid,
    hessian: torch.Tensor,
    passes: int = SETTLE_PASSES,
    damping: float = 0.01,
) -> torch.Tensor:
    """Move every code in turn to where the output's squared error is least, zeros and scales fixed; no row becomes worse.

    Args:
        weight: the dense weight (R, K). current: on the grid, where to start. mask: True stays zero.
    """
    whole = damped(hessian, damping)  # (K, K)
    scale = spread(scales, grid, whole.shape[0]).t().contiguous()  # (K, R)
    found = current.float().t().contiguous()
    still = mask.t()
    pull = whole @ (weight.float().t() - found)  # (K, R), minus half the gradient
    for _ in range(passes):
        for start in range(0, len(found), COLUMN_BLOCK):
            stop = min(start + COLUMN_BLOCK, len(found))
            moves = torch.zeros_like(found[start:stop])
            near = pull[start:stop].clone()
            for column in range(start, stop):
                best = found[column] + near[column - start] / whole[column, column]
                target = rounded(best, scale[column], grid).masked_fill(still[column], 0.0)
                move = target - found[column]
                near.addr_(whole[column, start:stop], move, alpha=-1.0)
                found[column] = target
                moves[column - start] = move
            pull -= whole[:, start:stop] @ moves
    settled = found.t().contiguous()
    better = output_error(weight, settled, whole) < output_error(weight, current, whole)  # False for NaN
    return torch.where(better, settled, current.float())


def round_kept(
    weight: torch.Tensor,
    pruned: torch.Tensor,
    mask: torch.Tensor,
    grid: Grid,
    hessian: torch.Tensor | None,
    damping: float = 0.01,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round what stays of a matrix whose zeros are chosen, then settle for `weight`; to nearest where nothing is known of its inputs.

    Returns the weight (R, K) on its grid and the scales (R, G).
    """
    if hessian is None:
        return nearest(pruned, mask, grid)
    swept, _, scales = sweep(pruned, hessian, 0, grid, damping=damping, mask=mask)
    return settle(weight, swept, mask, scales, grid, hessian, damping=damping), scales


def nearest(weight: torch.Tensor, mask: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Round where nothing is known of the inputs: the weight (R, K) on its grid and the scales (R, G)."""
    found = weight.float().masked_fill(mask, 0.0)
    scales = torch.zeros(len(found), grid.groups(found.shape[1]), device=found.device)
    for place in range(scales.shape[1]):
        part = found[:, place * grid.group : (place + 1) * grid.group]
        scale = choose_scales(part, torch.ones((), device=found.device), grid)
        part.copy_(rounded(part, scale, grid))
        scales[:, place] = scale[:, 0]
    return found, scales
