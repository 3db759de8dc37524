"""The learned allocation: sparsity per block and matrix kind, found by gradient on the driving loss at a fixed budget.

Needs torch and a loaded model; leaves the model as it was. See docs/pruning.md for the formula and the cost.

Every matrix i has one number s_i. The model runs with the lowest s_i of each row's Wanda scores zeroed. What raising s_i
would cost is read from the ordinary weight gradient at the border of the mask:

    dL/ds_i ~ -(1 / 2d) * sum over weights with |rank - s_i| < d of (dL/dW * W),    rank in [0, 1] within the row

(a box-shaped straight-through estimate; no graph through the mask, gradients are reduced and freed one by one). At the best
plan the cost per weight, c_i = dL/ds_i / n_i, is the same everywhere, so Adam moves s_i against c_i minus its weighted
mean, and the plan is projected back onto the budget and the bounds.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Matrix, Structure
from owled_ros.pruning.allocation import Floats, project
from owled_ros.pruning.config import Batch
from owled_ros.pruning.passes import to_device
from owled_ros.pruning.quality import token_loss
from owled_ros.pruning.scores import wanda
from owled_ros.pruning.statistics import InputStatistics

RANK_STEPS = 32767  # ranks are kept as int16
BAND = 0.05  # d: half width of the border in which the gradient is read
PATH = 0.8  # Adam's steps in s add up to half of this: fewer steps are larger
MOMENTA = (0.8, 0.95)
HIGHEST = 0.95  # no group is pruned more than this while learning
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnSettings:
    """`steps` of `tokens_per_step` tokens at least; the same seed draws the same batches."""

    steps: int = 40
    tokens_per_step: int = 1024
    seed: int = 0


@dataclass
class _Group:
    """All matrices of one kind in one block share one number (for fused experts there are many)."""

    name: str
    matrices: list[Matrix]
    size: int


def learn(
    model: nn.Module,
    structure: Structure,
    statistics: Mapping[str, InputStatistics],
    batches: Sequence[Batch],
    start: Mapping[str, float],
    targets: Sequence[tuple[tuple[str, ...], float]],
    settings: LearnSettings,
    report: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Return a sparsity per matrix name.

    Args:
        statistics: of the dense model's inputs, by matrix name.
        start: sparsity per block name to begin from.
        targets: (components, sparsity): every such set of components keeps its own weighted mean.
        report: called with the step and its loss [nat per token].
    """
    groups = _groups(structure)
    component = {block.name: block.component for block in structure.blocks}
    values = np.array([start[group.name.rsplit("|", 1)[0]] for group in groups])
    sizes = np.array([group.size for group in groups], float)
    pools = [
        (np.array([component[group.name.rsplit("|", 1)[0]] in members for group in groups]), target)
        for members, target in targets
    ]
    values = _project(values, sizes, pools)
    batches = _split_text(batches, settings.tokens_per_step)
    order = _draw(batches, settings)
    first, second = np.zeros(len(groups)), np.zeros(len(groups))
    averaged, weight = np.zeros(len(groups)), 0.0
    with _masked(model, groups, statistics) as border:
        for step in range(1, settings.steps + 1):
            loss, slope = border.slopes(values, [batches[index] for index in order[step - 1]])
            if not math.isfinite(loss):
                raise OwledError("the loss is NaN while learning the allocation: check the calibration batches")
            cost = slope / sizes
            for members, _ in pools:
                cost[members] -= np.average(cost[members], weights=sizes[members])
            first = MOMENTA[0] * first + (1 - MOMENTA[0]) * cost
            second = MOMENTA[1] * second + (1 - MOMENTA[1]) * cost**2
            move = (first / (1 - MOMENTA[0] ** step)) / (np.sqrt(second / (1 - MOMENTA[1] ** step)) + 1e-12)
            rate = PATH / settings.steps * 0.5 * (1 + math.cos(math.pi * (step - 1) / settings.steps))
            values = _project(values - rate * move, sizes, pools)
            if step > settings.steps * 3 // 4:
                averaged, weight = averaged + values, weight + 1
            if report is not None:
                report(step, loss)
    values = _project(averaged / weight, sizes, pools)
    return {matrix.name: float(value) for group, value in zip(groups, values, strict=True) for matrix in group.matrices}


