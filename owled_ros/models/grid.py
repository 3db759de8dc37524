"""`grid.safetensors`: the scales of a model whose weights were rounded when it was pruned. Needs safetensors and torch.

A weight is a scale times a whole number of a few bits; embedding and output matrix have four where the others have fewer. The weights themselves are in the model's own files, as near as their stored
type comes; packing reads the scales from here and so finds the very numbers again. Letters: R outputs, G groups of inputs.
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
from owled_ros.sparse.quantise import BITS

GRID_NAME = "grid.safetensors"
PRECISIONS = {bits: name for name, bits in BITS.items()}


@dataclass(frozen=True)
class StoredGrid:
    """Bits, inputs per scale, and scales (R, G) float32 by the name of the matrix."""

    bits: int
    group: int
    scales: Mapping[str, torch.Tensor]

    @property
    def precision(self) -> str:
        """The packed precision that holds it without loss."""
        return PRECISIONS[self.bits]


def write_grid(directory: Path, grid: StoredGrid) -> None:
    """Write the scales into a model directory; they are bf16 numbers."""
    tensors = {name: scales.detach().cpu().bfloat16().contiguous() for name, scales in grid.scales.items()}
    # One entry of metadata: the order of several is chance, and the same run must give the same bytes.
    save_file(tensors, directory / GRID_NAME, {"grid": f"{grid.bits} {grid.group}"})


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
            bits, group = map(int, (stream.metadata() or {})["grid"].split())
            scales = {name: stream.get_tensor(name).float() for name in stream.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError, KeyError, ValueError) as err:
        raise OwledError(f"{file} cannot be read ({err}): copy the artifact again, or prune again") from err
    if bits not in PRECISIONS or group not in GROUPS:
        raise OwledError(f"{file} tells of {bits} bits and groups of {group}, which this release does not know")
    return StoredGrid(bits, group, scales)
