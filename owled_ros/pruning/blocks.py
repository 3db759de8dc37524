"""Prune one block: collect the statistics of its matrices, choose and write the zeros, move the chunks past it.

Needs torch. Three ways of statistics (see `PruneConfig.statistics`): fused, block and oneshot.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Block, Matrix
from owled_ros.pruning import scores
from owled_ros.pruning.admm import admm
from owled_ros.pruning.binarise import Binary, binarise
from owled_ros.pruning.config import CORRECTING, STBLLM
from owled_ros.pruning.drift import DenseTwin
from owled_ros.pruning.fused import Cut, FusedPruning
from owled_ros.pruning.metric import Tree, fault_of, score_of
from owled_ros.pruning.on_grid import round_kept, settle, sweep
from owled_ros.pruning.passes import Chunk, run_block
from owled_ros.pruning.rounding import Grid
from owled_ros.pruning.rows import trim_counts
from owled_ros.pruning.sparsegpt import refine, sparsegpt
from owled_ros.pruning.statistics import InputStatistics, ProductStatistics, input_of, run_experts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """How the zeros of a matrix are chosen: a score, an (N, M) group or None, the Hessian's damping, steps of `refine`.

    N is the mean over the matrices: each has its own, which follows from its zeros. With a grid the weights that stay are rounded
    to it. `rows` says how the zeros of a matrix are given out to its rows (see `PruneConfig`); `metric` is what score "metric" ranks by.
    """

    score: str
    group: tuple[int, int] | None = None
    damping: float = 0.01
    refine_steps: int = 0
    grid: Grid | None = None
    rows: str = "even"
    metric: Tree | None = None
    binary: Binary | None = None  # what stays is binarised in the same sweep

    @property
    def corrects(self) -> bool:
        """Whether the weights that stay make up for the zeros."""
        return self.score in CORRECTING or self.refine_steps > 0

    @property
    def needs_hessian(self) -> bool:
        return self.corrects or self.grid is not None or self.binary is not None or self.rows == "trim"

    def for_matrix(self, matrix: Matrix, zeros: int) -> Rule:
        """Return the rule with the matrix's own N of an N:M pattern."""
        if self.group is None:
            return self
        return replace(self, group=(round(zeros * self.group[1] / matrix.size), self.group[1]))


@dataclass
class Outcome:
    """What was done to some matrices, by name: what was done instead of the score, and the scales (R, G) of their grids or levels."""

    fallbacks: dict[str, str] = field(default_factory=dict)
    scales: dict[str, torch.Tensor] = field(default_factory=dict)


def prune_block(
    block: Block,
    chunks: Sequence[Chunk],
    zeros: Mapping[str, int],
    rule: Rule,
    statistics: str,
    gradients: Mapping[str, torch.Tensor] | None = None,
    twin: DenseTwin | None = None,
) -> Outcome:
    """Prune the matrices of a block in place and replace each chunk's hidden state by the block's output.

    Args:
        zeros: how many weights of each matrix become zero, by matrix name.
        gradients: (R, K) per matrix name, for pruner-zero.
        twin: the dense block, whose outputs the matrices are aimed at; it is moved past the block too. With fused statistics only.

    Returns:
        The matrices that could not be ranked by the score, with what was done instead, and the scales of what was rounded.
    """
    outcome = Outcome()

    def cut(matrix: Matrix, seen: InputStatistics, aim: torch.Tensor | None = None) -> None:
        reason, scales = prune_matrix(matrix, seen, zeros[matrix.name], rule, (gradients or {}).get(matrix.name), aim)
        if reason is not None:
            outcome.fallbacks[matrix.name] = reason
        if scales is not None:
            outcome.scales[matrix.name] = scales

    if statistics == "fused":
        _prune_fused(block, chunks, rule, cut, twin)
        return outcome
    seen = observe(block, chunks, rule.needs_hessian, advance=statistics == "oneshot")
    for matrix in block.matrices:
        cut(matrix, seen[matrix.name])
    if statistics != "oneshot":
        advance(block, chunks)
    return outcome


def advance(block: Block, chunks: Sequence[Chunk]) -> None:
    """Replace each chunk's hidden state by the block's output."""
    with torch.no_grad():
        for chunk in chunks:
            chunk.hidden = run_block(block, chunk)