class _Border:
    """The model with masked weights; reads the slope of every group from one backward pass."""

    def __init__(
        self, model: nn.Module, groups: Sequence[_Group], dense: dict[str, torch.Tensor], ranks: dict[str, torch.Tensor]
    ):
        self._model, self._groups, self._dense, self._ranks = model, groups, dense, ranks
        self._values: dict[str, float] = {}
        self._sums: dict[str, list[torch.Tensor]] = {}  # one per backward pass; read once per step: a GPU need not wait

    def slopes(self, values: Floats, batches: Sequence[Batch]) -> tuple[float, Floats]:
        """Return the mean loss [nat per token] and dL/ds per group."""
        for group, value in zip(self._groups, values, strict=True):
            for matrix in group.matrices:
                self._values[matrix.name] = value
                self._sums[matrix.name] = []
                kept = self._ranks[matrix.name] >= round(value * RANK_STEPS)
                torch.mul(
                    self._dense[matrix.name], kept, out=matrix.weight()
                ) if not matrix.transposed else matrix.weight().copy_(self._dense[matrix.name] * kept)
        parameter = next(self._model.parameters())
        losses, tokens = [], 0
        for batch in batches:
            with torch.enable_grad():
                loss, count = token_loss(self._model, to_device(batch, parameter.device, parameter.dtype))
                loss.backward()
            losses.append(loss.detach())
            tokens += count
        found = self._read_slopes()
        slopes = [sum(found[matrix.name] for matrix in group.matrices) / max(tokens, 1) for group in self._groups]
        return sum(torch.stack(losses).tolist()) / max(tokens, 1), np.array(slopes)

    def _read_slopes(self) -> dict[str, float]:
        """Bring all sums to the host in one copy; returns the slope of every matrix."""
        sums = [value for values in self._sums.values() for value in values]
        numbers = iter(torch.stack(sums).tolist() if sums else ())
        slopes = {}
        for name, values in self._sums.items():
            border = self._values[name]
            width = min(border + BAND, 1.0) - max(border - BAND, 0.0)
            slopes[name] = -sum(next(numbers) / width for _ in values)
        return slopes

    def read(self, matrix: Matrix, gradient: torch.Tensor) -> None:
        """Add the slope of one matrix; `gradient` (R, K) of its masked weight."""
        border = self._values[matrix.name]
        low, high = (round((border + side * BAND) * RANK_STEPS) for side in (-1, 1))
        ranks = self._ranks[matrix.name]
        product = (gradient * self._dense[matrix.name]).masked_fill_((ranks < low) | (ranks >= high), 0.0)
        self._sums[matrix.name].append(product.sum(dtype=torch.float32))


@contextlib.contextmanager
def _masked(model: nn.Module, groups: Sequence[_Group], statistics: Mapping[str, InputStatistics]) -> Iterator[_Border]:
    """Give the model masked weights and gradient readers while entered; restore everything afterwards."""
    matrices = [matrix for group in groups for matrix in group.matrices]
    dense = {matrix.name: matrix.weight().clone() for matrix in matrices}
    ranks = {matrix.name: _ranks(matrix, statistics[matrix.name]) for matrix in matrices}
    border = _Border(model, groups, dense, ranks)
    wanted: dict[int, bool] = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    by_parameter: dict[int, list[Matrix]] = {}
    for matrix in matrices:
        by_parameter.setdefault(id(getattr(matrix.module, matrix.parameter)), []).append(matrix)
    hooks = []

    def reduce(parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        for matrix in by_parameter[id(parameter)]:
            part = gradient if matrix.expert is None else gradient[matrix.expert]
            border.read(matrix, part.t() if matrix.transposed else part)
        parameter.grad = None

    try:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in by_parameter)
            if id(parameter) in by_parameter:
                hooks.append(parameter.register_post_accumulate_grad_hook(reduce))
        yield border
    finally:
        for hook in hooks:
            hook.remove()
        for matrix in matrices:
            matrix.weight().copy_(dense[matrix.name])
        for parameter in model.parameters():
            parameter.requires_grad_(wanted[id(parameter)])


def _ranks(matrix: Matrix, seen: InputStatistics) -> torch.Tensor:
    """Return each weight's place in its row by Wanda's score, 0..RANK_STEPS (R, K) int16."""
    score = wanda(matrix.weight(), seen.squares if seen.tokens else torch.ones_like(seen.squares))
    on_cpu = score.device.type == "cpu"  # numpy's vectorised argsort is several times faster there than torch's
    order = torch.from_numpy(np.argsort(score.numpy(), axis=1)) if on_cpu else score.argsort(dim=1)
    places = (torch.arange(matrix.columns, device=score.device) * RANK_STEPS // matrix.columns).to(torch.int16)
    return torch.empty_like(order, dtype=torch.int16).scatter_(1, order, places.expand_as(order))


def _groups(structure: Structure) -> list[_Group]:
    found: dict[str, _Group] = {}
    for block in structure.blocks:
        for matrix in block.matrices:
            group = found.setdefault(f"{block.name}|{matrix.kind}", _Group(f"{block.name}|{matrix.kind}", [], 0))
            group.matrices.append(matrix)
            group.size += matrix.size
    return list(found.values())


def _project(values: Floats, sizes: Floats, pools: Sequence[tuple[np.ndarray, float]]) -> Floats:
    result = values.copy()
    for members, target in pools:
        if members.any():
            result[members] = project(values[members], sizes[members], target, high=max(HIGHEST, target))
    return result


def _split_text(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Split batches of plain token rows (B, T) to about `tokens`; batches with images stay whole."""
    parts: list[Batch] = []
    for batch in batches:
        shapes = {tuple(value.shape) if isinstance(value, torch.Tensor) else () for value in batch.values()}
        shape = shapes.pop() if len(shapes) == 1 else ()
        if len(shape) != 2:
            parts.append(batch)
            continue
        rows = max(tokens // shape[1], 1)
        parts += [
            {key: value[start : start + rows] for key, value in batch.items()} for start in range(0, shape[0], rows)
        ]
    return parts


def _draw(batches: Sequence[Batch], settings: LearnSettings) -> list[list[int]]:
    """Draw whole batches for every step, all of them once before any comes twice."""
    generator = np.random.default_rng(settings.seed)
    queue: list[int] = []
    steps = []
    for _ in range(settings.steps):
        chosen: list[int] = []
        tokens = 0
        while tokens < settings.tokens_per_step:
            if not queue:
                queue = list(generator.permutation(len(batches)))
            chosen.append(int(queue.pop()))
            tokens += _token_count(batches[chosen[-1]])
        steps.append(chosen)
    return steps


def _token_count(batch: Batch) -> int:
    ids = batch.get("input_ids")
    return int(ids.numel()) if isinstance(ids, torch.Tensor) else 1
