"""What is fitted by gradients: weights whose zeros stay, weights and scales behind a rounding, scales alone, or gains. Needs torch.

All are driven alike: `pull` brings the gradients of the model's parameters to what is fitted, `push` brings what is fitted back into the
model. Letters: R outputs, K inputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from owled_ros.models.components import Matrix, Structure, component_finder
from owled_ros.pruning.rounding import Grid, bfloat16, codes, spread

RATE = 0.01  # of a matrix's mean kept weight (root of the mean square): Adam's first step
ROUNDED_RATE = 0.02  # the same where weights are rounded: a step that moves no code does nothing
SCALE_RATE = 0.002  # of a matrix's mean scale
GAIN_RATE = 0.003  # of a norm's mean gain


class Fitted(Protocol):
    """Tensors that an optimizer moves, with the first step of each, and the model's parameters whose gradients it takes."""

    steps: Sequence[tuple[torch.Tensor, float]]

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    def pull(self) -> None: ...

    def push(self) -> None: ...


class Restorable(Fitted, Protocol):
    """What may be given up."""

    def restore(self) -> None:
        """Undo all."""


class Kept:
    """Parameters whose zeros stay zero."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._before = [parameter.detach().clone() for parameter in parameters]
        self._kept = [parameter.detach() != 0 for parameter in parameters]
        self.parameters = parameters
        self.steps: Sequence[tuple[torch.Tensor, float]] = [
            (parameter, RATE * _mean_size(parameter.detach(), int(kept.sum())))
            for parameter, kept in zip(parameters, self._kept, strict=True)
        ]

    def pull(self) -> None:
        """Do nothing: the parameters themselves are fitted."""

    def push(self) -> None:
        """Set back to zero what was zero."""
        with torch.no_grad():
            for parameter, kept in zip(self.parameters, self._kept, strict=True):
                parameter.mul_(kept)

    def restore(self) -> None:
        """Write the weights from before."""
        with torch.no_grad():
            for parameter, old in zip(self.parameters, self._before, strict=True):
                parameter.copy_(old)


class _OnGrid:
    """Matrices on a grid, with scales that are fitted.

    Attributes:
        scales: (R, G) by name, those of now.
    """

    def __init__(self, matrices: Sequence[Matrix], scales: Mapping[str, torch.Tensor], grid: Grid) -> None:
        self._matrices, self._grid = matrices, grid
        self._free = {
            matrix.name: scales[matrix.name].to(matrix.weight().device, torch.float32, copy=True) for matrix in matrices
        }
        self.steps: Sequence[tuple[torch.Tensor, float]] = [
            (found, SCALE_RATE * float(found.abs().mean())) for found in self._free.values()
        ]

    @property
    def scales(self) -> dict[str, torch.Tensor]:
        return {name: bfloat16(found) for name, found in self._free.items()}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that hold the matrices, each once."""
        return parameters_of(self._matrices)


class Rounded(_OnGrid):
    """Matrices on a grid: weights and scales are fitted as if nothing were rounded between them and the model (arXiv 1902.08153)."""

    def __init__(
        self, matrices: Sequence[Matrix], scales: Mapping[str, torch.Tensor], zeros: Mapping[str, int], grid: Grid
    ) -> None:
        super().__init__(matrices, scales, grid)
        self._before = {matrix.name: (matrix.weight().clone(), scales[matrix.name]) for matrix in matrices}
        self._weights = {matrix.name: matrix.weight().float().contiguous().clone() for matrix in matrices}
        # A code of zero is a pruned weight only where weights were pruned.
        self._still = {matrix.name: self._weights[matrix.name] == 0 for matrix in matrices if zeros[matrix.name]}
        kept = {name: int((weight != 0).sum()) for name, weight in self._weights.items()}
        self.steps = [
            *((weight, ROUNDED_RATE * _mean_size(weight, kept[name])) for name, weight in self._weights.items()),
            *self.steps,
        ]

    def pull(self) -> None:
        """Give every weight the gradient of its rounded self, but for those beyond the last code, and scales what follows for them."""
        with torch.no_grad():
            for matrix in self._matrices:
                weight, found = self._weights[matrix.name], self._free[matrix.name]
                gradient = _gradient_of(matrix)
                if gradient is None:  # an expert that this chunk did not reach
                    weight.grad = found.grad = None
                    continue
                wide = spread(bfloat16(found), self._grid, matrix.columns)
                ratio = torch.where(wide == 0, 0.0, weight / wide)
                inside = (ratio > self._grid.low - 0.5) & (ratio < self._grid.high + 0.5)
                weight.grad = gradient * inside
                of_scale = gradient * (codes(weight, wide, self._grid) - ratio * inside)
                found.grad = _by_group(of_scale, self._grid)

    def push(self) -> None:
        """Round into the model."""
        with torch.no_grad():
            for matrix in self._matrices:
                weight = self._weights[matrix.name]
                if matrix.name in self._still:
                    weight.masked_fill_(self._still[matrix.name], 0.0)
                wide = spread(bfloat16(self._free[matrix.name]), self._grid, matrix.columns)
                matrix.weight().copy_(codes(weight, wide, self._grid) * wide)

    def restore(self) -> None:
        """Write weights and scales from before."""
        with torch.no_grad():
            for matrix in self._matrices:
                weight, found = self._before[matrix.name]
                matrix.weight().copy_(weight)
                self._free[matrix.name].copy_(found)


