"""bfloat16 weights without their zeros, exactly: values and the steps between their columns (deltas.cu). Needs torch.

Each row has its values in units of eight, 16 bytes, and for each value four bits: how far its column is from that of the value
before (0 to 15, the first from column 0). A longer gap takes zeros with a step of 15; what fills the last unit is zero with a step of 0.
Bytes a weight at density d: 2.5 d, and what gaps take (under 2 % at d = 0.3). Letters: R rows, K columns, V values, U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

LONGEST = 15
UNIT = 8  # values


@dataclass(frozen=True)
class Deltas:
    """A matrix as values and steps."""

    rows: int
    columns: int
    values: torch.Tensor  # (U, 8) bfloat16
    steps: torch.Tensor  # (U, 4) uint8: two steps each, the first in the low half
    starts: torch.Tensor  # (R + 1) int32, units

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(part.numel() * part.element_size() for part in (self.values, self.steps, self.starts))


def pack_deltas(weight: torch.Tensor) -> Deltas:
    """Pack a bfloat16 matrix (R, K) on its own device."""
    rows, columns = weight.shape
    row, column = weight.nonzero(as_tuple=True)  # (V), row after row
    before = torch.zeros_like(column)
    before[1:] = torch.where(row[1:] == row[:-1], column[:-1], 0)
    gap = column - before
    filling = torch.where(gap > LONGEST, (gap - 1) // LONGEST, 0)  # zeros before a value
    used = torch.zeros(rows, dtype=torch.long, device=weight.device).index_add_(0, row, filling + 1)
    units = -(-used // UNIT)
    starts = torch.cat([units.new_zeros(1), units.cumsum(0)])  # (R + 1)
    place = starts[row] * UNIT + (filling + 1).cumsum(0) - 1 - (used.cumsum(0) - used)[row]  # (V)
    room = int(starts[-1]) * UNIT
    values = torch.zeros(room, dtype=weight.dtype, device=weight.device)
    steps = torch.zeros(room, dtype=torch.uint8, device=weight.device)
    values[place] = weight[row, column]
    steps[place] = (gap - LONGEST * filling).to(torch.uint8)
    first = filling.cumsum(0) - filling
    within = torch.arange(int(filling.sum()), device=weight.device) - torch.repeat_interleave(first, filling)
    steps[torch.repeat_interleave(place - filling, filling) + within] = LONGEST
    pairs = steps.view(-1, 2)
    return Deltas(
        rows,
        columns,
        values.view(-1, UNIT),
        (pairs[:, 0] | pairs[:, 1] << 4).view(-1, UNIT // 2),
        starts.to(torch.int32),
    )


def unpack_deltas(deltas: Deltas) -> torch.Tensor:
    """Give back the matrix; the reference for the kernels."""
    pairs = deltas.steps.reshape(-1)
    total = torch.stack([pairs & 15, pairs >> 4], 1).long().reshape(-1).cumsum(0)  # over all rows
    lengths = (deltas.starts[1:] - deltas.starts[:-1]).long() * UNIT
    row = torch.repeat_interleave(torch.arange(deltas.rows, device=pairs.device), lengths)
    before = torch.cat([total.new_zeros(1), total])[deltas.starts[:-1].long() * UNIT]  # (R) of the rows above
    values = deltas.values.reshape(-1)
    real = values != 0
    matrix = values.new_zeros(deltas.rows, deltas.columns)
    matrix[row[real], (total - before[row])[real]] = values[real]
    return matrix
