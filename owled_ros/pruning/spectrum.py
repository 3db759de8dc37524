"""How heavy the tail of a matrix's spectrum is: the power-law exponent that AlphaPruning allocates by (arXiv 2410.10912, section 3).

Needs torch. The spectrum is that of W^T W. A small exponent is a heavy tail: the matrix has learned much and is pruned less.
Letters: R outputs, K inputs, n eigenvalues above zero in ascending order.
"""

from __future__ import annotations

import math

import torch

BINS = 100  # of the histogram whose peak is where the tail begins; fewer for few eigenvalues
PER_BIN = 8  # eigenvalues a bin has at least on average
NOTHING = 1e-10  # of the largest eigenvalue: below it there is only rounding


def eigenvalues(weight: torch.Tensor) -> torch.Tensor:
    """Return the eigenvalues of W^T W above zero (n,), float64, in ascending order."""
    exact = weight.double()
    gram = exact @ exact.t() if exact.shape[0] <= exact.shape[1] else exact.t() @ exact
    values = torch.linalg.eigvalsh(gram)  # ascending
    return values[values > NOTHING * values[-1]] if values[-1] > 0.0 else values[:0]


def hill_exponent(values: torch.Tensor) -> float | None:
    """Return 1 + k / sum ln(x_i / x_min) over the k eigenvalues above x_min, the Hill estimator; None where there is no tail.

    The tail begins at the peak of the density ("fix-finger"): x_min is the first eigenvalue in the fullest bin of a histogram of
    the logarithms; of equally full bins the lowest. There is no tail with fewer than two different eigenvalues above it.
    """
    logs = values.log()
    if len(logs) < 2 or not bool(logs.isfinite().all()):
        return None
    low, high = float(logs[0]), float(logs[-1])
    bins = min(BINS, max(len(logs) // PER_BIN, 1))
    width = (high - low) / bins
    if width <= 0.0:
        return None
    place = ((logs - low) / width).long().clamp(max=bins - 1)
    first = int((place == torch.bincount(place, minlength=bins).argmax()).nonzero()[0])
    tail = logs[first + 1 :] - logs[first]
    total = float(tail.sum())
    return 1.0 + len(tail) / total if total > 0.0 and math.isfinite(total) else None
