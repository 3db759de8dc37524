"""Pack one matrix: bit mask, values in stream order, int8 with a scale per 128 columns, or bf16. Needs numpy.

Symmetric rounding to the nearest of 255 steps (Jacob et al., arXiv 1712.05877, section 2.1, zero point 0) per row and
group. Shape letters as in `owled_ros.sparse.format`.
"""

from __future__ import annotations

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
# Below these shares of zeros the plain format is smaller or as fast; measured in docs/kernels.md.
DENSE_BELOW = {"int8": 0.30, "bf16": 0.20}


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
        dense_below: Share of zeros below which every value is stored; None: the measured break-even. 2 packs dense.

    Raises:
        OwledError: NaN or infinity in the weights, no matrix, or an unknown precision.
    """
    if precision not in DENSE_BELOW:
        raise OwledError(f"precision {precision!r} is not known; expected one of {', '.join(DENSE_BELOW)}")
    if weight.ndim != 2 or 0 in weight.shape:
        raise OwledError(f"{name}: a matrix is needed, found shape {weight.shape}")
    rows, columns = weight.shape
    matrix = np.zeros((padded(rows, BLOCK_ROWS), padded(columns, CHUNK)), np.float32)
    matrix[:rows, :columns] = _finite(name, weight)
    scales: np.ndarray | None = None
    correction: np.ndarray | None = None
    if precision == "int8":
        scales, codes = _quantise(name, matrix)
        correction = _corrections(scales, codes)
        stream = to_stream_order(codes)
    else:
        stream = to_stream_order(to_bf16(matrix))
    kept = (stream & 0x7FFF) != 0 if precision == "bf16" else stream != 0
    nonzeros = int(np.count_nonzero(kept))
    threshold = DENSE_BELOW[precision] if dense_below is None else dense_below
    sparse = 1 - nonzeros / (rows * columns) >= threshold
    width = stream.dtype.itemsize
    counts = kept.sum(axis=1, dtype=np.uint64) if sparse else np.full(len(stream), stream.shape[1], np.uint64)
    offsets = np.concatenate([np.zeros(1, np.uint64), np.cumsum(counts * np.uint64(width), dtype=np.uint64)])
    formats = {("int8", True): Format.SPARSE_INT8, ("int8", False): Format.DENSE_INT8,
               ("bf16", True): Format.SPARSE_BF16, ("bf16", False): Format.DENSE_BF16}  # fmt: skip
    return PackedTensor(
        name=name,
        role=role,
        layer=layer,
        format=formats[precision, sparse],
        rows=rows,
        columns=columns,
        nonzeros=nonzeros,
        values=stream[kept] if sparse else stream.reshape(-1),
        mask=np.packbits(kept, axis=None, bitorder="little").view("<u8") if sparse else None,
        block_offset=offsets,
        scales=scales,
        correction=correction,
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
