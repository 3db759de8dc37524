"""Round weights to a grid: few bits, a scale per row and group of inputs. Needs torch.

The grid is the one that packed files store (docs/packed_format.md), so a matrix that lies on it is packed without loss.
Letters: R outputs, K inputs, G groups, g inputs of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from owled_ros.errors import OwledError
from owled_ros.sparse.rounding import LIMITS

BITS = tuple(sorted(LIMITS))
GROUPS = (32, 64, 128)
CLIPPING = tuple(1.0 - 0.05 * step for step in range(11))  # of the largest weight: what the scale just reaches
FURTHER = tuple(0.45 - 0.05 * step for step in range(5))  # the same where there are two bits or fewer


@dataclass(frozen=True)
class Grid:
    """Codes of `bits` bits times a bf16 scale per row and `group` neighbouring inputs; a zero stays exactly zero.

    Codes of 4 bits run from -8 to 7, of 3 from -4 to 3, of 2 from -2 to 1, and scales have a sign, so that either end may take the
    longer side. Codes of 8 bits run from -127 to 127, of 1.6 (five to a byte) from -1 to 1.
    """

    bits: float
    group: int

    def __post_init__(self) -> None:
        if self.bits not in BITS or self.group not in GROUPS:
            raise OwledError(
                f"no grid of {self.bits} bits and groups of {self.group}: bits are {_among(BITS)}, groups {_among(GROUPS)} inputs"
            )

    @property
    def low(self) -> int:
        """The lowest code."""
        return LIMITS[self.bits][0]

    @property
    def high(self) -> int:
        """The highest code."""
        return LIMITS[self.bits][1]

    def groups(self, columns: int) -> int:
        """Count the groups of a row; the last one may be short."""
        return -(-columns // self.group)


def choose_scales(weight: torch.Tensor, importance: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the scales (R, 1) of one group (R, g): of several, the one whose rounding errors weigh least.

    Args:
        weight: zeros that stay zero hold 0 here, so that they do not count.
        importance: what the square of an error of each weight costs, (g,) or one for all; the scale need not reach weights of 0.
    """
    ends = (grid.high,) if grid.low == -grid.high else (grid.low, grid.high)
    shares = CLIPPING + FURTHER if grid.bits <= 2 else CLIPPING
    counting = weight.masked_fill(importance == 0, 0.0)
    counting = torch.where(counting.any(1, keepdim=True), counting, weight)
    extreme = counting.gather(1, counting.abs().argmax(1, keepdim=True))  # (R, 1), signed
    best = torch.zeros_like(extreme)
    least = torch.full_like(extreme, torch.inf)
    for end in ends:
        for share in shares:
            scale = bfloat16(extreme * (share / end))
            cost = (importance * (weight - rounded(weight, scale, grid)).square()).sum(1, keepdim=True)
            better = cost < least
            best, least = torch.where(better, scale, best), torch.where(better, cost, least)
    return best


def rounded(weight: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the nearest points of the grid; with a scale of 0 that is 0."""
    return codes(weight, scale, grid) * scale


def codes(weight: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return the nearest codes, as floats; weights beyond the last code are clipped to it."""
    return (weight * inverse_of(scale)).round().clamp(grid.low, grid.high)


def inverse_of(scale: torch.Tensor) -> torch.Tensor:
    """Return 1 / scale; 0 for a scale of 0, and for one below 1e-38: zero for every purpose."""
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
    return torch.where(inverse.isfinite(), inverse, 0.0)


def spread(scales: torch.Tensor, grid: Grid, columns: int) -> torch.Tensor:
    """Repeat scales (R, G) over their inputs: (R, K)."""
    return scales.repeat_interleave(grid.group, dim=1)[:, :columns]


def bfloat16(values: torch.Tensor) -> torch.Tensor:
    """Round to what a packed file can store as a scale."""
    return values.bfloat16().float()


def _among(values: tuple[float, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"
