"""The binarised matrices of a pruned model as their file, beside the weights of an artifact. Needs torch and a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from owled_ros.errors import OwledError
from owled_ros.models.components import Structure
from owled_ros.pruning.binarise import LEVELS
from owled_ros.pruning.config import PruneConfig
from owled_ros.sparse.binary import BINARY_NAME, BinaryMatrix, encode, write_binary


def encoded(
    structure: Structure, levels: Mapping[str, torch.Tensor], config: PruneConfig
) -> Iterator[tuple[str, BinaryMatrix]]:
    """Take the matrices of a model apart; `levels` (R, B 5) are those of `prune_blocks`, by name."""
    if config.group is None:
        raise OwledError("binarised matrices follow a pattern: give one")
    for block in structure.blocks:
        for matrix in block.matrices:
            weight = matrix.weight().detach().float().cpu().numpy()
            known = levels[matrix.name].cpu().unflatten(1, (-1, LEVELS)).numpy()
            yield matrix.name, encode(weight, weight == 0, known, config.group[1])


def write_levels(
    structure: Structure, levels: Mapping[str, torch.Tensor], config: PruneConfig
) -> Callable[[Path], None]:
    """Return what adds the file to the directory of an artifact."""
    return lambda aside: write_binary(aside / BINARY_NAME, dict(encoded(structure, levels, config)))
