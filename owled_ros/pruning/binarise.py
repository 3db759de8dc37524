"""Structured binarisation of one matrix below two bits a weight (STBLLM, arXiv 2408.01803, algorithms 1 and 2). Needs torch.

Of every M neighbouring inputs N are zeroed by standardised importance. In every block of 128 inputs the weights of salient inputs are binarised
twice, the second time what the first left; the others fall into three regions by magnitude, each with a level of its own per output.
The errors of a block are moved to the inputs after it. A weight that stays is a sign times one of five levels of its row and block.

Letters: R outputs, K inputs, B blocks of inputs, c inputs of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from owled_ros.errors import OwledError
from owled_ros.pruning.scores import mask_groups
from owled_ros.pruning.sparsegpt import inverse_factor

BLOCK = 128
LEVELS = 5  # of a row and block: three regions, sparse to dense; low and high of the salient inputs
HIGH = 4
LEAST_LEVEL = 2.0**-100  # a level is never zero, so that zeros are exactly what the pattern zeroes
BORDERS = (
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
)  # quantiles tried as border of the sparse region; the dense one begins at twice that
SALIENT = (0, 2, 4, 8, 16, 24, 30)  # inputs of a block tried as salient
TINY = 1e-30


@dataclass(frozen=True)
class Binary:
    """How many regions there are, 1 or 3, and how many inputs of a block may be salient."""

    regions: int = 3
    salient: int = SALIENT[-1]

    def __post_init__(self) -> None:
        if self.regions not in (1, 3) or not 0 <= self.salient <= BLOCK:
            raise OwledError(
                f"{self.regions} regions and {self.salient} salient inputs: regions are 1 or 3, inputs 0 to {BLOCK}"
            )


def importance(weight: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Return the standardised importance (R, c): |w| relative to its row and its column, times the input's norm, in deviations."""
    size = weight.abs().float()
    relative = size / size.sum(0, keepdim=True).clamp(min=TINY) + size / size.sum(1, keepdim=True).clamp(min=TINY)
    score = relative * squares.float().sqrt()[None, :]
    return (score - score.mean()) / score.std(correction=0).clamp(min=TINY)


