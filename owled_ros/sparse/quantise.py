"""Pack one matrix: bit mask, values in stream order, int8 with a scale per 128 columns, or bf16. Needs numpy.

Symmetric rounding to the nearest of 255 steps (Jacob et al., arXiv 1712.05877, section 2.1, zero point 0) per row and
group. Shape letters as in `owled_ros.sparse.format`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owled_ros.errors import OwledError
from owled_ros.sparse.format import (
    BLOCK_ROWS,
    CHUNK,
    GROUP,
    Format,
    PackedTensor,
    Role,
    from_stream_order,
    padded,
    to_stream_order,
)

INT8_STEPS = 127
# Below these shares of zeros the plain format is smaller or as fast, by byte counts and trials (docs/kernels.md).
DENSE_BELOW = {"int8": 0.30, "bf16": 0.20}
STRIP_ENTRIES = 1 << 17
FORMATS = {
    ("int8", True): Format.SPARSE_INT8,
    ("int8", False): Format.DENSE_INT8,
    ("bf16", True): Format.SPARSE_BF16,
    ("bf16", False): Format.DENSE_BF16,
}


@dataclass(frozen=True)
class _Strip:
    """Some blocks of a matrix in stream order."""

    stream: np.ndarray  # (B, 8 * K) int8 codes or bf16 bits
    kept: np.ndarray  # (B, 8 * K) bool
    scales: np.ndarray | None  # (B, G, 8) bf16 bits
    correction: np.ndarray | None  # (N)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bf16 (ties to even), as uint16 bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Widen bf16 bits to float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def pack_vector(name: str, role: Role, layer: int, values: np.ndarray) -> PackedTensor:
    """Pack a norm weight or the rotary frequencies as float32."""
    vector = _finite(name, np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return PackedTensor(name, role, layer, Format.VECTOR, 1, len(vector), int(np.count_nonzero(vector)), vector)


def pack_matrix(
    name: str,
    role: Role,
    layer: int,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    precision: str = "int8",
    dense_below: float | None = None,
) -> PackedTensor:
    """Pack a weight matrix (rows, columns); zeros are left out where that pays.

    Args:
        name: Of the tensor.
        role: Of the tensor.
        layer: Of the tensor, -1 for none.
        weight: (rows, columns), any float type.
        bias: (rows) or None.
        precision: "int8" or "bf16".
        dense_below: Share of zeros below which every value is stored; None: the usual break-even. 2 packs dense.

    Raises:
        OwledError: NaN or infinity in the weights, no matrix, or an unknown precision.
    """
    if precision not in DENSE_BELOW:
        raise OwledError(f"precision {precision!r} is not known; expected one of {', '.join(DENSE_BELOW)}")
    if weight.ndim != 2 or 0 in weight.shape:
        raise OwledError(f"{name}: a matrix is needed, found shape {weight.shape}")
    rows, columns = weight.shape
    # A strip of rows at a time: everything then stays in the processor's cache.
    step = max(BLOCK_ROWS, STRIP_ENTRIES // columns // BLOCK_ROWS * BLOCK_ROWS)
    strips = [_pack_strip(name, weight[row : row + step], precision) for row in range(0, rows, step)]
    nonzeros = sum(int(np.count_nonzero(strip.kept)) for strip in strips)
    sparse = 1 - nonzeros / (rows * columns) >= (DENSE_BELOW[precision] if dense_below is None else dense_below)
    width = strips[0].stream.dtype.itemsize
    entries = strips[0].stream.shape[1]
    counts = [
        s.kept.sum(axis=1, dtype=np.uint64) if sparse else np.full(len(s.kept), entries, np.uint64) for s in strips
    ]
    sizes = np.concatenate([np.zeros(1, np.uint64), *counts]) * np.uint64(width)
    scales = [strip.scales for strip in strips if strip.scales is not None]
    corrections = [strip.correction for strip in strips if strip.correction is not None]
    return PackedTensor(
        name=name,
        role=role,
        layer=layer,
        format=FORMATS[precision, sparse],
        rows=rows,
        columns=columns,
        nonzeros=nonzeros,
        values=np.concatenate([s.stream[s.kept] if sparse else s.stream.reshape(-1) for s in strips]),
        mask=np.concatenate([_mask_words(s.kept) for s in strips]) if sparse else None,
        block_offset=np.cumsum(sizes, dtype=np.uint64),
        scales=np.concatenate(scales) if scales else None,
        correction=np.concatenate(corrections) if corrections else None,
        bias=None if bias is None else _padded_bias(name, bias, rows),
    )


def unpack_matrix(tensor: PackedTensor) -> np.ndarray:
    """Give the dense float32 (rows, columns) matrix that the kernels multiply with, or a vector (columns)."""
    if tensor.format is Format.VECTOR:
        return np.array(tensor.values, np.float32)
    columns = padded(tensor.columns, CHUNK)
    blocks = padded(tensor.rows, BLOCK_ROWS) // BLOCK_ROWS
    stream = np.zeros((blocks, BLOCK_ROWS * columns), tensor.values.dtype)
    if tensor.format.sparse:
        assert tensor.mask is not None
        kept = np.unpackbits(np.ascontiguousarray(tensor.mask).view(np.uint8), bitorder="little").astype(bool)
        if np.count_nonzero(kept) != len(tensor.values):
            raise OwledError(f"{tensor.name}: masks and values disagree; pack it again")
        stream.reshape(-1)[kept] = tensor.values
    else:
        stream.reshape(-1)[:] = tensor.values
    matrix = from_stream_order(stream, columns)
    if tensor.format.int8:
        assert tensor.scales is not None
        scales = from_bf16(tensor.scales).transpose(0, 2, 1).reshape(len(matrix), -1)  # (N, G)
        dense = matrix.astype(np.float32) * np.repeat(scales, GROUP, axis=1)[:, :columns]
    else:
        dense = from_bf16(matrix)
    return dense[: tensor.rows, : tensor.columns]


def _pack_strip(name: str, weight: np.ndarray, precision: str) -> _Strip:
    rows, columns = weight.shape
    matrix = np.zeros((padded(rows, BLOCK_ROWS), padded(columns, CHUNK)), np.float32)
    matrix[:rows, :columns] = _finite(name, weight)
    if precision == "bf16":
        stream = to_stream_order(to_bf16(matrix))
        return _Strip(stream, (stream & 0x7FFF) != 0, None, None)
    scales, codes = _quantise(name, matrix)
    stream = to_stream_order(codes)
    return _Strip(stream, stream != 0, scales, _corrections(scales, codes))


def _mask_words(kept: np.ndarray) -> np.ndarray:
    return np.packbits(kept, axis=None, bitorder="little").view("<u8")


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise OwledError(f"{name}: NaN or infinity in the weights; repair or prune the model again before packing")
    return values


def _quantise(name: str, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give bf16 scales (B, G, 8) as bits and int8 codes (N, K)."""
    rows, columns = matrix.shape
    groups = padded(columns, GROUP) // GROUP
    wide = np.zeros((rows, groups * GROUP), np.float32)
    wide[:, :columns] = matrix
    grouped = wide.reshape(rows, groups, GROUP)
    largest = np.abs(grouped).max(axis=2)  # (N, G)
    bits = to_bf16(largest / INT8_STEPS)
    bits += (from_bf16(bits) * INT8_STEPS < largest).astype(np.uint16)  # round up: the largest entry must fit
    scales = from_bf16(bits)
    if not np.isfinite(scales).all():
        raise OwledError(f"{name}: weights too large for bf16 scales (above 3e38); the model is damaged")
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    inverse[~np.isfinite(inverse)] = 0  # weights below 1e-38: zero for every purpose
    codes = np.rint(grouped * inverse[:, :, None]).clip(-INT8_STEPS, INT8_STEPS).astype(np.int8)
    blocked = bits.reshape(-1, BLOCK_ROWS, groups).transpose(0, 2, 1)  # (B, G, 8)
    return np.ascontiguousarray(blocked), codes.reshape(rows, -1)[:, :columns]


def _corrections(scales: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sum scale * code per row: what an activation offset of 1 adds to the product."""
    rows, columns = codes.shape
    groups = scales.shape[1]
    wide = np.zeros((rows, groups * GROUP), np.int32)
    wide[:, :columns] = codes
    sums = wide.reshape(rows, groups, GROUP).sum(axis=2)
    per_row = from_bf16(scales).transpose(0, 2, 1).reshape(rows, groups)
    return (per_row.astype(np.float64) * sums).sum(axis=1).astype(np.float32)


def _padded_bias(name: str, bias: np.ndarray, rows: int) -> np.ndarray:
    if bias.shape != (rows,):
        raise OwledError(f"{name}: its bias has shape {bias.shape}, expected ({rows},)")
    out = np.zeros(padded(rows, BLOCK_ROWS), np.float32)
    out[:rows] = _finite(name, bias)
    return out
