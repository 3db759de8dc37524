"""How many zeros each row of a matrix gets: TRIM (arXiv 2505.16743, algorithm 1), with the outputs taken from the Hessian.

Needs torch. What a row r gives on the calibration is w_r X; the cosine of what it gave before and after pruning needs no X, only
H = X X^T: cos_r = (w_r H v_r) / sqrt((w_r H w_r) (v_r H v_r)), v_r its pruned weights. Letters: R outputs, K inputs.
"""

from __future__ import annotations

import numpy as np
import torch

from owled_ros.pruning.allocation import project, raised, zero_counts
from owled_ros.pruning.scores import mask_rows

ROUNDS = 10  # updates with one rate
RATES = (
    (0.01, 0.02, 0.04, 0.08, 0.12, 0.16),
    (-0.01, -0.02, -0.04),
)  # tried in this order, the second where the first gave nothing
HIGHEST = 0.95  # of a row


def trim_counts(
    weight: torch.Tensor, score: torch.Tensor, zeros: int, hessian: torch.Tensor, least: torch.Tensor
) -> torch.Tensor:
    """Return how many of its lowest scores each row loses (R,), `zeros` in total.

    Starts evenly. Each round prunes rows that kept their output well more and the others less, by a rate times how far apart
    their cosines are; the best counts by the cosine of the whole output are kept, so it is never less than that of even counts.

    Args:
        score: (R, K), lowest are pruned. least: (R,) zeros that a row must have.
    """
    rows, columns = weight.shape
    target = zeros / (rows * columns)
    exact = weight.float()
    ranks = score.argsort(dim=1, stable=True).argsort(dim=1)
    moved = exact @ hessian.float()  # (R, K): w_r H
    energy = (moved * exact).sum(1).double()  # (R,)
    floor = least.cpu().numpy()

    def counts_of(shares: np.ndarray) -> torch.Tensor:
        counts = raised(zero_counts(shares, np.full(rows, columns, np.int64), target), floor)
        return torch.from_numpy(counts).to(weight.device)

    def quality(counts: torch.Tensor) -> tuple[float, np.ndarray]:
        """Return the cosine of the whole output and of each row's (R,)."""
        left = exact.masked_fill(ranks < counts[:, None], 0.0)
        agreed = (moved * left).sum(1).double()  # (R,)
        kept = ((left @ hessian.float()) * left).sum(1).double()  # (R,)
        cosines = agreed / (energy * kept).clamp(min=1e-30).sqrt()
        whole = agreed.sum() / (energy.sum() * kept.sum()).clamp(min=1e-30).sqrt()
        return float(whole), cosines.clamp(-1.0, 1.0).cpu().numpy()

    even = np.full(rows, target)
    start = mask_rows(score, zeros, least).sum(1)
    start_quality = quality(start)
    best, highest = start, start_quality[0]
    for rates in RATES:
        before = -np.inf
        for rate in rates:
            shares, (_, cosines), reached = even, start_quality, -np.inf
            for _ in range(ROUNDS):
                span = float(np.ptp(cosines))
                if not span > 0.0:  # equal, or nothing is known
                    break
                step = 2.0 * rate * (cosines - cosines.min()) / span
                shares = project(shares + step - step.mean(), np.ones(rows), target, high=HIGHEST)
                counts = counts_of(shares)
                whole, cosines = quality(counts)
                reached = max(reached, whole)
                if whole > highest:
                    best, highest = counts, whole
            if reached <= before:
                break  # larger rates only go further the wrong way
            before = reached
        if best is not start:
            break
    return best
