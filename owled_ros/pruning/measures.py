"""What the blocks of a model are allocated by: one number per block, under the name of its allocation. Needs torch and a loaded model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from owled_ros.errors import OwledError
from owled_ros.models.components import Block, Structure
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.outliers import median_score, outlier_percent, outlier_scores
from owled_ros.pruning.spectrum import eigenvalues, hill_exponent
from owled_ros.pruning.statistics import InputStatistics

Statistics = Mapping[str, InputStatistics]  # of the dense model's inputs, by matrix name
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measure:
    """How to take it: numbers by block name, from the weights and, where it needs them, from the statistics of the inputs."""

    of: Callable[[Structure, Statistics, PruneConfig], dict[str, float]]
    needs_inputs: bool = True


def block_outliers(structure: Structure, seen: Statistics, threshold: float) -> dict[str, float]:
    """Return the LOD of every block [%]."""
    return {block.name: outlier_percent(_scores(block, seen), threshold) for block in structure.blocks}


def block_medians(structure: Structure, seen: Statistics) -> dict[str, float]:
    """Return the median score of every block."""
    return {block.name: median_score(_scores(block, seen)) for block in structure.blocks}


def block_exponents(structure: Structure) -> dict[str, float]:
    """Return the mean power-law exponent of every block's matrices.

    A matrix without a tail (all zero, constant, of rank one) does not count; a block without any gets the mean of the others.
    """
    found: dict[str, list[float]] = {}
    for block in structure.blocks:
        exponents = found[block.name] = []
        for matrix in block.matrices:
            weight = matrix.weight()
            if not bool(weight.isfinite().all()):
                raise OwledError(f"the weights of {matrix.name} hold NaN or infinities: the model is damaged")
            exponent = hill_exponent(eigenvalues(weight))
            if exponent is None:
                logger.warning(
                    "%s: its spectrum has no tail, the exponent of its block is that of the others", matrix.name
                )
            else:
                exponents.append(exponent)
    known = {name: sum(values) / len(values) for name, values in found.items() if values}
    middle = sum(known.values()) / len(known) if known else 0.0
    return {name: known.get(name, middle) for name in found}


def block_norms(structure: Structure) -> dict[str, float]:
    """Return the root mean square of every block's weights: what STBLLM's layer-wise N:M goes by (arXiv 2408.01803)."""
    found = {}
    for block in structure.blocks:
        squares = sum(float(matrix.weight().float().square().sum(dtype=torch.float64)) for matrix in block.matrices)
        found[block.name] = (squares / block.size) ** 0.5
    return found


def block_depths(structure: Structure) -> dict[str, float]:
    """Return the place of every block in its own component: 0 for the first, 1 for the last, 0.5 for a single one."""
    depths: dict[str, float] = {}
    for component in structure.component_sizes():
        names = [block.name for block in structure.blocks if block.component == component]
        depths |= {name: place / (len(names) - 1) if len(names) > 1 else 0.5 for place, name in enumerate(names)}
    return depths


MEASURES: dict[str, Measure] = {
    "owl": Measure(lambda structure, seen, config: block_outliers(structure, seen, config.lod_threshold)),
    "dlp": Measure(lambda structure, seen, config: block_medians(structure, seen)),
    "alpha-pruning": Measure(lambda structure, seen, config: block_exponents(structure), needs_inputs=False),
    "atp": Measure(lambda structure, seen, config: block_depths(structure), needs_inputs=False),
    "norm": Measure(lambda structure, seen, config: block_norms(structure), needs_inputs=False),
}


def _scores(block: Block, seen: Statistics) -> Iterator[torch.Tensor]:
    for matrix in block.matrices:
        yield outlier_scores(matrix.weight(), seen[matrix.name].squares_per_sequence())
