"""The plan of a pruning run: how many weights of each matrix become zero, and why. Needs torch and a loaded model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Block, Structure
from owled_ros.pruning import allocation
from owled_ros.pruning.blocks import StatisticsHooks
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.learned import LearnSettings, learn
from owled_ros.pruning.measures import MEASURES, block_outliers
from owled_ros.pruning.passes import forward_body, to_device
from owled_ros.pruning.statistics import InputStatistics

CORRECTED_SHARE = 0.4  # of the way from block0 to the learned plan, where the kept weights are corrected as well
LEARN_SEQUENCES = 32  # sequences whose norms rank the weights while an allocation is learned
Report = Callable[[int, int, str], None]  # done, total, detail


@dataclass
class SparsityPlan:
    """Sparsity and number of zeros per matrix name, LOD per block name [%] (empty where none was measured)."""

    sparsity: dict[str, float]
    zeros: dict[str, int]
    lod: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    config: PruneConfig,
    report: Report,
    learned: Mapping[str, float] | None = None,
) -> SparsityPlan:
    """Decide the zeros of every matrix: `config.allocation` over blocks, exact to one weight per pool.

    `learned` is a result of `learn_plan` for the same budgets, taken instead of learning it again.
    """
    if config.allocation == "owl-reference":
        seen = dense_statistics(model, structure, batches)
        return _reference_plan(structure, config, block_outliers(structure, seen, config.lod_threshold))
    pools = budget_pools(structure, config)
    if config.plan is not None:
        sparsity = within_budgets(structure, config.plan, pools)
        return SparsityPlan(sparsity, count_zeros(structure, sparsity, pools, config.group))
    measure: dict[str, float] = {}
    if config.allocation in MEASURES:
        taken = MEASURES[config.allocation]
        chosen = first_sequences(batches, config.lod_samples) if taken.needs_inputs else None
        seen = {} if chosen is None else dense_statistics(model, structure, chosen)
        measure = taken.of(structure, seen, config)
    per_block = _block_plan(structure, config, pools, measure)
    sparsity = {matrix.name: per_block[block.name] for block in structure.blocks for matrix in block.matrices}
    if config.allocation == "learned":
        learned = learned or learn_plan(model, structure, batches, config, report)
        share = CORRECTED_SHARE if config.corrects else 1.0
        sparsity = {name: value + share * (learned[name] - value) for name, value in sparsity.items()}
    lod = measure if config.allocation == "owl" else {}
    return SparsityPlan(sparsity, count_zeros(structure, sparsity, pools, config.group), lod)


def learn_plan(
    model: nn.Module, structure: Structure, batches: Sequence[Batch], config: PruneConfig, report: Report
) -> dict[str, float]:
    """Learn a sparsity per matrix name on Wanda's masks, whatever the score, from the plan that protects first blocks."""
    pools = budget_pools(structure, config)
    seen = dense_statistics(model, structure, first_sequences(batches, LEARN_SEQUENCES))
    settings = LearnSettings(steps=config.learn_steps, seed=config.seed)
    return learn(
        model, structure, seen, batches, _block_plan(structure, config, pools, {}), pools, settings,
        lambda step, loss: report(step, config.learn_steps, f"loss {loss:.3f}"),
    )  # fmt: skip


def budget_pools(structure: Structure, config: PruneConfig) -> list[tuple[tuple[str, ...], float]]:
    """Return (components, sparsity): each budgeted component alone, the others together."""
    present = list(structure.component_sizes())
    pools: list[tuple[tuple[str, ...], float]] = [
        ((name,), config.budgets[name]) for name in present if name in config.budgets
    ]
    rest = tuple(name for name in present if name not in config.budgets)
    return [*pools, (rest, config.sparsity)] if rest else pools


def within_budgets(
    structure: Structure, wanted: Mapping[str, float], pools: Sequence[tuple[tuple[str, ...], float]]
) -> dict[str, float]:
    """Shift the sparsities of every pool by one number, within the bounds, so that it meets its target.

    Raises:
        OwledError: when a matrix is missing: the plan is that of another model.
    """
    found: dict[str, float] = {}
    for members, target in pools:
        matrices = [matrix for block in structure.blocks if block.component in members for matrix in block.matrices]
        missing = [matrix.name for matrix in matrices if matrix.name not in wanted]
        if missing:
            raise OwledError(
                f"the plan knows nothing of {missing[0]} and {len(missing) - 1} more of {len(matrices)} matrices: it is of another "
                "model or of other components; search one for this"
            )
        sizes = np.array([float(matrix.size) for matrix in matrices])
        values = allocation.project(np.array([wanted[matrix.name] for matrix in matrices]), sizes, target)
        found |= {matrix.name: float(value) for matrix, value in zip(matrices, values, strict=True)}
    return found