def binarise(
    weight: torch.Tensor,
    squares: torch.Tensor,
    hessian: torch.Tensor | None,
    group: tuple[int, int],
    damping: float = 0.01,
    how: Binary | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weight (R, K), what was zeroed (R, K) and the levels (R, B, 5), bf16 numbers in float32.

    Args:
        squares: squared norms of the inputs (K,). hessian: (K, K), None where nothing is known of the inputs.
        group: (N, M) zeroes N of every M neighbouring inputs.

    Raises:
        OwledError: when M does not divide the inputs, or no weight would stay.
    """
    how = how or Binary()
    if not 0 <= group[0] < group[1] or weight.shape[1] % group[1] or BLOCK % group[1]:
        raise OwledError(
            f"pattern {group[0]}:{group[1]} with {weight.shape[1]} inputs: M must divide them and {BLOCK}, and a weight must stay"
        )
    if not bool(weight.isfinite().all()):
        raise OwledError("the weights of a matrix hold NaN or infinities: the model is damaged")
    work = weight.float().clone()
    rows, columns = work.shape
    inverse = torch.eye(columns, device=work.device) if hessian is None else inverse_factor(hessian, damping)
    known = squares if bool(squares.any()) else torch.ones_like(squares)
    mask = torch.zeros(rows, columns, dtype=torch.bool, device=work.device)
    levels = torch.full((rows, -(-columns // BLOCK), LEVELS), LEAST_LEVEL, device=work.device)
    for place, start in enumerate(range(0, columns, BLOCK)):
        part = slice(start, min(start + BLOCK, columns))
        block = work[:, part]  # (R, c)
        zeroed = mask_groups(importance(block, known[part]), *group)
        kept = ~zeroed
        worth = (block / inverse.diagonal()[part]).square().masked_fill(zeroed, 0.0).sum(0)  # (c,)
        found, levels[:, place] = _binarised(block, kept, worth, how)
        mask[:, part] = zeroed
        if part.stop < columns:
            errors = torch.linalg.solve_triangular(inverse[part, part], block - found, upper=True, left=False)
            work[:, part.stop :] -= errors @ inverse[part, part.stop :]
        work[:, part] = found
    return work, mask, levels


def _binarised(
    block: torch.Tensor, kept: torch.Tensor, worth: torch.Tensor, how: Binary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the block (R, c) in its levels (R, 5), with the salient inputs found or with none, whichever errs less."""
    size, sign = block.abs(), torch.where(block < 0, -1.0, 1.0)
    best: tuple[float, torch.Tensor, torch.Tensor] | None = None
    for salient in _choices(size, kept, worth, how):
        strong, ends = _salient(size, kept & salient)
        middle, regions = _regions(size, kept & ~salient, how)
        error = float(((strong + middle - size) * kept).square().sum())
        if best is None or error < best[0]:
            best = (error, sign * (strong + middle), torch.cat([regions, ends], dim=1))
    assert best is not None  # none salient is always a choice
    return best[1], best[2]


def _choices(size: torch.Tensor, kept: torch.Tensor, worth: torch.Tensor, how: Binary) -> list[torch.Tensor]:
    """Return no salient inputs, and the number of them that errs least while the others have one level, as masks (c,)."""
    order = worth.argsort(descending=True, stable=True)
    none = torch.zeros_like(worth, dtype=torch.bool)
    best, chosen = float("inf"), none
    for count in sorted({min(count, how.salient) for count in SALIENT}):
        tried = none.index_fill(0, order[:count], True)
        rest = kept & ~tried
        twice, _ = _salient(size, kept & tried)
        error = float(((twice + _level(size, rest) * rest - size) * kept).square().sum())
        if error < best:
            best, chosen = error, tried
    return [none, chosen] if bool(chosen.any()) else [none]


def _salient(size: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Binarise twice: sizes (R, c) and the levels, low and high (R, 2). The second sign adds to the first level or takes from it."""
    first = _mean(size, kept)
    left = size - first
    second = _mean(left.abs(), kept)
    low, high = _stored(first - second), _stored(first + second)
    return torch.where(left < 0, low, high) * kept, torch.cat([low, high], dim=1)


def _regions(size: torch.Tensor, rest: torch.Tensor, how: Binary) -> tuple[torch.Tensor, torch.Tensor]:
    """Split by magnitude at a border and at twice that: sizes (R, c), levels (R, 3)."""
    one = _level(size, rest)
    best, found, levels = float("inf"), one * rest, one.expand(-1, 3)
    if how.regions == 1 or not bool(rest.any()):
        return found, levels
    for border in torch.quantile(_sample(size[rest]), torch.tensor(BORDERS, device=size.device)):
        members = (rest & (size < border), rest & (size >= border) & (size < 2 * border), rest & (size >= 2 * border))
        of = [_level(size, member) for member in members]
        tried = of[0] * members[0] + of[1] * members[1] + of[2] * members[2]
        error = float(((tried - size) * rest).square().sum())
        if error < best:
            best, found, levels = error, tried, torch.cat(of, dim=1)
    return found, levels


def _sample(values: torch.Tensor) -> torch.Tensor:
    """Thin out, evenly: quantiles of a hundred thousand values are those of all."""
    return values[:: 1 + len(values) // 100_000]


def _level(size: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    return _stored(_mean(size, members))


def _mean(size: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Return the mean of each row's members (R, 1), 0 where there are none."""
    return (size * members).sum(1, keepdim=True) / members.sum(1, keepdim=True).clamp(min=1)


def _stored(level: torch.Tensor) -> torch.Tensor:
    """Return a level as a file holds it: a positive bf16 number. A low one below zero stands for the sign that it turns."""
    return level.abs().clamp(min=LEAST_LEVEL).bfloat16().float()
