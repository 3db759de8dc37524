"""What a layer's inputs look like: squared norms per input and, for SparseGPT, the Hessian. Needs torch.

Letters: B sequences, T tokens, K inputs of the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Matrix
from owled_ros.pruning.products import Products

HESSIAN_ROWS = 8192  # inputs converted to float32 at a time


@dataclass
class InputStatistics:
    """Sums over all inputs of one layer: `squares` (K,) float64, `hessian` X^T X (K, K) float32 or None."""

    squares: torch.Tensor
    hessian: torch.Tensor | None
    sequences: int = 0
    tokens: int = 0

    @staticmethod
    def empty(columns: int, with_hessian: bool, device: torch.device | str = "cpu") -> InputStatistics:
        squares = torch.zeros(columns, dtype=torch.float64, device=device)
        hessian = torch.zeros(columns, columns, device=device) if with_hessian else None
        return InputStatistics(squares, hessian)

    def add(self, inputs: torch.Tensor, token_mask: torch.Tensor | None = None) -> None:
        """Add inputs (..., K); `token_mask` (B, T) drops padded tokens where the leading axes fit."""
        self.sequences += inputs.shape[0] if inputs.ndim > 2 else 1
        if token_mask is not None and inputs.shape[:-1] == token_mask.shape:
            inputs = inputs[token_mask]
        flat = inputs.reshape(-1, inputs.shape[-1])  # (B T, K)
        self.tokens += flat.shape[0]
        for part in flat.split(HESSIAN_ROWS):
            exact = part.float()
            if self.hessian is None:
                self.squares += exact.square().sum(0)
            else:
                self.hessian.addmm_(exact.t(), exact)
                self.squares += exact.square().sum(0)

    def merge(self, other: InputStatistics) -> None:
        """Add the sums of other inputs of the same layer."""
        self.squares += other.squares
        self.sequences += other.sequences
        self.tokens += other.tokens
        if self.hessian is not None and other.hessian is not None:
            self.hessian += other.hessian

    def check(self, name: str) -> None:
        """Raise OwledError when an input was NaN or infinite."""
        if not bool(self.squares.isfinite().all()):
            raise OwledError(
                f"the inputs of {name} hold NaN or infinities: check the calibration batches and the model's dtype"
            )

    def squares_per_sequence(self) -> torch.Tensor:
        """Return OWL's scaler_row (K,): the mean over sequences of the squared norm of each input."""
        return (self.squares / max(self.sequences, 1)).float()


class ProductStatistics:
    """Adds up the inputs of every product with one of some matrices while it is entered, whoever computes it."""

    def __init__(self, matrices: Sequence[Matrix], with_hessian: bool) -> None:
        self.token_mask: torch.Tensor | None = None  # (B, T) of the pass under way
        self.statistics = {
            matrix.name: InputStatistics.empty(matrix.columns, with_hessian, matrix.weight().device)
            for matrix in matrices
        }
        self._mode = Products(matrices, self._add)

    def __enter__(self) -> ProductStatistics:
        self._mode.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._mode.__exit__(*problem)

    def _add(self, matrix: Matrix, inputs: torch.Tensor, transposed: bool) -> None:
        if inputs.shape[-1] == matrix.columns and transposed == matrix.transposed:
            self.statistics[matrix.name].add(inputs, self.token_mask)


def run_experts(
    module: nn.Module,
    matrices: Sequence[Matrix],
    calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]],
    with_hessian: bool,
) -> dict[str, InputStatistics]:
    """Run a fused experts module on recorded calls (args, kwargs) and return the statistics of each expert's matrices.

    The experts' own forward runs, in its eager form.
    """
    with ProductStatistics(matrices, with_hessian) as seen, torch.no_grad():
        for args, kwargs in calls:
            module.forward(*args, **kwargs)  # not __call__: its hooks would see the calls twice
    return seen.statistics


def input_of(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> torch.Tensor:
    """Return what a layer is called with (args, kwargs): the first positional argument, or the first tensor among the others."""
    args, kwargs = arguments
    return args[0] if args else next(value for value in kwargs.values() if isinstance(value, torch.Tensor))
