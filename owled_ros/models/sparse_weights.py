"""A pruned language model's matrices without their zeros on a GPU, each in the form that suits the goal here. Needs torch.

Every matrix is packed and, once for each size and density, timed beside what it would replace: the dense bfloat16 product, int8 codes
(models.int8_weights), tiles of int8 codes (sparse.tiles) or exact bfloat16 (sparse.deltas). A kernel whose product is wrong is not
used. One token goes to the kernel, many to a widened copy that lives for one product. Letters: R outputs, K inputs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from owled_ros.compute_type import EXACT, FASTEST
from owled_ros.devices import on_device
from owled_ros.errors import OwledError
from owled_ros.models import int8_weights
from owled_ros.models.int8_weights import Int8Linear, linears
from owled_ros.sparse.cuda_kernels import Packed, Run, Shape, compiled, multiply, shapes_of, widen, widened
from owled_ros.sparse.deltas import pack_deltas
from owled_ros.sparse.tiles import COLUMNS, HEAD_BYTES, ROWS, pack_tiles

SAME_DENSITY = 0.05  # matrices of one size this near are timed once
FLUSH_BYTES = 2**28  # read between two timed products: no cache holds the matrix, as in a decoded token
TIMES = 5
NEARNESS = 2e-2  # largest error of a product, in norms of the right one
TILE_BYTES = HEAD_BYTES / (ROWS * COLUMNS)  # of a weight, beside its code
DELTA_BYTES = 2.5  # of a weight that is kept
Timer = Callable[[Callable[[], torch.Tensor]], float]  # a product -> [s]
logger = logging.getLogger(__name__)


class SparseWeightLinear(nn.Module):
    """Multiplies as a Linear layer does, with a packed matrix in the place of its weight."""

    def __init__(self, packed: Packed, bias: nn.Parameter | None, run: Run | None, shape: Shape | None) -> None:
        """Take a packed matrix; `run` launches kernels with blocks of `shape`, None: torch alone, always by a widened copy."""
        super().__init__()
        self.in_features, self.out_features = packed.columns, packed.rows
        self.bias, self._run, self._shape = bias, run, shape
        self._parts = [name for name, value in vars(packed).items() if isinstance(value, torch.Tensor)]
        empty: dict[str, Any] = dict.fromkeys(self._parts)
        self._empty = replace(packed, **empty)
        for name in self._parts:
            self.register_buffer(name, getattr(packed, name), persistent=False)
        # Stands in where transformers asks a layer for its type; it follows the module's.
        device = getattr(self, self._parts[0]).device
        self.register_buffer("weight", torch.empty(0, dtype=torch.bfloat16, device=device), persistent=False)

    @property
    def packed(self) -> Packed:
        """The matrix, where the module is now."""
        return replace(self._empty, **{name: getattr(self, name) for name in self._parts})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (..., K) to (..., R), bias included."""
        if self._run is not None and self._shape is not None and x.numel() == self.in_features:
            product = multiply(self._run, self.packed, x.reshape(-1), self.bias, self._shape)
            return product.view(*x.shape[:-1], self.out_features)
        return nn.functional.linear(x, widen(self._run, self.packed).to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {type(self._empty).__name__.lower()}"


@dataclass(frozen=True)
class Timing:
    """What the products of one matrix took [s]; infinite where there is none."""

    dense: float  # bfloat16 by torch
    int8: float
    sparse: float
    shape: Shape | None  # of the fastest sparse launch


@dataclass
class Chooser:
    """Puts the matrices of a model into the form that suits a goal."""

    goal: str
    run: Run
    most_shared: int  # [bytes] of a block's shared memory
    int8_multiply: int8_weights.Multiply | None
    timer: Timer
    timings: dict[tuple[int, int, int], Timing] = field(default_factory=dict)
    chosen: Counter[str] = field(default_factory=Counter)
    bytes_now: int = 0
    bytes_dense: int = 0  # of what it is held against: int8, or bfloat16 where weights stay exact

    def layer(self, linear: nn.Linear) -> nn.Module:
        """Give what takes a layer's place, which may be the layer itself."""
        weight = linear.weight.detach()
        plain = linear if self.goal == EXACT else Int8Linear(linear, self.int8_multiply)
        coded = (plain.codes, plain.scales) if isinstance(plain, Int8Linear) else None
        kept = weight if coded is None else coded[0]
        density = float((kept != 0).float().mean())
        plain_bytes = weight.numel() * 2 if coded is None else coded[0].numel() + 2 * coded[1].numel()
        self.bytes_dense += plain_bytes
        estimate = DELTA_BYTES * density * weight.numel() if coded is None else (density + TILE_BYTES) * weight.numel()
        if estimate < plain_bytes:
            packed = pack_deltas(weight) if coded is None else pack_tiles(*coded)
            timing = self._timed(linear, plain, packed, density)
            if packed.nbytes < plain_bytes and self._suits(timing):
                self.chosen[type(packed).__name__.lower()] += 1
                self.bytes_now += packed.nbytes
                return SparseWeightLinear(packed, linear.bias, self.run, timing.shape)
        self.chosen["dense bfloat16" if coded is None else "dense int8"] += 1
        self.bytes_now += plain_bytes
        return plain

    def words(self) -> str:
        """Say what was chosen."""
        forms = ", ".join(f"{count} matrices as {form}" for form, count in sorted(self.chosen.items()))
        beside = "bfloat16" if self.goal == EXACT else "int8"
        share = self.bytes_now / max(self.bytes_dense, 1)
        return f"{self.goal}: {forms}; {self.bytes_now / 1e9:.3g} GB, {share:.2f} of dense {beside}"

    def _suits(self, timing: Timing) -> bool:
        """Fastest: before int8. Smallest, exact: at least not behind the bfloat16 product that it replaces."""
        return timing.shape is not None and timing.sparse < (timing.int8 if self.goal == FASTEST else timing.dense)

    def _timed(self, linear: nn.Linear, plain: nn.Module, packed: Packed, density: float) -> Timing:
        key = (*linear.weight.shape, round(density / SAME_DENSITY))
        if key not in self.timings:
            self.timings[key] = self._time(linear, plain, packed)
            logger.info("%d x %d at density %.2f: %s", *key[:2], density, _in_words(self.timings[key]))
        timing = self.timings[key]
        if timing.shape is not None and timing.shape not in shapes_of(packed, self.most_shared):
            return Timing(timing.dense, timing.int8, float("inf"), None)  # a slot of this one is larger
        return timing

    def _time(self, linear: nn.Linear, plain: nn.Module, packed: Packed) -> Timing:
        x = torch.randn(linear.in_features, device=linear.weight.device).to(linear.weight.dtype)
        want = nn.functional.linear(x.float(), widened(packed).float())
        sparse, best = float("inf"), None
        for shape in shapes_of(packed, self.most_shared):
            found = multiply(self.run, packed, x, None, shape).float()
            if not float((found - want).norm()) <= NEARNESS * float(want.norm()):
                logger.warning(
                    "a sparse kernel multiplies wrongly here (%s, blocks %s): not used", type(packed).__name__, shape
                )
                continue
            took = self.timer(lambda shape=shape: multiply(self.run, packed, x, None, shape))  # type: ignore[misc]
            sparse, best = min((sparse, best), (took, shape), key=lambda pair: pair[0])
        dense = self.timer(lambda: nn.functional.linear(x[None], linear.weight))
        int8 = float("inf") if plain is linear else self.timer(lambda: plain(x[None]))
        return Timing(dense, int8, sparse, best)


def put_sparse(model: Any, chooser: Chooser) -> str:
    """Put every matrix of the language model and its output matrix into the form chosen for it; returns in words which."""
    with torch.no_grad():
        for parent, child, layer in list(linears(model)):
            setattr(parent, child, chooser.layer(layer))
    return chooser.words()


def put_sparse_or_say_why(model: Any, device: str, dtype: str, goal: str) -> str:
    """Leave the zeros of a model out where the kernels can be had; returns in words what the weights are then."""
    try:
        if dtype != "bfloat16":
            raise OwledError(f"sparse kernels multiply bfloat16, {device} computes in {dtype}")
        run, most_shared = compiled(device)
        int8 = None if goal == EXACT else int8_weights.compiled(device, torch.bfloat16)
    except OwledError as err:
        logger.warning("weights stay %s: %s", dtype, err)
        return f"{dtype}, not {goal}: {err}"
    with on_device(device):
        return put_sparse(model, Chooser(goal, run, most_shared, int8, cold_timer(device)))


def cold_timer(device: str) -> Timer:
    """Give what times products of matrices that no cache holds, on a CUDA device."""
    flush = torch.zeros(FLUSH_BYTES // 4, dtype=torch.int32, device=device)

    def timed(product: Callable[[], torch.Tensor]) -> float:
        product()
        found = []
        for _ in range(TIMES):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.add_(1)  # takes longer than launching what is timed
            begin.record()
            product()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) * 1e-3)
        return sorted(found)[TIMES // 2]

    return timed


def _in_words(timing: Timing) -> str:
    told = {"bfloat16": timing.dense, "int8": timing.int8, f"sparse in blocks of {timing.shape}": timing.sparse}
    return ", ".join(f"{name} {seconds * 1e6:.1f} us" for name, seconds in told.items() if seconds != float("inf"))
