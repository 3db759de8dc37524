"""Prune a loaded model in place, segment by segment and block by block. Needs torch.

The whole model stays in memory as it is; beyond it only one block's statistics and the chunks' hidden states do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import nn

from owled_ros.models.components import Block, Structure
from owled_ros.pruning.blocks import Rule, advance, prune_block
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.gradients import dense_gradients
from owled_ros.pruning.passes import find_segments, record


class BlockStore(Protocol):
    """Where finished blocks are kept while the run lasts."""

    def load_block(self, index: int, block: Block) -> bool:
        """Put saved weights back into the model; False when the block is not there."""

    def save_block(self, index: int, block: Block) -> None:
        """Keep the pruned weights of a block."""


def prune_blocks(
    model: nn.Module,
    structure: Structure,
    batches: Sequence[Batch],
    zeros: Mapping[str, int],
    config: PruneConfig,
    store: BlockStore | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> None:
    """Prune every matrix of the structure in place.

    Args:
        zeros: how many weights of each matrix become zero, by matrix name.
        store: finished blocks are saved there and not pruned a second time.
        report: called with the blocks done, all blocks and the name of the last one.
    """
    gradients = dense_gradients(model, structure, batches) if config.score == "pruner-zero" else None
    rule = Rule(config.score, config.group, config.damping, config.refinement)
    segments = find_segments(model, structure.blocks, _most_telling(batches))
    total, done = len(structure.blocks), 0
    for index, segment in enumerate(segments):
        chunks = record(model, segments, index, batches)
        for block in segment.blocks:
            if store is not None and store.load_block(done, block):
                advance(block, chunks)
            else:
                prune_block(block, chunks, zeros, rule, config.statistics, gradients)
                if store is not None:
                    store.save_block(done, block)
            for chunk in chunks:
                chunk.arguments.pop(block.name)
            done += 1
            report(done, total, block.name)


def _most_telling(batches: Sequence[Batch]) -> list[Batch]:
    """Pick one batch of every set of inputs (text only, with image), so that every component runs."""
    kinds: dict[tuple[str, ...], Batch] = {}
    for batch in batches:
        kinds.setdefault(tuple(sorted(batch)), batch)
    return list(kinds.values())
