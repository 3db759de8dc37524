"""How much of each block is pruned: uniform, OWL, OWL as its reference code does it, and the protected first block.

Needs numpy. All plans hold the parameter-weighted mean at the target and stay within [0, MAX_SPARSITY]; only
`owl_reference` keeps the reference's plain mean and guard. Letters: L blocks or matrices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from owled_ros.errors import OwledError

MAX_SPARSITY = 0.99
BLOCK0_RELIEF = 0.25  # how much less the first block is pruned by `protect_first`
REFERENCE_GUARD = 0.01  # the reference raises a ratio of zero or less to this

Floats = npt.NDArray[np.float64]


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
    return project(target - _relief(lod, spread), sizes, target)


def owl_reference(lod: Floats, target: float, spread: float) -> Floats:
    """Return the S_l of the reference code: plain mean over blocks, ratios of zero or less raised to 0.01."""
    relief = _relief(lod, spread)
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


def _relief(lod: Floats, spread: float) -> Floats:
    """Return r_l, the part of each block that is kept beyond the least kept one, in [0, 2 lambda]."""
    lod = np.asarray(lod, float)
    if not np.isfinite(lod).all():
        raise OwledError(
            "the outlier distribution holds NaN or infinities: check the calibration and the model's weights"
        )
    span = lod.max() - lod.min()
    if span <= 0.0:
        return np.zeros(len(lod))
    return (lod - lod.min()) * (2.0 * spread / span)
