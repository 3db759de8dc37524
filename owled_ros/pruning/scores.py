"""Scores that rank the weights of one matrix, and masks made from them. Needs torch.

A mask is True where a weight is pruned. Ties are broken by the lower column, so the same score always gives the same
mask. Letters: R outputs, K inputs.
"""

from __future__ import annotations

import numpy as np
import torch

from owled_ros.errors import OwledError


def magnitude(weight: torch.Tensor) -> torch.Tensor:
    """Score by |W|."""
    return weight.abs().float()


def wanda(weight: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Score by |W_ij| * ||X_j||_2 (Wanda, arXiv 2306.11695 eq. 1); `squares` (K,) holds the squared norms."""
    return weight.abs().float() * squares.float().sqrt()


def pruner_zero(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Score by the metric Pruner-Zero found: |W| |W| minmax(|G|) (arXiv 2406.02924 section 4.3); G is (R, K)."""
    steep = gradient.abs().float()
    low, high = steep.min(), steep.max()
    scaled = (steep - low) / (high - low) if high > low else torch.ones_like(steep)
    return weight.float().square() * scaled


def mask_rows(score: torch.Tensor, zeros: int, least: torch.Tensor | None = None) -> torch.Tensor:
    """Mask the `zeros` lowest scores in total, spread evenly over the rows: counts of two rows differ by at most one.

    `least` (R,) is how many a row must have at least; what such rows have beyond their even share the others have less.
    """
    rows = score.shape[0]
    if not 0 <= zeros <= score.numel():
        raise OwledError(f"cannot prune {zeros} of {score.numel()} weights")
    # Row r gets one more where floor((r + 1) * rest / rows) steps up: evenly spread, no row order preferred.
    base, rest = divmod(zeros, rows)
    steps = torch.arange(rows + 1, device=score.device) * rest // rows
    counts = base + (steps[1:] - steps[:-1])  # (R,)
    if least is not None and bool((least > counts).any()):
        counts = _filled(least, zeros)
        ordered = score.sort(dim=1).values
        border = torch.where(counts > 0, ordered.gather(1, (counts - 1).clamp(min=0)[:, None])[:, 0], -torch.inf)[
            :, None
        ]
    else:
        border = _row_borders(score, base, rest > 0).gather(1, (counts - base)[:, None])  # (R, 1)
    mask = score < border  # (R, K)
    ties = score == border
    missing = counts[:, None] - mask.sum(1, keepdim=True)
    if bool((ties.sum(1, keepdim=True) > missing).any()):
        ties &= ties.cumsum(1) <= missing
    return mask | ties


def mask_counts(score: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mask the lowest scores of each row, as many as `counts` (R,) says."""
    ranks = score.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < counts[:, None]


def _filled(least: torch.Tensor, zeros: int) -> torch.Tensor:
    """Return counts (R,) of the sum `zeros`, each at least its least value and else as even as can be."""
    low, high = 0, zeros
    while low < high:  # the highest level that the sum allows
        middle = (low + high + 1) // 2
        if int(least.clamp(min=middle).sum()) <= zeros:
            low = middle
        else:
            high = middle - 1
    counts = least.clamp(min=low)
    missing = zeros - int(counts.sum())
    if missing > 0:
        counts[(counts == low).nonzero().flatten()[:missing]] += 1
    return counts


def mask_groups(score: torch.Tensor, zeros: int, group: int) -> torch.Tensor:
    """Mask the `zeros` lowest scores of every `group` neighbouring inputs (N:M sparsity)."""
    rows, columns = score.shape
    if columns % group:
        raise OwledError(f"pattern {zeros}:{group} needs a multiple of {group} inputs, this matrix has {columns}")
    grouped = score.reshape(rows, columns // group, group)
    order = grouped.sort(dim=2, stable=True).indices[..., :zeros]
    mask = torch.zeros_like(grouped, dtype=torch.bool).scatter_(2, order, True)
    return mask.reshape(rows, columns)


def _row_borders(score: torch.Tensor, base: int, one_more: bool) -> torch.Tensor:
    """Return the base-th and (base + 1)-th smallest score of each row (R, 2); minus infinity for a count of zero."""
    rows, columns = score.shape
    places = [base - 1, min(base, columns - 1)] if one_more else [base - 1, base - 1]
    wanted = sorted({place for place in places if place >= 0})
    select = _selected if score.device.type == "cpu" else selected_by_row
    chosen = {-1: torch.full((rows,), -torch.inf, device=score.device), **select(score, wanted)}
    return torch.stack([chosen[place] for place in places], dim=1)


def _selected(score: torch.Tensor, places: list[int]) -> dict[int, torch.Tensor]:
    """Give the values (R,) that stand at some places of the sorted rows."""
    if not places:
        return {}
    ordered = torch.from_numpy(np.partition(score.numpy(), places, axis=1))  # vectorised: ten times as fast as torch's
    return {place: ordered[:, place] for place in places}


def selected_by_row(score: torch.Tensor, places: list[int]) -> dict[int, torch.Tensor]:
    """Do the same on a GPU, which selects in all rows at once in a fraction of the time of sorting them."""
    return {place: score.kthvalue(place + 1, dim=1).values for place in places}
