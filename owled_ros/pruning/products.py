"""Sees the products with known weights wherever they happen: in a layer's forward, or where its weight is read from outside.

Needs torch. A weight is known by its address, and its contracted axis by its stride, so that the layout of a fused
parameter is observed instead of guessed. Letters: E experts, R outputs, K inputs, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from owled_ros.models.components import Matrix

PRODUCTS = {  # functions of (a, b) with the places of a and b among the arguments
    torch.matmul: (0, 1), torch.mm: (0, 1), torch.bmm: (0, 1), torch.Tensor.matmul: (0, 1), torch.Tensor.mm: (0, 1),
    torch.Tensor.bmm: (0, 1), torch.Tensor.__matmul__: (0, 1), torch.Tensor.__rmatmul__: (1, 0), torch.addmm: (1, 2),
    torch.baddbmm: (1, 2), torch.Tensor.addmm: (1, 2), torch.Tensor.baddbmm: (1, 2),
}  # fmt: skip
OPERANDS = ("input", "mat1", "batch1"), ("other", "mat2", "batch2", "weight")  # the names of a and b as keywords
Handler = Callable[[Matrix, torch.Tensor, bool], None]  # matrix, its inputs (..., K), whether it is stored as (K, R)


class Products(TorchFunctionMode):
    """Hands every product with one of the matrices to `handle` while it is entered; the product itself is untouched."""

    def __init__(self, matrices: Iterable[Matrix], handle: Handler) -> None:
        super().__init__()
        self._handle = handle
        self._matrices: dict[int, Matrix] = {matrix.weight().data_ptr(): matrix for matrix in matrices}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for weight, inputs, axis in _operands(func, args, kwargs):
            if weight.data_ptr() in self._matrices:
                self._tell(weight, inputs.detach(), axis)
        return func(*args, **kwargs)

    def _tell(self, weight: torch.Tensor, inputs: torch.Tensor, axis: int) -> None:
        """Hand on one product; of a whole fused parameter (E, ., .) one for every expert."""
        if weight.ndim == 2:
            matrix = self._matrices[weight.data_ptr()]
            self._handle(matrix, inputs, _is_transposed(matrix, weight, axis))
            return
        if weight.ndim != 3 or inputs.ndim < 2:
            return
        for expert, part in enumerate(weight):
            known = self._matrices.get(part.data_ptr())
            own = inputs[expert] if inputs.ndim >= 3 and inputs.shape[0] == len(weight) else inputs
            if known is not None:
                self._handle(known, own, _is_transposed(known, part, axis))


def _operands(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Yield (weight, inputs (..., K), contracted axis of the weight) for both ways to read a product."""
    if func is torch.nn.functional.linear:
        x, w = _argument(args, kwargs, 0, OPERANDS[0]), _argument(args, kwargs, 1, OPERANDS[1])
        if isinstance(x, torch.Tensor) and isinstance(w, torch.Tensor) and w.ndim == 2:
            yield w, x, -1
    elif func in PRODUCTS:
        first, second = PRODUCTS[func]
        a, b = _argument(args, kwargs, first, OPERANDS[0]), _argument(args, kwargs, second, OPERANDS[1])
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and min(a.ndim, b.ndim) > 0:
            if b.ndim > 1:
                yield b, a, -2
            if a.ndim > 1:
                yield a, b.transpose(-1, -2) if b.ndim > 1 else b[None], -1
    elif func is torch.einsum and len(args) == 3 and isinstance(args[0], str):
        yield from _einsum(args[0].replace(" ", ""), args[1], args[2])


def _einsum(equation: str, a: Any, b: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Read a product of two tensors with one contracted letter; a letter of both that stays is the experts'."""
    terms, _, result = equation.partition("->")
    letters = terms.split(",")
    if "." in equation or not result or not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return
    contracted = [letter for letter in letters[0] if letter in letters[1] and letter not in result]
    if len(contracted) != 1:
        return
    for weight, own, inputs, other in ((b, letters[1], a, letters[0]), (a, letters[0], b, letters[1])):
        if weight.ndim not in (2, 3):
            continue
        shared = [letter for letter in own if letter in other and letter in result]
        if len(shared) > weight.ndim - 2 or (shared and own[0] != shared[0]):
            continue
        order = [*shared, *(letter for letter in other if letter not in (*shared, contracted[0])), contracted[0]]
        yield weight, inputs.permute([other.index(letter) for letter in order]), own.index(contracted[0]) - weight.ndim


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, names: tuple[str, ...]) -> Any:
    if place < len(args):
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), None)


def _is_transposed(matrix: Matrix, weight: torch.Tensor, axis: int) -> bool:
    """Tell whether the contracted axis of a view is the first one of the stored matrix (K, R)."""
    stored = matrix.stored()
    if stored.shape[0] == stored.shape[1] or weight.shape[axis] in stored.shape:
        return weight.stride(axis) == stored.stride(0) and stored.stride(0) != stored.stride(1)
    return matrix.transposed
