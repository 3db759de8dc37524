"""`grid.safetensors`: the scales of a model whose weights were rounded when it was pruned. Needs safetensors and torch.

A weight is a scale times a whole number of a few bits; embedding and output matrix may have other bits than the matrices between them. The
weights themselves are in the model's own files, as near as their stored type comes; packing reads the scales from here and so finds the very
numbers again. Letters: R outputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from owled_ros.errors import OwledError
from owled_ros.sparse.format import GROUPS
from owled_ros.sparse.pack import ENDS_ON_GRID
from owled_ros.sparse.quantise import BITS

GRID_NAME = "grid.safetensors"
PRECISIONS = {bits: name for name, bits in BITS.items()}
ENDS_BITS = BITS[ENDS_ON_GRID]


@dataclass(frozen=True)
class StoredGrid:
    """Bits, inputs per scale, scales (R, G) float32 by the name of the matrix, and bits and inputs of embedding and output matrix."""

    bits: float
    group: int
    scales: Mapping[str, torch.Tensor]
    ends_bits: float = ENDS_BITS
    ends_group: int | None = None  # None: as the others

    @property
    def precision(self) -> str:
        """The packed precision that holds it without loss."""
        return PRECISIONS[self.bits]

    @property
    def ends_precision(self) -> str:
        """The same of embedding and output matrix."""
        return PRECISIONS[self.ends_bits]


def write_grid(directory: Path, grid: StoredGrid) -> None:
    """Write the scales into a model directory; they are bf16 numbers."""
    tensors = {name: scales.detach().cpu().bfloat16().contiguous() for name, scales in grid.scales.items()}
    # One entry of metadata: the order of several is chance, and the same run must give the same bytes.
    numbers, usual = [grid.bits, grid.group, grid.ends_bits, grid.ends_group or grid.group], [ENDS_BITS, grid.group]
    while usual and numbers[-1] == usual.pop():
        numbers.pop()  # as older releases read it
    save_file(tensors, directory / GRID_NAME, {"grid": " ".join(f"{number:g}" for number in numbers)})


def read_grid_of(directory: Path) -> StoredGrid | None:
    """Return the grid of a model directory; None where it has none.

    Raises:
        OwledError: The file is damaged or of another kind.
    """
    file = directory / GRID_NAME
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stream:
            bits, group, *ends = map(float, (stream.metadata() or {})["grid"].split())
            ends_bits, ends_group = [*ends, *(ENDS_BITS, group)[len(ends) :]]
            scales = {name: stream.get_tensor(name).float() for name in stream.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError, KeyError, ValueError) as err:
        raise OwledError(f"{file} cannot be read ({err}): copy the artifact again, or prune again") from err
    if not {bits, ends_bits} <= set(PRECISIONS) or not {group, ends_group} <= set(GROUPS):
        raise OwledError(
            f"{file} tells of {bits:g} and {ends_bits:g} bits and groups of {group:g} and {ends_group:g}, which this release does not know"
        )
    return StoredGrid(bits, int(group), scales, ends_bits, int(ends_group))
