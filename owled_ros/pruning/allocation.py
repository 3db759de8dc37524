"""How much of each block is pruned: uniform, OWL and its rivals, OWL as its reference code does it, and the protected first block.

Needs numpy. All plans hold the parameter-weighted mean at the target and stay within [0, MAX_SPARSITY]; only
`owl_reference` keeps the reference's plain mean and guard. What spreads zeros by one measured number per block has one form,
`Allocation`, and its name in ALLOCATORS. Letters: L blocks or matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from owled_ros.errors import OwledError

MAX_SPARSITY = 0.99
BLOCK0_RELIEF = 0.25  # how much less the first block is pruned by `protect_first`
REFERENCE_GUARD = 0.01  # the reference raises a ratio of zero or less to this

Floats = npt.NDArray[np.float64]
Allocation = Callable[
    [Floats, Floats, float, float], Floats
]  # measure (L,), sizes (L,), target, spread -> sparsity (L,)


def uniform(sizes: Floats, target: float) -> Floats:
    """Give every block the target."""
    return np.full(len(sizes), float(target))


def owl(lod: Floats, sizes: Floats, target: float, spread: float) -> Floats:
    """Prune blocks with many outliers less: OWL section 3.2 with blocks weighted by their parameters.

    r_l = (D_l - min D) * 2 lambda / (max D - min D); S_l = target - (r_l - weighted mean r), then projected onto the
    bounds. Equal outliers give the uniform plan. The range of S_l is 2 lambda; it is centred on its mean, so single
    values may leave target +- lambda.

    Args:
        lod: D_l (L,) [%]. sizes: prunable parameters (L,). target: in (0, 1). spread: OWL's lambda.
    """
    return project(target - _rise(lod, spread), sizes, target)


def dlp(medians: Floats, sizes: Floats, target: float, spread: float) -> Floats:
    """Prune blocks whose weights count for much in the middle more: DLP (arXiv 2505.23807, section 3).

    Of the medians m_l of |W| ||X|| the relative importance is I_l = 1 - m_l / sum m: the importance of the few weights far above
    the median is what a low one leaves. S_l = target - (r_l - weighted mean r), r_l = (I_l - min I) 2 alpha / (max I - min I).

    Args:
        medians: m_l (L,). spread: DLP's alpha, half the range of S_l.
    """
    return project(target + _rise(medians, spread), sizes, target)


def alpha_pruning(exponents: Floats, sizes: Floats, target: float, spread: float) -> Floats:
    """Prune blocks with light-tailed spectra, which learned less, more: AlphaPruning (arXiv 2410.10912, section 3.3).

    S_l = eta (1 - tau + 2 tau (a_l - min a) / (max a - min a)), eta so that the weighted mean is the target.

    Args:
        exponents: a_l (L,), see `spectrum`. spread: tau, half the range of S_l as a share of eta.
    """
    relative = 1.0 - spread + _rise(exponents, spread)
    return project(relative * (target / float(np.average(relative, weights=sizes))), sizes, target)


def atp(depths: Floats, sizes: Floats, target: float, spread: float) -> Floats:
    """Prune later blocks more, in one arithmetic progression: ATP (arXiv 2502.14770, section 3.2).

    For L equal blocks S_l = target + beta (l - (L - 1) / 2), l from 0, with the one slope beta = 2 spread / (L - 1).

    Args:
        depths: place in the block's own component, from 0 for its first to 1 for its last (L,).
    """
    return project(target + 2.0 * spread * np.asarray(depths, float), sizes, target)


ALLOCATORS: dict[str, Allocation] = {"owl": owl, "dlp": dlp, "alpha-pruning": alpha_pruning, "atp": atp, "norm": owl}
SPREADS = {"owl": 0.08, "dlp": 0.15, "alpha-pruning": 0.3, "atp": 0.15, "norm": 0.125}  # where none is given


def owl_reference(lod: Floats, target: float, spread: float) -> Floats:
    """Return the S_l of the reference code: plain mean over blocks, ratios of zero or less raised to 0.01."""
    relief = _rise(lod, spread)
    sparsity = 1.0 - (relief - relief.mean() + (1.0 - target))
    return np.where(sparsity <= 0.0, REFERENCE_GUARD, sparsity)


def protect_first(first: npt.NDArray[np.bool_], sizes: Floats, target: float) -> Floats:
    """Prune the marked blocks (the first of each component) by 0.25 less and all others evenly more.

    Where the others cannot take that much (few blocks, a high target) the relief is what they can take.
    """
    weights = np.asarray(sizes, float) / np.sum(sizes)
    share = float(weights[first].sum())
    least = (target - (1.0 - share) * max(MAX_SPARSITY, target)) / share if share > 0.0 else 0.0
    relieved = min(max(target - BLOCK0_RELIEF, least, 0.0), target)
    return project(np.where(first, relieved, target), sizes, target, held=first)


def project(
    values: Floats, sizes: Floats, target: float, high: float = MAX_SPARSITY, held: npt.NDArray[np.bool_] | None = None
) -> Floats:
    """Shift `values` by one number and clip to [0, high], so that the mean weighted by `sizes` is the target.

    A target above `high` raises it: what the uniform plan reaches every plan reaches. `held` marks values that are only clipped, not shifted.

    Raises:
        OwledError: when no shift can reach the target within the bounds.
    """
    values, sizes = np.asarray(values, float), np.asarray(sizes, float)
    if not np.isfinite(values).all():
        raise OwledError("the allocation is not finite: check the calibration for NaN or infinities")
    weights, high = sizes / sizes.sum(), max(high, target)
    fixed = np.zeros(len(values), bool) if held is None else held

    def shifted(by: float) -> Floats:
        return np.clip(np.where(fixed, values, values + by), 0.0, high)

    low_shift, high_shift = -1.0 - float(values.max()), 1.0 + high - float(values.min())
    if not weights @ shifted(low_shift) <= target <= weights @ shifted(high_shift) + 1e-12:
        raise OwledError(
            f"a sparsity of {target:.4f} cannot be reached: at most {weights @ shifted(high_shift):.4f} here"
        )
    for _ in range(100):
        middle = (low_shift + high_shift) / 2
        if weights @ shifted(middle) < target:
            low_shift = middle
        else:
            high_shift = middle
    return shifted(high_shift)


def zero_counts(sparsity: Floats, sizes: npt.NDArray[np.int64], target: float) -> npt.NDArray[np.int64]:
    """Turn sparsities into whole numbers of zeros that add up to round(target * all parameters).

    Largest remainders get the rest, so each count is within one of sparsity * size.
    """
    exact = np.asarray(sparsity, float) * sizes
    counts = np.floor(exact).astype(np.int64)
    rest = round(target * int(sizes.sum())) - int(counts.sum())
    order = np.argsort(-(exact - counts), kind="stable")
    if not 0 <= rest <= len(counts):
        raise OwledError(
            f"the plan's mean is off by {rest} weights from the target {target}: it must be projected first"
        )
    counts[order[:rest]] += 1
    return counts


def group_counts(sparsity: Floats, sizes: npt.NDArray[np.int64], zeros: int, group: int) -> npt.NDArray[np.int64]:
    """Turn sparsities (L,) into whole zeros of every `group` neighbours, per matrix: N:M sparsity with an N of its own.

    Matrices of one size keep `zeros` on their mean exactly, so that the budget is met whatever the sizes; within such a class each
    is the sparsity, shifted to that mean, rounded up or down by largest remainders. None loses a whole group.
    """
    counts = np.full(len(sizes), zeros, np.int64)
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        share, ones = zeros / group, np.ones(len(members))
        values = project(np.asarray(sparsity, float)[members], ones, share, high=(group - 1) / group)
        counts[members] = zero_counts(values, np.full(len(members), group, np.int64), share)
    return counts


def raised(counts: npt.NDArray[np.int64], least: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Raise counts to a least value each and take what that adds from the others, in proportion to what they can give."""
    result = np.maximum(counts, least)
    surplus = int(result.sum() - counts.sum())
    spare = result - least
    if surplus == 0 or surplus > spare.sum():
        return result
    exact = spare * (surplus / spare.sum())
    taken = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - taken), kind="stable")
    taken[order[: surplus - int(taken.sum())]] += 1
    return result - taken


def _rise(measure: Floats, spread: float) -> Floats:
    """Return how far each block's measure lies above the least one, scaled to [0, 2 spread]; all zero where all are equal."""
    measure = np.asarray(measure, float)
    if not np.isfinite(measure).all():
        raise OwledError(
            "what the blocks are allocated by holds NaN or infinities: check the calibration and the model's weights"
        )
    span = measure.max() - measure.min()
    if span <= 0.0:
        return np.zeros(len(measure))
    return (measure - measure.min()) / span * (2.0 * spread)