def observe(block: Block, chunks: Sequence[Chunk], with_hessian: bool, advance: bool) -> dict[str, InputStatistics]:
    """Run a block as it is and return the statistics of all its matrices; optionally keep its outputs."""
    with StatisticsHooks([block], with_hessian) as hooks, torch.no_grad():
        for chunk in chunks:
            hooks.over(chunk.token_mask)
            output = run_block(block, chunk)
            if advance:
                chunk.hidden = output
    return hooks.results()


class StatisticsHooks:
    """Collects the statistics of all matrices of some blocks during any forward pass while it is entered."""

    def __init__(self, blocks: Sequence[Block], with_hessian: bool) -> None:
        self._token_mask: torch.Tensor | None = None
        self._with_hessian = with_hessian
        matrices = [matrix for block in blocks for matrix in block.matrices]
        self._read = ProductStatistics([matrix for matrix in matrices if matrix.read], with_hessian)
        self._of_module: dict[nn.Module, list[Matrix]] = {}
        for matrix in matrices:
            if not matrix.read:
                self._of_module.setdefault(matrix.module, []).append(matrix)
        self._seen = {m.name: _empty(m, with_hessian) for m in matrices if not m.read}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StatisticsHooks:
        for module in self._of_module:
            self._stack.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        if self._read.statistics:
            self._stack.enter_context(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def over(self, token_mask: torch.Tensor | None) -> None:
        """Tell which tokens (B, T) of the next pass are real; None: all."""
        self._token_mask = self._read.token_mask = token_mask

    def results(self) -> dict[str, InputStatistics]:
        """Return the sums so far, by matrix name; a matrix that never ran has no tokens."""
        return {**self._seen, **self._read.statistics}

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        matrices = self._of_module[module]
        if matrices[0].expert is None:
            self._seen[matrices[0].name].add(input_of((args, kwargs)), self._token_mask)
            return
        for name, found in run_experts(module, matrices, [(args, kwargs)], self._with_hessian).items():
            self._seen[name].merge(found)


def prune_matrix(
    matrix: Matrix,
    seen: InputStatistics,
    zeros: int,
    rule: Rule,
    gradient: torch.Tensor | None = None,
    aim: torch.Tensor | None = None,
) -> tuple[str | None, torch.Tensor | None]:
    """Choose the zeros of one matrix and write them (with a score that corrects the kept weights too) into the model.

    Args:
        aim: (R, K) float32, what the kept weights are to come up to in place of the matrix's own (see `drift`).

    Returns what was done instead, where nothing is known that the score could rank by, and the scales of a rounded matrix.
    """
    # The passes may multiply in bfloat16; what solves for weights never does.
    with torch.autocast(matrix.weight().device.type, enabled=False):
        return _prune(matrix, seen, zeros, rule, gradient, aim)


def _prune(
    matrix: Matrix,
    seen: InputStatistics,
    zeros: int,
    rule: Rule,
    gradient: torch.Tensor | None,
    aim: torch.Tensor | None,
) -> tuple[str | None, torch.Tensor | None]:
    weight = matrix.weight()
    goal = weight if aim is None else aim
    if not bool(weight.isfinite().all()):
        raise OwledError(f"the weights of {matrix.name} hold NaN or infinities: the model is damaged")
    seen.check(matrix.name)
    rule = rule.for_matrix(matrix, zeros)
    score, reason = rule.score, _unknown(matrix, rule, seen, gradient)
    scales: torch.Tensor | None = None
    if reason is not None:
        logger.warning("%s: %s", matrix.name, reason)
        score = "magnitude"
    if rule.binary is not None:
        assert rule.group is not None
        known = seen.hessian if reason is None else None
        found, _, levels = binarise(weight, seen.squares, known, rule.group, rule.damping, rule.binary)
        weight.copy_(found)
        return reason, levels.flatten(1)
    mask = weight == 0
    if score in CORRECTING and rule.group is None and int(mask.sum()) == zeros:  # nothing to choose
        pruned = goal.float()
    elif score == "sparsegpt" and rule.grid is not None and not rule.refine_steps:  # one sweep does both
        assert seen.hessian is not None
        pruned, mask, scales = sweep(goal, seen.hessian, zeros, rule.grid, rule.group, rule.damping)
        pruned, scales = settle(goal, pruned, mask, scales, rule.grid, seen.hessian, damping=rule.damping)
        weight.copy_(pruned)
        return reason, scales
    elif score in CORRECTING:
        assert seen.hessian is not None
        prune = sparsegpt if score == "sparsegpt" else admm
        pruned, mask = prune(goal, seen.hessian, zeros, rule.group, rule.damping)
        pruned = torch.where(mask | (pruned != 0), pruned, goal.float())  # inputs that were always zero tell nothing
    else:
        mask = _mask(matrix, score, seen, zeros, rule, gradient)
        pruned = goal.masked_fill(mask, 0.0)
    # Where nothing was made zero there is nothing to make up for.
    if rule.refine_steps and seen.tokens and not torch.equal(pruned, goal.float()):
        assert seen.hessian is not None
        pruned = refine(goal, pruned, mask, seen.hessian, rule.refine_steps, rule.damping)
    if rule.grid is not None:
        pruned, scales = _round(goal, pruned, mask, seen, rule, rule.grid)
    weight.copy_(pruned)
    return reason, scales


def _round(
    weight: torch.Tensor, pruned: torch.Tensor, mask: torch.Tensor, seen: InputStatistics, rule: Rule, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round the weights that stay, which were refined as far as they go without rounding; then settle for the dense ones."""
    known = seen.hessian if bool(seen.squares.any()) else None
    return round_kept(weight if rule.corrects else pruned, pruned, mask, grid, known, rule.damping)


def _unknown(matrix: Matrix, rule: Rule, seen: InputStatistics, gradient: torch.Tensor | None) -> str | None:
    """Say what is done instead where a matrix cannot be ranked by the score."""
    tree = rule.metric
    by_inputs = rule.score in ("wanda", *CORRECTING, STBLLM) or (tree is not None and tree.uses("X"))
    by_gradient = rule.score == "pruner-zero" or (tree is not None and tree.uses("G"))
    if by_inputs and not bool(seen.squares.any()):
        return "pruned by magnitude: no calibration token reached it, or only zeros"
    if by_gradient and gradient is not None and not bool(gradient.any()):
        return "pruned by magnitude: the loss has no gradient for it"
    if tree is not None and (fault := fault_of(score_of(tree, matrix.weight(), seen.squares, gradient))) is not None:
        return f"pruned by magnitude: the metric {fault} here"
    return None


def _mask(
    matrix: Matrix, score: str, seen: InputStatistics, zeros: int, rule: Rule, gradient: torch.Tensor | None
) -> torch.Tensor:
    weight = matrix.weight()
    if score == "magnitude":
        ranking = scores.magnitude(weight)
    elif score == "wanda":
        ranking = scores.wanda(weight, seen.squares)
    elif rule.metric is not None:
        ranking = score_of(rule.metric, weight, seen.squares, gradient)
    else:
        if gradient is None:
            raise OwledError(f"no gradient for {matrix.name}: pruner-zero needs the gradients of every matrix")
        ranking = scores.pruner_zero(weight, gradient)
    gone = weight == 0
    ranking = ranking.masked_fill(gone, torch.finfo(ranking.dtype).min)  # what is zero already counts first
    if rule.group:
        return scores.mask_groups(ranking, *rule.group)
    if rule.rows == "trim" and seen.hessian is not None and bool(seen.squares.any()):
        return scores.mask_counts(ranking, trim_counts(weight, ranking, zeros, seen.hessian, gone.sum(1)))
    return scores.mask_rows(ranking, zeros, gone.sum(1))


def _prune_fused(block: Block, chunks: Sequence[Chunk], rule: Rule, cut: Cut, twin: DenseTwin | None) -> None:
    """Prune every matrix on inputs that passed the pruned ones before it, and aim it at what the twin gives.

    A weight that is read without its module being called cannot be waited for: it is pruned first, on the whole block's
    inputs. What the chunks never reach comes last.
    """
    walk = FusedPruning(block, chunks, rule.needs_hessian, cut, twin)
    read = replace(block, matrices=tuple(matrix for matrix in block.matrices if matrix.read))
    if read.matrices:
        found = observe(read, chunks, rule.needs_hessian, advance=False)
        for matrix in read.matrices:
            cut(matrix, found[matrix.name])
    for matrix in walk.run():
        cut(matrix, _empty(matrix, with_hessian=False))


def _empty(matrix: Matrix, with_hessian: bool) -> InputStatistics:
    return InputStatistics.empty(matrix.columns, with_hessian, matrix.weight().device)
