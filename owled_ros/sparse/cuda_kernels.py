"""One token times a matrix without its zeros on a GPU: tiles of int8 (tiles.cu) or exact bfloat16 (deltas.cu). Needs torch.

NVRTC compiles the kernels through torch when a model is loaded; nothing is built before. What launches them (`Run`) is given to every
product, so that tests launch the same source on a CPU. Nothing here waits for the device or asks it for a value, so products can be
part of a captured graph. Letters: R rows, K columns, T tiles across.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from owled_ros.errors import OwledError
from owled_ros.sparse import tiles as tiles_format
from owled_ros.sparse.deltas import Deltas, unpack_deltas
from owled_ros.sparse.tiles import Tiles, unpack_tiles

HERE = Path(__file__).parent
PARTS = HERE / "cuda_parts.cuh"
KERNELS = {  # name: file
    "tiles_product": "tiles.cu", "tiles_widened": "tiles.cu", "deltas_product": "deltas.cu", "deltas_widened": "deltas.cu"
}  # fmt: skip
OLDEST = (8, 0)  # compute capability: int8 on tensor cores in this form, copies that run by themselves
WARP = 32
STAGES = 4  # as in tiles.cu
TABLE_BYTES, X_BYTES = 128, 256  # as in tiles.cu
MOST_TILES = 62  # of a warp
COLUMN_STEP = 8  # K must be a multiple of it
Shape = tuple[int, int]  # warps of a block; strips of 16 rows that they share
TILE_SHAPES: tuple[Shape, ...] = ((16, 2), (16, 1), (8, 1), (16, 4))
DELTA_SHAPES: tuple[Shape, ...] = ((8, 1), (16, 1), (4, 1))
PLAIN_SHARED = 48 * 1024  # [bytes] that every launch may ask for
Run = Callable[
    [str, int, int, int, list[Any]], None
]  # kernel, blocks, threads of a block, bytes of shared memory, arguments
NOT_BUILT = (RuntimeError, OSError, AttributeError, ImportError, TypeError, ValueError, AssertionError)
Packed = Tiles | Deltas


@functools.cache
def compiled(device: str) -> tuple[Run, int]:
    """Compile the kernels for a CUDA device; returns what launches them and how much shared memory a block may have [bytes].

    Raises:
        OwledError: They cannot be compiled here; why.
    """
    try:
        with torch.cuda.device(torch.device(device)):
            facts = torch.cuda.get_device_properties(torch.device(device))
            if (facts.major, facts.minor) < OLDEST:
                raise OwledError(
                    f"sparse kernels need compute capability {OLDEST[0]}.{OLDEST[1]}, {facts.name} has {facts.major}.{facts.minor}"
                )
            shared = int(getattr(facts, "shared_memory_per_block_optin", PLAIN_SHARED))
            kernels = {name: _compile(name) for name in KERNELS}
            for kernel in kernels.values():
                kernel.set_shared_memory_config(shared)
    except NOT_BUILT as err:
        raise OwledError(
            f"the sparse kernels cannot be compiled here ({type(err).__name__}: {str(err).partition(chr(10))[0]})"
        ) from err

    def run(name: str, blocks: int, threads: int, shared_bytes: int, arguments: list[Any]) -> None:
        kernels[name]((blocks, 1, 1), (threads, 1, 1), arguments, shared_mem=shared_bytes)

    return run, shared


def shapes_of(packed: Packed, most_shared: int) -> list[Shape]:
    """Give the shapes of a launch that a matrix can be multiplied with; none where a row does not fit into shared memory."""
    shapes = TILE_SHAPES if isinstance(packed, Tiles) else DELTA_SHAPES
    if packed.columns % COLUMN_STEP:
        return []
    return [
        shape
        for shape in shapes
        if _shared_bytes(packed, shape) <= most_shared and _tiles_of_a_warp(packed, shape) <= MOST_TILES
    ]


def multiply(run: Run, packed: Packed, x: torch.Tensor, bias: torch.Tensor | None, shape: Shape) -> torch.Tensor:
    """Multiply one token (K) bfloat16 to (R) bfloat16."""
    warps, strips = shape
    x = x.contiguous()
    y = torch.empty(packed.rows, dtype=torch.bfloat16, device=x.device)
    ends = [x, x if bias is None else bias, y, packed.rows, packed.columns]  # without a bias any address does
    shared, biased = _shared_bytes(packed, shape), int(bias is not None)
    if isinstance(packed, Tiles):
        blocks = -(-packed.rows // (strips * tiles_format.ROWS))
        arguments = [packed.blob, packed.starts, *ends, strips, packed.slot, biased]
        run("tiles_product", blocks, warps * WARP, shared, arguments)
    else:
        arguments = [packed.values, packed.steps, packed.starts, *ends, biased]
        run("deltas_product", -(-packed.rows // warps), warps * WARP, shared, arguments)
    return y


def widen(run: Run | None, packed: Packed) -> torch.Tensor:
    """Give the whole matrix (R, K) bfloat16 for many tokens; without kernels in torch."""
    if run is None:
        return widened(packed)
    warps = 4
    if isinstance(packed, Tiles):
        matrix = torch.empty(packed.rows, packed.columns, dtype=torch.bfloat16, device=packed.blob.device)
        count = len(packed.starts) - 1
        arguments = [packed.blob, packed.starts, matrix, packed.rows, packed.columns, count]
        run("tiles_widened", -(-count // warps), warps * WARP, TABLE_BYTES, arguments)
    else:
        matrix = torch.zeros(packed.rows, packed.columns, dtype=torch.bfloat16, device=packed.values.device)
        arguments = [packed.values, packed.steps, packed.starts, matrix, packed.rows, packed.columns]
        run("deltas_widened", -(-packed.rows // warps), warps * WARP, 0, arguments)
    return matrix


def widened(packed: Packed) -> torch.Tensor:
    """Give the whole matrix (R, K) bfloat16 by torch alone; the reference for the kernels."""
    if isinstance(packed, Deltas):
        return unpack_deltas(packed)
    codes, scales = unpack_tiles(packed)
    wide = scales.repeat_interleave(tiles_format.COLUMNS, 1)[:, : packed.columns]
    return codes.bfloat16() * wide


def _compile(name: str) -> Any:
    source = PARTS.read_text(encoding="utf-8") + (HERE / KERNELS[name]).read_text(encoding="utf-8")
    return torch.cuda._compile_kernel(source, name)  # type: ignore[attr-defined]


def _shared_bytes(packed: Packed, shape: Shape) -> int:
    if isinstance(packed, Deltas):
        return 4 * packed.columns
    warps, across = shape[0], _across(packed)
    token = across * X_BYTES + -(-across // 4) * 16
    return TABLE_BYTES + warps * (tiles_format.ROWS * 4 + STAGES * packed.slot) + token


def _tiles_of_a_warp(packed: Packed, shape: Shape) -> int:
    if isinstance(packed, Deltas):
        return 0
    warps, strips = shape
    return -(-_across(packed) // (warps // strips))


def _across(packed: Tiles) -> int:
    return -(-packed.columns // tiles_format.COLUMNS)