class Scaled(_OnGrid):
    """Matrices on a grid whose codes stay: their scales are fitted, and nothing is rounded on the way of a gradient (arXiv 2305.14152)."""

    def __init__(self, matrices: Sequence[Matrix], scales: Mapping[str, torch.Tensor], grid: Grid) -> None:
        super().__init__(matrices, scales, grid)
        self._codes: dict[str, torch.Tensor] = {}
        for matrix in matrices:
            wide = spread(self._free[matrix.name], grid, matrix.columns)
            self._codes[matrix.name] = codes(matrix.weight().float(), wide, grid).to(torch.int8)

    def pull(self) -> None:
        """Give every scale the gradients of its weights, each times its code."""
        with torch.no_grad():
            for matrix in self._matrices:
                gradient = _gradient_of(matrix)
                self._free[matrix.name].grad = (
                    None if gradient is None else _by_group(gradient * self._codes[matrix.name], self._grid)
                )

    def push(self) -> None:
        """Write codes times scales into the model."""
        with torch.no_grad():
            for matrix in self._matrices:
                wide = spread(bfloat16(self._free[matrix.name]), self._grid, matrix.columns)
                matrix.weight().copy_(self._codes[matrix.name] * wide)


class BesideCodes:
    """What of a rounded model moves while its codes stay: scales of blocks and both ends, gains of norms, biases (arXiv 2305.14152).

    Args:
        scales: (R, G) by name, of all matrices of the blocks and of what was rounded besides.
        ends: the grid of what was rounded besides: embedding and output matrix.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, scales: Mapping[str, torch.Tensor], grid: Grid, ends: Grid | None
    ) -> None:
        inside = [matrix for block in structure.blocks for matrix in block.matrices]
        self._scaled = [Scaled(inside, scales, grid)]
        if ends:
            beside = sorted(scales.keys() - {matrix.name for matrix in inside})
            self._scaled.append(Scaled([_whole(model, name) for name in beside], scales, ends))
        component_at, components = component_finder(model), structure.component_sizes()
        gains = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim == 1 and component_at(name.rpartition(".")[0]) in components
        ]
        self.steps: Sequence[tuple[torch.Tensor, float]] = [
            *(step for part in self._scaled for step in part.steps),
            *((gain, GAIN_RATE * float(gain.detach().abs().mean())) for gain in gains),
        ]
        self.parameters: Sequence[nn.Parameter] = [
            *(parameter for part in self._scaled for parameter in part.parameters),
            *gains,
        ]

    @property
    def scales(self) -> dict[str, torch.Tensor]:
        """Those of now (R, G) by name."""
        return {name: found for part in self._scaled for name, found in part.scales.items()}

    def pull(self) -> None:
        """Give every scale its gradient."""
        for part in self._scaled:
            part.pull()

    def push(self) -> None:
        """Write codes times scales into the model."""
        for part in self._scaled:
            part.push()


def _whole(model: nn.Module, name: str) -> Matrix:
    rows, columns = model.get_parameter(f"{name}.weight").shape
    return Matrix(name, "end", model.get_submodule(name), "weight", rows, columns)


def parameters_of(matrices: Sequence[Matrix]) -> list[nn.Parameter]:
    """Return the parameters that hold matrices, each once: fused experts share one."""
    held = [getattr(matrix.module, matrix.parameter) for matrix in matrices]
    return list({id(parameter): parameter for parameter in held}.values())


def _by_group(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Sum values (R, K) over the inputs of every group: (R, G)."""
    groups = grid.groups(values.shape[1])
    padded = torch.zeros(len(values), groups * grid.group, device=values.device)
    padded[:, : values.shape[1]] = values
    return padded.view(len(values), groups, grid.group).sum(2)


def _mean_size(weight: torch.Tensor, kept: int) -> float:
    """Return the root of the mean square of the kept weights."""
    return float(weight.float().square().sum() / max(kept, 1)) ** 0.5


def _gradient_of(matrix: Matrix) -> torch.Tensor | None:
    """Return the gradient (R, K) of a matrix."""
    whole: torch.Tensor | None = getattr(matrix.module, matrix.parameter).grad
    if whole is None:
        return None
    own = (whole if matrix.expert is None else whole[matrix.expert]).float()
    return own.t() if matrix.transposed else own
