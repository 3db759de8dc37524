"""Values of a packed matrix as bytes: all or the kept ones, int4 two to a byte, as many of every few columns, or fewer bits. Needs numpy.

Streams are (B, 8 * K) in the order of their format (`format.to_stream_order`, for at most four bits `format.to_unit_order`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owled_ros.errors import OwledError
from owled_ros.sparse.format import BLOCK_ROWS, UNIT, Format, PackedTensor

ZERO = 8  # what is added to a code of int4
ADDED = {Format.DENSE_INT3: 4, Format.DENSE_INT2: 2}
PLACES = BLOCK_ROWS * 4  # rows and groups of four columns in a unit
DIGITS = np.array([1, 3, 9, 27, 81], np.uint8)


@dataclass(frozen=True)
class Packed:
    """Values of some blocks, bytes per block, and masks."""

    values: np.ndarray
    sizes: np.ndarray  # (B) uint64
    mask: np.ndarray | None  # uint64


def pack_values(stream: np.ndarray, kept: np.ndarray | None, halves: bool) -> Packed:
    """Pack all values, or those that are kept; `halves`: two to a byte, every block from a byte of its own."""
    blocks, entries = stream.shape
    counts = np.full(blocks, entries, np.uint64) if kept is None else kept.sum(axis=1, dtype=np.uint64)
    mask = None if kept is None else np.packbits(kept, axis=None, bitorder="little").view("<u8")
    if not halves:
        values = stream.reshape(-1) if kept is None else stream[kept]
        return Packed(values, counts * np.uint64(stream.dtype.itemsize), mask)
    rows = [
        row if kept is None else row[keep] for row, keep in zip(stream, stream if kept is None else kept, strict=True)
    ]
    return Packed(np.concatenate([_two_to_a_byte(row) for row in rows]), (counts + np.uint64(1)) // np.uint64(2), mask)


def in_pairs(kept: np.ndarray) -> bool:
    """Tell whether no four neighbouring columns keep more than two, in unit order."""
    return bool((_fours(kept).sum(axis=-1) <= 2).all())


def pack_pairs(stream: np.ndarray, kept: np.ndarray) -> Packed:
    """Pack two values of every four columns and half a byte that tells which; what keeps fewer keeps zeros too."""
    fours, chosen = _fours(stream), _fours(kept).copy()  # (B, units, places, 4)
    for plane in range(4):
        chosen[..., plane] |= chosen.sum(axis=-1) < 2
    pairs = (fours[chosen].reshape(*fours.shape[:3], 2) + ZERO).astype(np.uint8)
    values = (pairs[..., 0] | pairs[..., 1] << 4).reshape(-1)
    sizes = np.full(len(stream), len(values) // len(stream), np.uint64)
    return Packed(values, sizes, _half_bytes(chosen))


def pack_few(stream: np.ndarray, style: Format) -> Packed:
    """Pack codes of two bits, four to a byte, or of three, whose third bits lie where pairs have their masks."""
    fours = (_fours(stream) + ADDED[style]).astype(np.uint8)  # (B, units, places, 4)
    values = ((fours & 3) << np.array([0, 2, 4, 6], np.uint8)).sum(axis=-1, dtype=np.uint8).reshape(-1)
    sizes = np.full(len(stream), len(values) // len(stream), np.uint64)
    return Packed(values, sizes, _half_bytes(fours >> 2) if style is Format.DENSE_INT3 else None)


def few_codes(tensor: PackedTensor, blocks: int, columns: int) -> np.ndarray:
    """Read the codes of a tensor of two or three bits: (B, 8 * K) int8 in unit order."""
    codes = tensor.values[:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3  # (B * units * places, 4)
    if tensor.format is Format.DENSE_INT3:
        codes = codes | _of_half_bytes(tensor).reshape(codes.shape) << 2
    return _by_half(codes.astype(np.int8) - ADDED[tensor.format], blocks, columns)


def pack_ternary(stream: np.ndarray) -> Packed:
    """Pack codes -1 to 1 of five planes of places, units in turn, as the digits of a number to the base 3; the last bytes may have fewer."""
    fours = (_fours(stream) + 1).astype(np.uint8)  # (B, units, places, 4)
    planes = fours.transpose(0, 1, 3, 2).reshape(len(stream), -1, PLACES)
    padding = -planes.shape[1] % len(DIGITS)
    whole = np.pad(planes, ((0, 0), (0, padding), (0, 0))).reshape(len(stream), -1, len(DIGITS), PLACES)
    values = (whole * DIGITS[:, None]).sum(axis=2, dtype=np.uint8)  # (B, planes / 5, places)
    return Packed(values.reshape(-1), np.full(len(stream), values[0].size, np.uint64), None)


def ternary_codes(tensor: PackedTensor, blocks: int, columns: int) -> np.ndarray:
    """Read what `pack_ternary` wrote: (B, 8 * K) int8 in unit order."""
    planes = columns // UNIT * 4
    values = tensor.values.reshape(blocks, -1, 1, PLACES)
    digits = (values // DIGITS[:, None] % 3).reshape(blocks, -1, PLACES)[:, :planes]
    fours = digits.reshape(blocks, -1, 4, PLACES).transpose(0, 1, 3, 2)  # (B, units, places, 4)
    return _by_half(fours.astype(np.int8) - 1, blocks, columns)


def even_count(kept: np.ndarray) -> int:
    """Give the least even number that no sixteen neighbouring columns keep more than, in unit order."""
    most = int(_sixteens(kept).sum(axis=-1, dtype=np.uint8).max(initial=0))
    return most + most % 2


def pack_even(stream: np.ndarray, kept: np.ndarray, count: int) -> Packed:
    """Pack `count` values of every sixteen columns and the bits that tell which; what keeps fewer keeps zeros too."""
    chosen = _sixteens(kept).copy()  # (B, units, rows, 16)
    missing = count - chosen.sum(axis=-1, dtype=np.int8)
    for place in range(UNIT if missing.any() else 0):
        added = ~chosen[..., place] & (missing > 0)
        chosen[..., place] |= added
        missing -= added
    values = _two_to_a_byte(_sixteens(stream)[chosen])
    sizes = np.full(len(stream), len(values) // len(stream), np.uint64)
    return Packed(values, sizes, np.packbits(chosen, axis=None, bitorder="little").view("<u8"))


def int4_codes(tensor: PackedTensor, blocks: int, columns: int) -> np.ndarray:
    """Read the codes -8 to 7 of an int4 tensor: (B, 8 * K) int8 in unit order."""
    stream = np.zeros((blocks, BLOCK_ROWS * columns), np.int8)
    low = (tensor.values & 15).astype(np.int8) - ZERO
    high = (tensor.values >> 4).astype(np.int8) - ZERO
    both = np.stack([low, high], axis=1).reshape(-1)
    if tensor.format is Format.DENSE_INT4:
        stream.reshape(-1)[:] = both
        return stream
    assert tensor.mask is not None
    assert tensor.block_offset is not None
    mask = np.ascontiguousarray(tensor.mask).view(np.uint8)
    if tensor.format is Format.PAIRED_INT4:
        chosen = _of_half_bytes(tensor).astype(bool)
        if not (chosen.sum(axis=-1) == 2).all():
            raise OwledError(f"{tensor.name}: four columns keep other than two; pack it again")
        fours = np.zeros(chosen.shape, np.int8)
        fours[chosen] = both
        return _by_half(fours, blocks, columns)
    kept = np.unpackbits(mask, bitorder="little").astype(bool).reshape(blocks, -1)
    if tensor.format is Format.EVEN_INT4:
        rows = kept.reshape(blocks, -1, BLOCK_ROWS, UNIT)
        if (rows.sum(axis=-1) * rows.size != UNIT * len(both)).any():
            raise OwledError(f"{tensor.name}: sixteen columns keep other than the rest; pack it again")
        sixteens = np.zeros(rows.shape, np.int8)
        sixteens[rows] = both
        by_half = sixteens.reshape(blocks, -1, BLOCK_ROWS, 2, UNIT // 2).transpose(0, 1, 3, 2, 4)
        return np.ascontiguousarray(by_half).reshape(blocks, -1)
    for block in range(blocks):
        start, count = 2 * int(tensor.block_offset[block]), int(np.count_nonzero(kept[block]))
        if start + count > len(both):
            raise OwledError(f"{tensor.name}: masks and values disagree; pack it again")
        stream[block, kept[block]] = both[start : start + count]
    return stream


def _half_bytes(bits: np.ndarray) -> np.ndarray:
    """Write a bit for each plane of every place (B, units, places, 4): half a byte for each place, the later places in the high halves."""
    nibbles = (bits * np.array([1, 2, 4, 8], np.uint8)).sum(axis=-1, dtype=np.uint8)  # (B, units, places)
    halves = nibbles[..., : PLACES // 2] | nibbles[..., PLACES // 2 :] << 4
    return np.ascontiguousarray(halves).reshape(-1).view("<u8")


def _of_half_bytes(tensor: PackedTensor) -> np.ndarray:
    """Read what `_half_bytes` wrote: (B * units, places, 4) uint8."""
    assert tensor.mask is not None
    halves = np.ascontiguousarray(tensor.mask).view(np.uint8).reshape(-1, PLACES // 2)
    nibbles = np.concatenate([halves & 15, halves >> 4], axis=1)
    return nibbles[..., None] >> np.arange(4, dtype=np.uint8) & 1


def _by_half(fours: np.ndarray, blocks: int, columns: int) -> np.ndarray:
    """Bring (B, units, row, group, half, plane of the half) to unit order, where the half comes before the row: (B, 8 * K)."""
    ordered = fours.reshape(blocks, columns // UNIT, BLOCK_ROWS, 4, 2, 2).transpose(0, 1, 4, 2, 3, 5)
    return np.ascontiguousarray(ordered).reshape(blocks, -1)


def _two_to_a_byte(codes: np.ndarray) -> np.ndarray:
    shifted = (np.concatenate([codes, np.zeros(len(codes) % 2, codes.dtype)]) + ZERO).astype(np.uint8)
    return shifted[::2] | shifted[1::2] << 4


def _sixteens(stream: np.ndarray) -> np.ndarray:
    """View unit order as (B, units, rows, 16): a row's columns of a unit, half by half."""
    units = stream.reshape(
        len(stream), -1, 2, BLOCK_ROWS, UNIT // 2
    )  # block, unit, half, row, group and plane of the half
    return units.transpose(0, 1, 3, 2, 4).reshape(len(stream), -1, BLOCK_ROWS, UNIT)


def _fours(stream: np.ndarray) -> np.ndarray:
    """View unit order as (B, units, places, 4): a place is a row's four neighbouring columns."""
    units = stream.reshape(len(stream), -1, 2, PLACES, 2)  # block, unit, half, place, plane of the half
    return units.transpose(0, 1, 3, 2, 4).reshape(len(stream), -1, PLACES, 4)
