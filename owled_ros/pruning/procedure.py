"""Prune a loaded model in place, segment by segment and block by block. Needs torch.

The whole model stays in memory as it is; beyond it only one block's statistics and the chunks' hidden states do, with drift corrected
a copy of the block and the dense model's hidden states, and with reconstruction those of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from owled_ros.models.components import Block, Structure
from owled_ros.pruning.blocks import Outcome, Rule, advance, prune_block
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.drift import DenseTwin
from owled_ros.pruning.fitted import Kept, Restorable, Rounded
from owled_ros.pruning.gradients import dense_gradients
from owled_ros.pruning.passes import Chunk, find_segments, in_words, record, record_entering, telling_batches
from owled_ros.pruning.reconstruction import Part, dense_parts, reconstruct


class BlockStore(Protocol):
    """Where finished blocks are kept while the run lasts."""

    def load_block(self, index: int, block: Block) -> Outcome | None:
        """Put saved weights back into the model and return the block's outcome; None when it is not there."""

    def save_block(self, index: int, block: Block, outcome: Outcome) -> None:
        """Keep the pruned weights of a block and its outcome; they stay as they are until `settle`."""

    def settle(self) -> None:
        """Wait until all that was saved is kept."""


def prune_blocks(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    zeros: Mapping[str, int],
    config: PruneConfig,
    store: BlockStore | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Outcome:
    """Prune every matrix of the structure in place.

    Args:
        zeros: how many weights of each matrix become zero, by matrix name.
        store: finished blocks are saved there and not pruned a second time.
        report: called with the blocks done, all blocks and the name of the last one.

    Returns:
        The matrices that the score could not rank, with what was done instead, and the scales of what was rounded.
    """
    try:
        with in_words("the calibration"):
            return _prune_segments(model, structure, batches, zeros, config, store, report)
    finally:
        if store is not None:
            store.settle()


def _prune_segments(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    zeros: Mapping[str, int],
    config: PruneConfig,
    store: BlockStore | None,
    report: Callable[[int, int, str], None],
) -> Outcome:
    outcome = Outcome()
    by_gradient = config.score == "pruner-zero" or (config.tree is not None and config.tree.uses("G"))
    gradients = dense_gradients(model, structure, batches) if by_gradient else None
    rule = Rule(
        config.score, config.group, config.damping, config.refinement, config.grid, config.rows, config.tree, config.binary
    )  # fmt: skip
    segments = find_segments(model, structure.blocks, *telling_batches(batches))
    total, done = len(structure.blocks), 0
    steps = config.reconstruct_steps or 0
    follows = config.corrects_drift or steps > 0
    entering = record_entering(model, segments, batches) if follows else [[] for _ in segments]  # in the dense model
    for index, segment in enumerate(segments):
        chunks, dense = record(model, segments, index, batches), entering.pop(0)
        for block in segment.blocks:
            before = list(dense) if steps else []
            twin = DenseTwin(block, dense) if config.corrects_drift else None
            dense, parts = dense_parts(block, chunks, before) if steps else (dense, [])
            found = None if store is None else store.load_block(done, block)
            if found is not None:
                advance(block, chunks)
                if twin is not None:
                    twin.advance(chunks)
            else:
                inputs = [chunk.hidden for chunk in chunks] if parts else []
                found = prune_block(block, chunks, zeros, rule, config.statistics, gradients, twin)
                if parts:
                    for chunk, hidden in zip(chunks, inputs, strict=True):
                        chunk.hidden = hidden
                    _reconstruct(block, chunks, before, parts, zeros, config, done, found)
                    advance(block, chunks)
                if store is not None:
                    store.save_block(done, block, found)
            dense = dense if twin is None else twin.hidden
            outcome.fallbacks |= found.fallbacks
            outcome.scales |= found.scales
            for chunk in chunks:
                chunk.arguments.pop(block.name)
            done += 1
            report(done, total, block.name)
    return outcome


def _reconstruct(
    block: Block,
    chunks: Sequence[Chunk],
    dense: Sequence[torch.Tensor],
    parts: Sequence[Part],
    zeros: Mapping[str, int],
    config: PruneConfig,
    index: int,
    outcome: Outcome,
) -> None:
    """Fit a block's parts to the dense model's, on their grid where they have one; the outcome then gets the fitted scales."""
    grid, rounded = config.grid, []

    def fitted(part: Part) -> Restorable:
        if grid is None:
            return Kept(part.parameters)
        rounded.append(Rounded(part.matrices, outcome.scales, zeros, grid))
        return rounded[-1]

    reconstruct(block, chunks, dense, parts, config.reconstruct_steps or 0, config.seed + index, fitted)
    for part in rounded:
        outcome.scales |= part.scales
