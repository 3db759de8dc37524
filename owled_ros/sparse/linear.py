"""A torch Linear layer on packed weights, for matrices outside the decoder (the vision tower). Needs torch.

It computes on the CPU, without gradients, in float32. Shape letters: N rows of a batch, K inputs, M outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from owled_ros.errors import OwledError
from owled_ros.sparse.format import Role, read_packed
from owled_ros.sparse.native import NativeModel
from owled_ros.sparse.pack import pack_matrices


class SparseLinear(torch.nn.Module):
    """Multiplies with one matrix of an open packed file."""

    def __init__(self, model: NativeModel, name: str) -> None:
        super().__init__()
        entries = model.matrix_facts()
        index = next((i for i, entry in enumerate(entries) if entry.name.decode() == name), None)
        if index is None:
            raise OwledError(f"the packed file has no matrix {name!r}")
        self._model, self._index = model, index
        # Stands in where transformers asks a layer for its type; it follows the module's.
        self.register_buffer("weight", torch.empty(0), persistent=False)
        self.in_features, self.out_features = int(entries[index].columns), int(entries[index].rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (..., K) to (..., M), bias included; the type of the input is kept."""
        if x.shape[-1] != self.in_features:
            raise OwledError(f"an input of {x.shape[-1]} features, this layer takes {self.in_features}")
        flat = x.detach().reshape(-1, self.in_features).float().cpu().contiguous()  # (N, K)
        if not len(flat):
            return x.new_zeros(*x.shape[:-1], self.out_features)
        product = torch.from_numpy(self._model.multiply(self._index, flat.numpy(), self.out_features))
        return product.view(*x.shape[:-1], self.out_features).to(x)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def pack_linears(module: torch.nn.Module, names: Iterable[str], out_file: Path, precision: str = "int8") -> list[str]:
    """Pack the named Linear layers of a module into one file; returns their names."""
    matrices = {}
    for name in names:
        layer = module.get_submodule(name)
        if not isinstance(layer, torch.nn.Linear):
            raise OwledError(f"{name}: not a Linear layer")
        bias = None if layer.bias is None else layer.bias.detach().float().cpu().numpy()
        matrices[name] = (layer.weight.detach().float().cpu().numpy(), bias)
    pack_matrices(matrices, out_file, precision)
    return list(matrices)


def replace_linears(module: torch.nn.Module, packed: Path, threads: int = 1, kernel: str = "auto") -> NativeModel:
    """Put a `SparseLinear` in the place of every layer that the file holds by name; returns the open file.

    Close it when the module is not used any more.
    """
    names = [tensor.name for tensor in read_packed(packed).tensors if tensor.role is Role.OTHER]
    model = NativeModel(packed, threads=threads, kernel=kernel)
    if put_linears(module, model) < len(names):
        model.close()
        raise OwledError(f"{packed} holds layers that this module lacks or has in another size")
    return model


def put_linears(module: torch.nn.Module, model: NativeModel, wanted: Callable[[str], bool] = bool) -> int:
    """Put a `SparseLinear` in the place of every Linear layer that an open file has by name and size; returns how many.

    Args:
        module: It is changed.
        model: Must stay open as long as the module is used.
        wanted: Asked with the name of every layer.
    """
    layers = {name: layer for name, layer in module.named_modules() if wanted(name)}
    count = 0
    for entry in model.matrix_facts():
        name = entry.name.decode()
        layer = layers.get(name)
        if not isinstance(layer, torch.nn.Linear) or layer.weight.shape != (entry.rows, entry.columns):
            continue
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, SparseLinear(model, name).to(layer.weight.dtype))
        count += 1
    return count