def count_zeros(
    structure: Structure,
    sparsity: Mapping[str, float],
    pools: Sequence[tuple[tuple[str, ...], float]],
    group: tuple[int, int] | None = None,
) -> dict[str, int]:
    """Round the sparsities to whole zeros so that every pool meets its target to one weight.

    No matrix gets fewer zeros than it has already; the others then get fewer. A target of 0 adds none: every matrix keeps what it
    has. With an N:M `group` every matrix gets a whole N of its own.

    Raises:
        OwledError: when a pool has more zeros than its target asks for.
    """
    zeros: dict[str, int] = {}
    for members, target in pools:
        matrices = [matrix for block in structure.blocks if block.component in members for matrix in block.matrices]
        sizes = np.array([matrix.size for matrix in matrices], np.int64)
        wanted = np.array([sparsity[matrix.name] for matrix in matrices])
        if group is None:
            counts = allocation.zero_counts(wanted, sizes, target)
        else:
            counts = allocation.group_counts(wanted, sizes, *group) * sizes // group[1]
        already = np.array([int((matrix.stored() == 0).sum()) for matrix in matrices], np.int64)
        if target == 0.0 and group is None:
            counts = already
        if already.sum() > counts.sum():
            raise OwledError(
                f"the {' and '.join(members)} part has {already.sum() / sizes.sum():.2%} zeros already: pruning it to "
                f"{target:.2%} would not make it sparser. Give a higher sparsity, or the dense model"
            )
        if group is None:
            counts = allocation.raised(counts, already)
        zeros.update({matrix.name: int(count) for matrix, count in zip(matrices, counts, strict=True)})
    return zeros


def dense_statistics(model: nn.Module, structure: Structure, batches: Sequence[Batch]) -> dict[str, InputStatistics]:
    """Run the model as it is and return the squared input norms of every matrix."""
    parameter = next(model.parameters())
    with StatisticsHooks(structure.blocks, with_hessian=False) as hooks, torch.no_grad():
        for batch in batches:
            forward_body(model, to_device(batch, parameter.device, parameter.dtype))
    seen = hooks.results()
    for name, found in seen.items():
        found.check(name)
    return seen


def first_sequences(batches: Sequence[Batch], sequences: int | None) -> list[Batch]:
    """Take whole batches, spread evenly over all of them, until `sequences` are reached (None: all)."""
    if sequences is None:
        return list(batches)
    per_batch = max(max(_sequence_count(batch) for batch in batches), 1)
    wanted = min(math.ceil(sequences / per_batch), len(batches))
    return [batches[index * len(batches) // wanted] for index in range(wanted)]


def _sequence_count(batch: Batch) -> int:
    return max((value.shape[0] for key, value in batch.items() if key == "input_ids"), default=1)


def _block_plan(
    structure: Structure,
    config: PruneConfig,
    pools: Sequence[tuple[tuple[str, ...], float]],
    measure: Mapping[str, float],
) -> dict[str, float]:
    """Return the sparsity of every block; `measure` is what the allocation goes by, by block name."""
    plan: dict[str, float] = {}
    for members, target in pools:
        blocks = [block for block in structure.blocks if block.component in members]
        sizes = np.array([block.size for block in blocks], float)
        if config.allocation in MEASURES:
            of_blocks = np.array([measure[block.name] for block in blocks])
            values = allocation.ALLOCATORS[config.allocation](of_blocks, sizes, target, config.spread)
        elif config.allocation in ("block0", "learned"):
            values = allocation.protect_first(_firsts(blocks), sizes, target)
        else:
            values = allocation.uniform(sizes, target)
        plan.update({block.name: float(value) for block, value in zip(blocks, values, strict=True)})
    return plan


def _firsts(blocks: Sequence[Block]) -> np.ndarray:
    """Mark the first block of every component, unless it is the only one."""
    names = [block.component for block in blocks]
    return np.array([names.index(name) == place and names.count(name) > 1 for place, name in enumerate(names)])


def _reference_plan(structure: Structure, config: PruneConfig, lod: Mapping[str, float]) -> SparsityPlan:
    """OWL as its reference code does it: plain mean over blocks, int(K * S_l) zeros in every row."""
    values = allocation.owl_reference(
        np.array([lod[block.name] for block in structure.blocks]), config.sparsity, config.spread
    )
    sparsity: dict[str, float] = {}
    zeros: dict[str, int] = {}
    for block, value in zip(structure.blocks, values, strict=True):
        for matrix in block.matrices:
            sparsity[matrix.name] = float(value)
            zeros[matrix.name] = int(matrix.columns * float(value)) * matrix.rows
    return SparsityPlan(sparsity, zeros, dict(lod))
