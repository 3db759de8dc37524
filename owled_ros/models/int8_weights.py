"""A language model's matrices as int8 on a GPU: half the bytes of bfloat16 for every token, no calibration. Needs torch.

The codes are those of packed files (sparse.quantise): the nearest of 255 steps per row and group of 128 columns (Jacob et al.,
arXiv 1712.05877, section 2.1, zero point 0). One token is multiplied by a kernel that widens codes in registers (int8_gemv.cu);
many tokens, a prompt, by a widened copy of the matrix that lives for one product. Letters: R outputs, K inputs, G groups.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.sparse.cuda_kernels import NOT_BUILT
from owled_ros.sparse.format import GROUP

SOURCE = Path(__file__).with_name("int8_gemv.cu")
KERNEL = "int8_gemv"
INT8_STEPS = 127
LANE_COLUMNS = 16  # K must be a multiple of it
ROWS = 2  # of a warp
WARPS = 4  # of a block
Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
logger = logging.getLogger(__name__)


class Int8Linear(nn.Module):
    """Multiplies as a Linear layer does, with codes and scales in the place of its weight."""

    def __init__(self, linear: nn.Linear, multiply: Multiply | None) -> None:
        """Take over a layer's weight; `multiply` gives the product with one token: (K), codes, scales, bias or None -> (R)."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codes, scales = quantise(linear.weight.detach())
        self.codes: torch.Tensor
        self.scales: torch.Tensor
        self.register_buffer("codes", codes, persistent=False)  # (R, K) int8
        self.register_buffer("scales", scales, persistent=False)  # (R, G) bfloat16
        self.bias = linear.bias
        # Stands in where transformers asks a layer for its type; it follows the module's.
        self.register_buffer("weight", linear.weight.new_empty(0), persistent=False)
        self._multiply = multiply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (..., K) to (..., R), bias included."""
        if self._multiply is not None and x.numel() == self.in_features:
            product = self._multiply(x.reshape(-1), self.codes, self.scales, self.bias)
            return product.view(*x.shape[:-1], self.out_features)
        return nn.functional.linear(x, widen(self.codes, self.scales, x.dtype), self.bias)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix (R, K) to codes (R, K) int8 and scales (R, G) bfloat16, as `owled pack` does, on its own device."""
    rows, columns = weight.shape
    wide = nn.functional.pad(weight.float(), (0, -columns % GROUP)).view(rows, -1, GROUP)  # (R, G, 128)
    largest = wide.abs().amax(2)  # (R, G)
    scales = (largest / INT8_STEPS).bfloat16()
    up = (scales.float() * INT8_STEPS < largest).to(torch.int16)  # the largest must fit
    scales = (scales.view(torch.int16) + up).view(torch.bfloat16)
    inverse = torch.where(scales > 0, 1.0 / scales.float(), 0.0)
    inverse = torch.where(inverse.isfinite(), inverse, 0.0)  # weights below 1e-38: zero for every purpose
    codes = (wide * inverse[:, :, None]).round_().clamp_(-INT8_STEPS, INT8_STEPS).to(torch.int8)
    return codes.view(rows, -1)[:, :columns].contiguous(), scales


def widen(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give the matrix (R, K) that codes and scales stand for."""
    rows, columns = codes.shape
    if columns % GROUP:
        return codes.to(dtype) * scales.repeat_interleave(GROUP, 1)[:, :columns].to(dtype)
    return (codes.view(rows, -1, GROUP).to(dtype) * scales[:, :, None].to(dtype)).view(rows, columns)


def put_int8(model: Any, multiply: Multiply | None) -> float:
    """Put an `Int8Linear` in the place of the language model's Linear layers and its output matrix.

    Returns:
        The share of the weights that a token reads which are int8 now; fused experts and odd sizes stay as they are.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    total = sum(parameter.numel() for parameter in getattr(decoder, "layers", decoder).parameters())
    total += 0 if head is None else head.weight.numel()
    replaced = 0
    for parent, child, layer in list(linears(model)):
        setattr(parent, child, Int8Linear(layer, multiply))
        replaced += layer.in_features * layer.out_features
    return replaced / max(total, 1)


def linears(model: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield (parent, name, layer) of the language model's Linear layers and its output matrix, without odd sizes."""
    inside = {id(module) for module in model.get_decoder().modules()} | {id(model.get_output_embeddings())}
    for parent in model.modules():
        for child, layer in parent.named_children():
            if type(layer) is nn.Linear and id(layer) in inside and layer.in_features % LANE_COLUMNS == 0:
                yield parent, child, layer


def put_int8_or_say_why(model: Any, device: str, dtype: str) -> str:
    """Make a model's weights int8 where the kernel can be had; returns in words what the weights are then."""
    try:
        multiply = compiled(device, getattr(torch, dtype))
    except OwledError as err:
        logger.warning("weights stay %s: %s", dtype, err)
        return f"{dtype}, not int8: {err}"
    return f"int8, {put_int8(model, multiply):.1%} of what a token reads"


@functools.cache
def compiled(device: str, dtype: torch.dtype) -> Multiply:
    """Compile the kernel for a CUDA device and a type of numbers, in a fraction of a second.

    Raises:
        OwledError: It cannot be compiled here; why.
    """
    exact = dtype == torch.bfloat16  # other types are handed on as float32
    try:
        with torch.cuda.device(torch.device(device)):
            kernel = torch.cuda._compile_kernel(  # type: ignore[attr-defined]
                SOURCE.read_text(encoding="utf-8"), KERNEL, nvcc_options=[] if exact else ["-DFLOAT_INPUT"]
            )
    except NOT_BUILT as err:
        raise OwledError(
            f"its kernel cannot be compiled here ({type(err).__name__}: {str(err).partition(chr(10))[0]})"
        ) from err

    def multiply(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows, columns = codes.shape
        x = x.contiguous() if exact else x.float()
        added = codes if bias is None else bias.to(x.dtype)  # without one any address does
        y = torch.empty(rows, dtype=x.dtype, device=x.device)
        blocks = -(-rows // (ROWS * WARPS))
        kernel((blocks, 1, 1), (32 * WARPS, 1, 1), [codes, scales, x, added, y, rows, columns, int(bias is not None)])
        return y.to(dtype)

    return multiply
