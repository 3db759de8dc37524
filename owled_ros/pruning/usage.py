"""How a model really uses its weights: which blocks the calibration runs, and by which products. Needs torch.

One pass over a few batches settles what the module tree cannot tell: a fused parameter's layout, a weight that is read
without its layer being called, a tower that the calibration leaves out.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Block, Matrix, Structure
from owled_ros.pruning.config import Batch
from owled_ros.pruning.passes import forward_body, in_words, telling_batches, to_device
from owled_ros.pruning.products import Products

NEVER = "left dense: the calibration never runs it"
logger = logging.getLogger(__name__)


def settle_structure(
    model: nn.Module, structure: Structure, batches: Sequence[Batch], needed: Sequence[str] = ()
) -> Structure:
    """Return the structure as the calibration uses it: blocks that never run are left dense, layouts are the observed ones.

    Args:
        needed: components that must run, because a sparsity was given for them.

    Raises:
        OwledError: when nothing, or not what is needed, ever runs; or the model cannot run the calibration.
    """
    watch = _Watch(structure.blocks)
    first, others = telling_batches(batches)
    parameter = next(model.parameters())
    with watch, torch.no_grad(), in_words("the calibration"):
        for place, batch in enumerate([*first, *others]):
            if place >= len(first) and len(watch.blocks) == len(structure.blocks):
                break
            forward_body(model, to_device(batch, parameter.device, parameter.dtype))
    ran = tuple(watch.settled(block) for block in structure.blocks if block.name in watch.blocks)
    idle = {block.name: block.component for block in structure.blocks if block.name not in watch.blocks}
    missing = [name for name, component in idle.items() if component in needed]
    if missing or not ran:
        name = (missing or list(idle))[0]
        raise OwledError(
            f"the calibration never runs {name} (component {idle[name]}): add frames with images, or leave that component out"
        )
    if idle:
        parts = ", ".join(sorted(set(idle.values())))
        logger.warning("%d blocks (%s) are %s; calibrate on what they read to prune them", len(idle), parts, NEVER)
    return Structure(ran, {**structure.skipped, **dict.fromkeys(idle, NEVER)})


class _Watch:
    """Notes, while entered, which blocks and modules are called and how each weight is multiplied."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks: set[str] = set()
        self._wanted = blocks
        self._called: set[nn.Module] = set()
        self._layout: dict[tuple[nn.Module, str], bool] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Watch:
        for block in self._wanted:
            hook = block.module.register_forward_pre_hook(lambda *_, name=block.name: self.blocks.add(name))
            self._stack.callback(hook.remove)
        matrices = [matrix for block in self._wanted for matrix in block.matrices]
        for module in dict.fromkeys(matrix.module for matrix in matrices):
            hook = module.register_forward_pre_hook(lambda called, _: self._called.add(called))
            self._stack.callback(hook.remove)
        self._stack.enter_context(Products(matrices, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settled(self, block: Block) -> Block:
        """Return a block with the observed layouts."""
        return replace(block, matrices=tuple(map(self._settled, block.matrices)))

    def _settled(self, matrix: Matrix) -> Matrix:
        layout = self._layout.get((matrix.module, matrix.parameter))
        seen = matrix if layout is None else matrix.laid_out(layout)
        return replace(seen, read=layout is not None and matrix.module not in self._called)

    def _note(self, matrix: Matrix, _: torch.Tensor, transposed: bool) -> None:
        self._layout[matrix.module, matrix.parameter] = transposed
