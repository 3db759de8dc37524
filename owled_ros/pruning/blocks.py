"""Prune one block: collect the statistics of its matrices, choose and write the zeros, move the chunks past it.

Needs torch. Three ways of statistics (see `PruneConfig.statistics`): fused, block and oneshot.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Block, Matrix
from owled_ros.pruning import scores
from owled_ros.pruning.lockstep import Arguments, run_in_step
from owled_ros.pruning.passes import Chunk, run_block
from owled_ros.pruning.sparsegpt import refine, sparsegpt
from owled_ros.pruning.statistics import InputStatistics, run_experts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """How the zeros of a matrix are chosen: a score, an (N, M) group or None, the Hessian's damping, steps of `refine`."""

    score: str
    group: tuple[int, int] | None = None
    damping: float = 0.01
    refine_steps: int = 0

    @property
    def needs_hessian(self) -> bool:
        return self.score == "sparsegpt" or self.refine_steps > 0


def prune_block(
    block: Block,
    chunks: Sequence[Chunk],
    zeros: Mapping[str, int],
    rule: Rule,
    statistics: str,
    gradients: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Prune the matrices of a block in place and replace each chunk's hidden state by the block's output.

    Args:
        zeros: how many weights of each matrix become zero, by matrix name.
        gradients: (R, K) per matrix name, for pruner-zero.
    """
    if statistics == "fused":
        _prune_fused(block, chunks, zeros, rule, gradients or {})
        return
    seen = observe(block, chunks, rule.needs_hessian, advance=statistics == "oneshot")
    for matrix in block.matrices:
        prune_matrix(matrix, seen[matrix.name], zeros[matrix.name], rule, (gradients or {}).get(matrix.name))
    if statistics != "oneshot":
        advance(block, chunks)


def advance(block: Block, chunks: Sequence[Chunk]) -> None:
    """Replace each chunk's hidden state by the block's output."""
    with torch.no_grad():
        for chunk in chunks:
            chunk.hidden = run_block(block, chunk)


def observe(block: Block, chunks: Sequence[Chunk], with_hessian: bool, advance: bool) -> dict[str, InputStatistics]:
    """Run a block as it is and return the statistics of all its matrices; optionally keep its outputs."""
    with StatisticsHooks(block, with_hessian) as hooks, torch.no_grad():
        for chunk in chunks:
            hooks.token_mask = chunk.token_mask
            output = run_block(block, chunk)
            if advance:
                chunk.hidden = output
    return hooks.results()


class StatisticsHooks:
    """Collects the statistics of a block's matrices during any forward pass while it is entered."""

    def __init__(self, block: Block, with_hessian: bool) -> None:
        self.token_mask: torch.Tensor | None = None  # (B, T) of the pass under way
        self._block, self._with_hessian = block, with_hessian
        self._seen = {matrix.name: _empty(matrix, with_hessian) for matrix in block.matrices}
        self._handles: list[Any] = []

    def __enter__(self) -> StatisticsHooks:
        self._handles = [
            module.register_forward_pre_hook(self._before, with_kwargs=True) for module in _modules(self._block)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def results(self) -> dict[str, InputStatistics]:
        """Return the sums so far, by matrix name; a matrix that never ran has no tokens."""
        return self._seen

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        matrices = [matrix for matrix in self._block.matrices if matrix.module is module]
        if matrices[0].expert is None:
            self._seen[matrices[0].name].add(_input_of((args, kwargs)), self.token_mask)
            return
        for name, found in run_experts(module, matrices, [(args, kwargs)], self._with_hessian).items():
            self._seen[name].merge(found)


def prune_matrix(
    matrix: Matrix, seen: InputStatistics, zeros: int, rule: Rule, gradient: torch.Tensor | None = None
) -> None:
    """Choose the zeros of one matrix and write them (for SparseGPT the corrected weights too) into the model."""
    weight = matrix.weight()
    if not bool(weight.isfinite().all()):
        raise OwledError(f"the weights of {matrix.name} hold NaN or infinities: the model is damaged")
    seen.check(matrix.name)
    score = rule.score
    if seen.tokens == 0 and score != "magnitude":
        logger.warning("%s saw no calibration token: pruned by magnitude", matrix.name)
        score = "magnitude"
    if score == "sparsegpt":
        assert seen.hessian is not None
        pruned, mask = sparsegpt(weight, seen.hessian, zeros, rule.group, rule.damping)
    else:
        mask = _mask(matrix, score, seen, zeros, rule, gradient)
        pruned = weight.masked_fill(mask, 0.0)
    if rule.refine_steps and seen.tokens:
        assert seen.hessian is not None
        pruned = refine(weight, pruned, mask, seen.hessian, rule.refine_steps, rule.damping)
    weight.copy_(pruned)


def _mask(
    matrix: Matrix, score: str, seen: InputStatistics, zeros: int, rule: Rule, gradient: torch.Tensor | None
) -> torch.Tensor:
    weight = matrix.weight()
    if score == "magnitude":
        ranking = scores.magnitude(weight)
    elif score == "wanda":
        ranking = scores.wanda(weight, seen.squares)
    else:
        if gradient is None:
            raise OwledError(f"no gradient for {matrix.name}: pruner-zero needs the gradients of every matrix")
        ranking = scores.pruner_zero(weight, gradient)
    return scores.mask_groups(ranking, *rule.group) if rule.group else scores.mask_rows(ranking, zeros)


def _prune_fused(
    block: Block, chunks: Sequence[Chunk], zeros: Mapping[str, int], rule: Rule, gradients: Mapping[str, torch.Tensor]
) -> None:
    last: tuple[list[weakref.ref[torch.Tensor]], InputStatistics] | None = None  # weak: holds no activation in memory

    def handle(module: nn.Module, calls: list[tuple[int, Arguments]]) -> None:
        nonlocal last
        matrices = [matrix for matrix in block.matrices if matrix.module is module]
        if matrices[0].expert is not None:
            _prune_experts(module, matrices, [arguments for _, arguments in calls], zeros, rule, gradients)
            return
        inputs = [_input_of(arguments) for _, arguments in calls]
        if last is not None and _same_tensors(last[0], inputs):
            found = last[1]  # q, k and v (gate and up) read the same tensors: one statistic serves all
        else:
            found = _empty(matrices[0], rule.needs_hessian)
            for (index, _), tensor in zip(calls, inputs, strict=True):
                found.add(tensor, chunks[index].token_mask)
        last = ([weakref.ref(tensor) for tensor in inputs], found)
        prune_matrix(matrices[0], found, zeros[matrices[0].name], rule, gradients.get(matrices[0].name))

    def run(chunk: Chunk) -> None:
        chunk.hidden = run_block(block, chunk)

    run_in_step([partial(run, chunk) for chunk in chunks], _modules(block), handle)


def _same_tensors(known: Sequence[weakref.ref[torch.Tensor]], inputs: Sequence[torch.Tensor]) -> bool:
    return len(known) == len(inputs) and all(old() is new for old, new in zip(known, inputs, strict=True))


def _prune_experts(
    module: nn.Module,
    matrices: Sequence[Matrix],
    calls: Sequence[Arguments],
    zeros: Mapping[str, int],
    rule: Rule,
    gradients: Mapping[str, torch.Tensor],
) -> None:
    """Prune one fused parameter after the other; each sees the inputs that come from the pruned ones before it."""
    for parameter in dict.fromkeys(matrix.parameter for matrix in matrices):
        part = [matrix for matrix in matrices if matrix.parameter == parameter]
        found = run_experts(module, part, calls, rule.needs_hessian)
        for matrix in part:
            prune_matrix(matrix, found[matrix.name], zeros[matrix.name], rule, gradients.get(matrix.name))


def _modules(block: Block) -> list[nn.Module]:
    return list(dict.fromkeys(matrix.module for matrix in block.matrices))


def _input_of(arguments: Arguments) -> torch.Tensor:
    args, kwargs = arguments
    return args[0] if args else next(value for value in kwargs.values() if isinstance(value, torch.Tensor))


def _empty(matrix: Matrix, with_hessian: bool) -> InputStatistics:
    return InputStatistics.empty(matrix.columns, with_hessian, matrix.weight().device)
