"""How the scores |W| ||X|| of a block are spread: OWL's layer outlier distribution (LOD) and DLP's median.

OWL: arXiv 2310.05175 section 3.2; DLP: arXiv 2505.23807. Needs torch. Arrays in, numbers out. Letters: R outputs, K inputs of one matrix; L blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

DEFAULT_THRESHOLD = 5.0


def outlier_scores(weight: torch.Tensor, squares_per_sequence: torch.Tensor) -> torch.Tensor:
    """Return A = |W| * sqrt(scaler_row) (R, K), with scaler_row (K,) the mean over sequences of the squared input norm."""
    return weight.abs().float() * squares_per_sequence.float().sqrt()


def outlier_percent(scores: Iterable[torch.Tensor], threshold: float = DEFAULT_THRESHOLD) -> float:
    """Return D_l = 100 * share of A strictly above `threshold` times the mean of A over the whole block [%].

    `scores` are the A of all matrices of one block; one mean for all of them, not one per matrix.
    """
    flat = [score.flatten() for score in scores]
    count = sum(part.numel() for part in flat)
    if count == 0:
        return 0.0
    mean = float(sum(part.sum(dtype=torch.float64) for part in flat)) / count
    return 100.0 * sum(int((part > threshold * mean).sum()) for part in flat) / count


def median_score(scores: Iterable[torch.Tensor]) -> float:
    """Return the median of A over the whole block, of an even number the lower one; 0 for a block without weights."""
    parts = [score.flatten().float().cpu() for score in scores]
    if not parts:
        return 0.0
    flat = torch.cat(parts).numpy()
    middle = (len(flat) - 1) // 2
    flat.partition(middle)
    return float(flat[middle]) if np.isfinite(flat).all() else float("nan")
