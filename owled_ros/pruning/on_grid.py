"""Prune and round one matrix in the same sweep, and settle its codes afterwards. Needs torch.

The sweep is SparseGPT's (arXiv 2301.00774, algorithm 1); a weight that stays is rounded there to its grid, as in GPTQ (arXiv
2210.17323), and its error is moved on like that of a zero. What a sweep leaves is a greedy answer; `settle` then moves single codes and
scales as long as the squared error of the output falls (coordinate descent; arXiv 2309.01885 has it for codes). Letters: R outputs, K
inputs, G groups, g inputs of a group.
"""

from __future__ import annotations

import torch

from owled_ros.errors import OwledError
from owled_ros.pruning.rounding import Grid, bfloat16, choose_scales, codes, inverse_of, rounded
from owled_ros.pruning.scores import mask_groups
from owled_ros.pruning.sparsegpt import COLUMN_BLOCK, damped, inverse_factor, lowest, output_error, transposed

SETTLE_PASSES = 4  # two more than the first two take 5 % off the squared error (docs/pruning.md)


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
    work = transposed(weight.float())  # (K, R)
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
        work[stop:].addmm_(inverse[start:stop, stop:].t(), errors, alpha=-1.0)
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move every code, and after those of a group its scale, in turn to where the output's squared error is least; zeros stay.

    Args:
        weight: the dense weight (R, K). current: on the grid with `scales` (R, G), where to start. mask: True stays zero.

    Returns:
        The weight (R, K) on its grid and the scales (R, G), bf16 numbers; a row that would not become better is as it was.
    """
    whole = damped(hessian, damping)  # (K, K)
    scale = transposed(scales)  # (G, R)
    found = transposed(current.float())  # (K, R)
    still = mask.t().contiguous()
    pull = whole @ (weight.float().t() - found)  # (K, R), minus half the gradient
    block = max(COLUMN_BLOCK, grid.group)  # pull is brought up to date once a block, near once a group
    for _ in range(passes):
        for start in range(0, len(found), block):
            stop = min(start + block, len(found))
            before, near = found[start:stop].clone(), pull[start:stop].clone()
            for first in range(start, stop, grid.group):
                part = slice(first, min(first + grid.group, stop))
                inside, old = near[part.start - start : part.stop - start], found[part].clone()
                _settle_group(found[part], inside, scale[first // grid.group], still[part], grid, whole[part, part])
                near[part.stop - start :].addmm_(whole[part.stop : stop, part], found[part] - old, alpha=-1.0)
            pull.addmm_(whole[:, start:stop], found[start:stop] - before, alpha=-1.0)
    settled = found.t().contiguous()
    better = output_error(weight, settled, whole) < output_error(weight, current, whole)  # False for NaN
    return torch.where(better, settled, current.float()), torch.where(better, scale.t(), scales)


def _settle_group(
    found: torch.Tensor, pull: torch.Tensor, scale: torch.Tensor, still: torch.Tensor, grid: Grid, hessian: torch.Tensor
) -> None:
    """Move the codes of a group's weights `found` (g, R) one input after the other, then its scales (R,), in place.

    Args:
        pull: (g, R), minus half the gradient of the output's squared error; changes with the codes.
        still: (g, R), True stays zero. hessian: (g, g), of the group's inputs.
    """
    inverse = inverse_of(scale)
    for place, step in enumerate(hessian.diagonal().reciprocal().tolist()):
        row = found[place]
        target = pull[place].mul(step).add_(row).mul_(inverse).round_().clamp_(grid.low, grid.high).mul_(scale)
        target.masked_fill_(still[place], 0.0)
        pull.addr_(hessian[place], target - row, alpha=-1.0)
        row.copy_(target)
    code = codes(found, scale, grid)
    curve = ((hessian @ code) * code).sum(0)  # (R,), of the error over the scale
    slope = (code * pull).sum(0)
    fitted = bfloat16(scale + torch.where(curve > 0, slope / curve, 0.0))
    step = fitted - scale
    closer = 2 * step * slope > step.square() * curve
    found.copy_(torch.where(closer, code * fitted, found))
    scale.copy_(torch.where(closer, fitted, scale))


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
    return settle(weight, swept, mask, scales, grid, hessian, damping=damping)


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
