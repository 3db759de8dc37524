"""Prune a block while it runs: every matrix on inputs that have passed the pruned ones before it, in one pass. Needs torch."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import nn

from owled_ros.models.components import Block, Matrix
from owled_ros.pruning.drift import Compared, DenseTwin, Drift
from owled_ros.pruning.lockstep import Arguments, run_in_step
from owled_ros.pruning.passes import Chunk, run_block
from owled_ros.pruning.statistics import InputStatistics, input_of, run_experts


class Cut(Protocol):
    """Prunes one matrix and notes how; `aim` (R, K) is what is pruned in place of its own weight (see `drift`)."""

    def __call__(self, matrix: Matrix, seen: InputStatistics, aim: torch.Tensor | None = None) -> None: ...


class FusedPruning:
    """Walks the chunks through a block, halts them in front of every matrix and has it pruned there."""

    def __init__(
        self, block: Block, chunks: Sequence[Chunk], with_hessian: bool, cut: Cut, twin: DenseTwin | None = None
    ) -> None:
        self._block, self._chunks, self._with_hessian, self._cut, self._twin = block, chunks, with_hessian, cut, twin
        self._left = {matrix.name: matrix for matrix in block.matrices if not matrix.read}
        self._drift = None if twin is None else Drift(block, twin, chunks)
        self._last: tuple[list[weakref.ref[torch.Tensor]], InputStatistics, Compared | None] = (
            [],
            InputStatistics.empty(0, with_hessian),
            None,
        )

    def run(self) -> list[Matrix]:
        """Prune, move chunks and twin past the block, and return the matrices that no chunk reached."""

        def run(chunk: Chunk) -> None:
            chunk.hidden = run_block(self._block, chunk)

        jobs = [partial(run, chunk) for chunk in self._chunks]
        stops = list(dict.fromkeys(matrix.module for matrix in self._left.values()))
        if self._twin is None:
            run_in_step(jobs, stops, self._handle)
        else:
            same = {self._twin.of[module]: module for module in stops}
            run_in_step([*jobs, *self._twin.jobs(self._chunks)], stops, self._handle, same)
        return list(self._left.values())

    def _handle(self, module: nn.Module, calls: list[tuple[int, Arguments]]) -> None:
        """Prune what a module holds; the first calls are the chunks', the others the twin's."""
        count = len(self._chunks)
        own = {index: arguments for index, arguments in calls if index < count}
        if not own:  # only the twin comes by
            return
        matrices = [matrix for matrix in self._left.values() if matrix.module is module]
        for matrix in matrices:
            self._left.pop(matrix.name)
        if matrices[0].expert is not None:
            self._prune_experts(module, matrices, list(own.values()))
            return
        beside = {index - count: input_of(arguments) for index, arguments in calls if index >= count}
        inputs = {index: input_of(arguments) for index, arguments in own.items()}
        with torch.autocast(matrices[0].weight().device.type, enabled=False):  # unlike the passes, never in bfloat16
            self._prune_plain(matrices[0], inputs, beside)

    def _prune_plain(self, matrix: Matrix, own: Mapping[int, torch.Tensor], beside: Mapping[int, torch.Tensor]) -> None:
        known, found, compared = self._last
        inputs = list(own.values())
        if len(known) != len(inputs) or any(old() is not new for old, new in zip(known, inputs, strict=True)):
            found = InputStatistics.empty(matrix.columns, self._with_hessian, matrix.weight().device)
            compared = None
            for index, tensor in own.items():
                found.add(tensor, self._chunks[index].token_mask)
            if self._drift is not None and found.hessian is not None:
                compared = self._drift.compare(own, beside, found.hessian)
            # q, k and v (gate and up) read the same tensors: one statistic serves all; weak, so that no activation is held
            self._last = ([weakref.ref(tensor) for tensor in inputs], found, compared)
        if self._drift is None or compared is None:
            self._cut(matrix, found)
            return
        self._cut(matrix, found, self._drift.aim(matrix, own, compared))
        self._drift.note(matrix, own, beside)

    def _prune_experts(self, module: nn.Module, matrices: Sequence[Matrix], calls: Sequence[Arguments]) -> None:
        """Prune one fused parameter after the other; each sees the inputs that come from the pruned ones before it."""
        for parameter in dict.fromkeys(matrix.parameter for matrix in matrices):
            part = [matrix for matrix in matrices if matrix.parameter == parameter]
            found = run_experts(module, part, calls, self._with_hessian)
            for matrix in part:
                self._cut(matrix, found[matrix.name])
