"""Pack one matrix: bit mask, values in stream order, two to eight bits with a scale per group of columns, or bf16. Needs numpy.

The rounding and its scales are in `owled_ros.sparse.rounding`. Shape letters as in `owled_ros.sparse.format`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owled_ros.errors import OwledError
from owled_ros.sparse.format import (
    BLOCK_ROWS,
    CHUNK,
    GROUP,
    GROUPS,
    UNIT,
    Format,
    PackedTensor,
    Role,
    from_stream_order,
    from_unit_order,
    padded,
    to_stream_order,
    to_unit_order,
)
from owled_ros.sparse.halves import (
    Packed,
    even_count,
    few_codes,
    in_pairs,
    int4_codes,
    pack_even,
    pack_few,
    pack_pairs,
    pack_ternary,
    pack_values,
    ternary_codes,
)
from owled_ros.sparse.rounding import from_bf16, read_grid, round_to_grid, to_bf16

# Below these shares of zeros the plain format is smaller or as fast, by byte counts and trials (docs/kernels.md).
DENSE_BELOW = {"int8": 0.30, "int4": 0.30, "int3": 2.0, "int2": 2.0, "ternary": 2.0, "bf16": 0.20}
BITS: dict[str, float] = {"int8": 8, "int4": 4, "int3": 3, "int2": 2, "ternary": 1.6}
PAIRS = 0.45  # share of zeros from which two of four is told from chance
EVEN = 0.1  # share of the weights that may be stored zeros where every sixteen columns keep as many
STRIP_ENTRIES = 1 << 17
FORMATS = {
    ("int8", True): Format.SPARSE_INT8,
    ("int8", False): Format.DENSE_INT8,
    ("int4", True): Format.SPARSE_INT4,
    ("int4", False): Format.DENSE_INT4,
    ("int3", False): Format.DENSE_INT3,
    ("int2", False): Format.DENSE_INT2,
    ("ternary", False): Format.TERNARY,
    ("bf16", True): Format.SPARSE_BF16,
    ("bf16", False): Format.DENSE_BF16,
}


@dataclass(frozen=True)
class _Strip:
    """Some blocks of a matrix in the order of their format."""

    stream: np.ndarray  # (B, 8 * K) int8 codes or bf16 bits
    kept: np.ndarray  # (B, 8 * K) bool
    scales: np.ndarray | None  # (B, S, 8) bf16 bits
    correction: np.ndarray | None  # (N)


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
    group: int = GROUP,
    scales: np.ndarray | None = None,
) -> PackedTensor:
    """Pack a weight matrix (rows, columns); zeros are left out where that pays.

    Args:
        name: Of the tensor.
        role: Of the tensor.
        layer: Of the tensor, -1 for none.
        weight: (rows, columns), any float type.
        bias: (rows) or None.
        precision: "int8", "int4", "int3", "int2", "ternary" or "bf16".
        dense_below: Share of zeros below which every value is stored; None: the usual break-even. 2 packs dense. Three bits and fewer always are.
        group: Columns that share a scale, all but bf16: 32, 64 or 128; the last ones of a row may be fewer.
        scales: (rows, groups) that the weights lie on already; None: chosen here.

    Raises:
        OwledError: NaN or infinity in the weights, no matrix, an unknown precision or group, or weights off the given scales.
    """
    if precision not in DENSE_BELOW:
        raise OwledError(f"precision {precision!r} is not known; expected one of {', '.join(DENSE_BELOW)}")
    if group not in GROUPS:
        raise OwledError(f"groups of {group} columns are not known; expected one of {', '.join(map(str, GROUPS))}")
    if weight.ndim != 2 or 0 in weight.shape:
        raise OwledError(f"{name}: a matrix is needed, found shape {weight.shape}")
    rows, columns = weight.shape
    # A strip of rows at a time: everything then stays in the processor's cache.
    step = max(BLOCK_ROWS, STRIP_ENTRIES // columns // BLOCK_ROWS * BLOCK_ROWS)
    strips = [
        _pack_strip(
            name, weight[row : row + step], precision, group, None if scales is None else scales[row : row + step]
        )
        for row in range(0, rows, step)
    ]
    nonzeros = sum(int(np.count_nonzero(strip.kept)) for strip in strips)
    zeros = 1 - nonzeros / (rows * columns)
    sparse = (precision, True) in FORMATS and zeros >= (DENSE_BELOW[precision] if dense_below is None else dense_below)
    style = FORMATS[precision, sparse]
    count = 0
    if style is Format.SPARSE_INT4:
        if zeros >= PAIRS and all(in_pairs(strip.kept) for strip in strips):
            style = Format.PAIRED_INT4
        else:
            count = max(even_count(strip.kept) for strip in strips)
            style = Format.EVEN_INT4 if 0 < count <= min(UNIT // 2, UNIT * (1 - zeros + EVEN)) else style
    packed = [_values_of(strip, style, count) for strip in strips]
    sizes = np.concatenate([np.zeros(1, np.uint64), *(part.sizes for part in packed)])
    all_scales = [strip.scales for strip in strips if strip.scales is not None]
    corrections = [strip.correction for strip in strips if strip.correction is not None]
    return PackedTensor(
        name=name,
        role=role,
        layer=layer,
        format=style,
        rows=rows,
        columns=columns,
        nonzeros=nonzeros,
        values=np.concatenate([part.values for part in packed]),
        mask=np.concatenate([part.mask for part in packed if part.mask is not None]) if style.masked else None,
        block_offset=np.cumsum(sizes, dtype=np.uint64),
        scales=np.concatenate(all_scales) if all_scales else None,
        correction=np.concatenate(corrections) if corrections else None,
        bias=None if bias is None else _padded_bias(name, bias, rows),
        group=group if precision != "bf16" else GROUP,
    )


def unpack_matrix(tensor: PackedTensor) -> np.ndarray:
    """Give the dense float32 (rows, columns) matrix that the kernels multiply with, or a vector (columns)."""
    if tensor.format is Format.VECTOR:
        return np.array(tensor.values, np.float32)
    columns = padded(tensor.columns, CHUNK)
    blocks = padded(tensor.rows, BLOCK_ROWS) // BLOCK_ROWS
    if tensor.format.narrow:
        read = (
            int4_codes if tensor.format.bits == 4 else ternary_codes if tensor.format is Format.TERNARY else few_codes
        )
        matrix = from_unit_order(read(tensor, blocks, columns), columns)
    else:
        stream = np.zeros((blocks, BLOCK_ROWS * columns), tensor.values.dtype)
        if tensor.format.sparse:
            assert tensor.mask is not None
            kept = _kept(tensor.mask)
            if np.count_nonzero(kept) != len(tensor.values):
                raise OwledError(f"{tensor.name}: masks and values disagree; pack it again")
            stream.reshape(-1)[kept] = tensor.values
        else:
            stream.reshape(-1)[:] = tensor.values
        matrix = from_stream_order(stream, columns)
    if tensor.format.bits <= 8:
        dense = matrix.astype(np.float32) * np.repeat(_all_scales(tensor), tensor.group, axis=1)[:, :columns]
    else:
        dense = from_bf16(matrix)
    return dense[: tensor.rows, : tensor.columns]


def unpack_scales(tensor: PackedTensor) -> np.ndarray:
    """Return the scales (rows, groups) of a packed matrix of at most eight bits, float32."""
    return _all_scales(tensor)[: tensor.rows, : -(-tensor.columns // tensor.group)]


def _all_scales(tensor: PackedTensor) -> np.ndarray:
    """Return the scales of all rows, those that fill the last block up too."""
    assert tensor.scales is not None
    blocks, groups, rows = tensor.scales.shape
    return from_bf16(tensor.scales).transpose(0, 2, 1).reshape(blocks * rows, groups)


def _pack_strip(name: str, weight: np.ndarray, precision: str, group: int, scales: np.ndarray | None) -> _Strip:
    rows, columns = weight.shape
    matrix = np.zeros((padded(rows, BLOCK_ROWS), padded(columns, CHUNK)), np.float32)
    matrix[:rows, :columns] = _finite(name, weight)
    if precision == "bf16":
        stream = to_stream_order(to_bf16(matrix))
        return _Strip(stream, (stream & 0x7FFF) != 0, None, None)
    bits = BITS[precision]
    if scales is None:
        found, codes = round_to_grid(name, matrix, bits, group)
    else:
        found, codes = read_grid(name, matrix, scales, bits, group)
    stream = to_stream_order(codes) if bits == 8 else to_unit_order(codes)
    blocked = to_bf16(found).reshape(-1, BLOCK_ROWS, found.shape[1]).transpose(0, 2, 1)  # (B, S, 8)
    return _Strip(
        stream, stream != 0, np.ascontiguousarray(blocked), None if bits < 4 else _corrections(found, codes, group)
    )


def _values_of(strip: _Strip, style: Format, count: int) -> Packed:
    if style is Format.PAIRED_INT4:
        return pack_pairs(strip.stream, strip.kept)
    if style is Format.EVEN_INT4:
        return pack_even(strip.stream, strip.kept, count)
    if style is Format.TERNARY:
        return pack_ternary(strip.stream)
    if style.bits < 4:
        return pack_few(strip.stream, style)
    return pack_values(strip.stream, strip.kept if style.sparse else None, style.narrow)


def _kept(mask: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.ascontiguousarray(mask).view(np.uint8), bitorder="little").astype(bool)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise OwledError(f"{name}: NaN or infinity in the weights; repair or prune the model again before packing")
    return values


def _corrections(scales: np.ndarray, codes: np.ndarray, group: int) -> np.ndarray:
    """Sum scale * code per row: what an activation offset of 1 adds to the product."""
    rows, groups = scales.shape
    wide = np.zeros((rows, groups * group), np.int32)
    wide[:, : codes.shape[1]] = codes
    sums = wide.reshape(rows, groups, group).sum(axis=2)
    return (scales.astype(np.float64) * sums).sum(axis=1).astype(np.float32)


def _padded_bias(name: str, bias: np.ndarray, rows: int) -> np.ndarray:
    if bias.shape != (rows,):
        raise OwledError(f"{name}: its bias has shape {bias.shape}, expected ({rows},)")
    out = np.zeros(padded(rows, BLOCK_ROWS), np.float32)
    out[:rows] = _finite(name, bias)
    return out
