"""The packed file format, versions 1 to 3 (docs/packed_format.md): layouts, writer and a reader in numpy. Needs numpy.

Shape letters: N rows, K columns, both padded (N to 8, K to 64); B = N / 8 blocks; G groups of 128 columns (an odd last
chunk of 64 is a group of its own). Codes of at most four bits come in units of 16 columns; S scales of a row, one per `group` columns.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from owled_ros.errors import OwledError

MAGIC = b"OWLEDPK\n"
ENDIAN_TAG = 0x01020304
OLDEST_VERSION = 1  # without int4 and groups below 128
VERSION = 3  # 2 had no codes below four bits
ALIGN = 64
HEADER_BYTES = 256
RECORD_BYTES = 224
BLOCK_ROWS = 8
CHUNK = 64
GROUP = 128
GROUPS = (32, 64, 128)  # columns that share a scale
UNIT = 16
HEADER = struct.Struct("<8sIIQQQIIIIQQQ9I2f132x")
RECORD = struct.Struct("<96sIiIIII8Q40x")


class Format(IntEnum):
    """How a tensor is stored."""

    VECTOR = 0  # float32
    DENSE_BF16 = 1
    DENSE_INT8 = 2
    SPARSE_BF16 = 3
    SPARSE_INT8 = 4
    DENSE_INT4 = 5
    SPARSE_INT4 = 6
    PAIRED_INT4 = 7  # two of every four neighbouring columns
    EVEN_INT4 = 8  # as many of every sixteen neighbouring columns, an even number
    DENSE_INT2 = 9
    DENSE_INT3 = 10
    TERNARY = 11  # codes -1 to 1, five to a byte; always dense

    @property
    def sparse(self) -> bool:
        """Whether a bit mask tells which entries are kept."""
        return self in (Format.SPARSE_BF16, Format.SPARSE_INT8, Format.SPARSE_INT4)

    @property
    def int8(self) -> bool:
        """Whether values are int8 with a bf16 scale per group."""
        return self in (Format.DENSE_INT8, Format.SPARSE_INT8)

    @property
    def bits(self) -> float:
        """How many bits tell a value that is there."""
        return BITS[self]

    @property
    def narrow(self) -> bool:
        """Whether values are codes of at most four bits, in unit order, with a bf16 scale per group."""
        return self.bits <= 4

    @property
    def masked(self) -> bool:
        """Whether a bit for every entry lies beside the values: whether it is kept, or the third bit of its code."""
        return self.sparse or self.patterned or self is Format.DENSE_INT3

    @property
    def patterned(self) -> bool:
        """Whether every few columns keep as many values, zeros among them where fewer are needed."""
        return self in (Format.PAIRED_INT4, Format.EVEN_INT4)


BITS = {
    Format.VECTOR: 32, Format.DENSE_BF16: 16, Format.SPARSE_BF16: 16, Format.DENSE_INT8: 8, Format.SPARSE_INT8: 8, Format.DENSE_INT4: 4,
    Format.SPARSE_INT4: 4, Format.PAIRED_INT4: 4, Format.EVEN_INT4: 4, Format.DENSE_INT3: 3, Format.DENSE_INT2: 2,
    Format.TERNARY: 1.6,
}  # fmt: skip
NEWEST_OF = {1: Format.SPARSE_INT8, 2: Format.EVEN_INT4, 3: Format.TERNARY}  # by version


class Role(IntEnum):
    """What a tensor is to the decoder."""

    OTHER = 0
    EMBEDDING = 1
    HEAD = 2
    FINAL_NORM = 3
    ROTARY = 4
    QUERY = 16
    KEY = 17
    VALUE = 18
    OUTPUT = 19
    GATE = 20
    UP = 21
    DOWN = 22
    ATTENTION_NORM = 32
    MLP_NORM = 33
    QUERY_NORM = 34
    KEY_NORM = 35


@dataclass(frozen=True)
class Shape:
    """Sizes of the decoder, in the order of the header."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    window: int  # 0: every position sees all before it
    norm_epsilon: float
    rotary_scale: float


@dataclass(frozen=True)
class PackedTensor:
    """One tensor with its sections; sections that its format lacks are None."""

    name: str
    role: Role
    layer: int  # -1: none
    format: Format
    rows: int
    columns: int
    nonzeros: int
    values: np.ndarray  # uint8, uint16 (bf16) or float32 (vector)
    mask: np.ndarray | None = None  # uint64 (B * chunks * 8)
    block_offset: np.ndarray | None = None  # uint64 (B + 1) [bytes]
    scales: np.ndarray | None = None  # uint16 bf16 (B, S, 8)
    correction: np.ndarray | None = None  # float32 (N)
    bias: np.ndarray | None = None  # float32 (N)
    group: int = GROUP  # columns that share a scale, at most eight bits


@dataclass(frozen=True)
class PackedModel:
    """All tensors of a packed file."""

    shape: Shape | None  # None: single matrices only
    tensors: list[PackedTensor]
    meta: Mapping[str, Any]  # free JSON: where the weights came from
    file_bytes: int = 0


def padded(size: int, step: int) -> int:
    """Round up."""
    return -(-size // step) * step


def to_stream_order(matrix: np.ndarray) -> np.ndarray:
    """Reorder a padded (N, K) matrix to (B, 8 * K): block, group of 128 columns, row, column."""
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows // BLOCK_ROWS, BLOCK_ROWS, columns)
    whole = columns // GROUP * GROUP
    head = blocks[:, :, :whole].reshape(len(blocks), BLOCK_ROWS, -1, GROUP).transpose(0, 2, 1, 3)
    return np.concatenate([head.reshape(len(blocks), -1), blocks[:, :, whole:].reshape(len(blocks), -1)], axis=1)


def from_stream_order(stream: np.ndarray, columns: int) -> np.ndarray:
    """Undo `to_stream_order` for a padded number of columns."""
    blocks, whole = len(stream), columns // GROUP * GROUP
    head = stream[:, : BLOCK_ROWS * whole].reshape(blocks, -1, BLOCK_ROWS, GROUP).transpose(0, 2, 1, 3)
    tail = stream[:, BLOCK_ROWS * whole :].reshape(blocks, BLOCK_ROWS, columns - whole)
    return np.concatenate([head.reshape(blocks, BLOCK_ROWS, whole), tail], axis=2).reshape(-1, columns)


def to_unit_order(matrix: np.ndarray) -> np.ndarray:
    """Reorder a padded (N, K) matrix to (B, 8 * K), as codes of at most four bits lie: block, unit of 16 columns, half, row, group, plane of the half.

    Column 4 * group + plane of a unit is in the half plane // 2.
    """
    rows, columns = matrix.shape
    units = matrix.reshape(
        rows // BLOCK_ROWS, BLOCK_ROWS, columns // UNIT, 4, 2, 2
    )  # block, row, unit, group, half, plane
    return units.transpose(0, 2, 4, 1, 3, 5).reshape(rows // BLOCK_ROWS, -1)


def from_unit_order(stream: np.ndarray, columns: int) -> np.ndarray:
    """Undo `to_unit_order` for a padded number of columns."""
    units = stream.reshape(len(stream), columns // UNIT, 2, BLOCK_ROWS, 4, 2)
    return units.transpose(0, 3, 1, 4, 2, 5).reshape(-1, columns)


def checksum(chunks: Iterable[np.ndarray]) -> tuple[int, int]:
    """Sum the 64-bit words, and the words weighted by their place, both modulo 2^64."""
    total = weighted = np.uint64(0)
    start = 0
    with np.errstate(over="ignore"):
        for words in chunks:
            place = np.arange(start, start + len(words), dtype=np.uint64)
            total = total + words.sum(dtype=np.uint64)
            weighted = weighted + (words * (place * np.uint64(2) + np.uint64(1))).sum(dtype=np.uint64)
            start += len(words)
    return int(total), int(weighted)


class Writer:
    """Writes tensors one after another to an open file; the header comes last, so a broken write is no valid file.

    It is written as the oldest version that has all that it needs, which older releases read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._records: list[bytes] = []
        self._version = OLDEST_VERSION
        stream.write(bytes(HEADER_BYTES))

    def add(self, tensor: PackedTensor) -> int:
        """Append one tensor; returns the bytes of its sections."""
        name = tensor.name.encode()
        if len(name) >= 96:
            raise OwledError(f"{tensor.name}: tensor names have at most 95 bytes")
        start = self._stream.tell()
        places = {
            "mask": self._section(tensor.mask),
            "values": self._section(tensor.values),
            "block_offset": self._section(tensor.block_offset),
            "scales": self._section(tensor.scales),
            "correction": self._section(tensor.correction),
            "bias": self._section(tensor.bias),
        }
        group = 0 if tensor.format <= NEWEST_OF[1] and tensor.group == GROUP else tensor.group
        needed = next(version for version, newest in NEWEST_OF.items() if tensor.format <= newest)
        self._version = max(self._version, needed, 2 if group else OLDEST_VERSION)
        sizes = (tensor.rows, tensor.columns, group, tensor.nonzeros, places["mask"], places["values"])
        tail = (tensor.values.nbytes, places["block_offset"], places["scales"], places["correction"], places["bias"])
        self._records.append(RECORD.pack(name, tensor.role, tensor.layer, tensor.format, *sizes, *tail))
        return self._stream.tell() - start

    def finish(self, shape: Shape | None, meta: Mapping[str, Any]) -> int:
        """Write table, metadata and header; returns the size of the file [bytes]."""
        table = self._stream.tell()
        self._stream.write(b"".join(self._records))
        self._pad(0)
        text = json.dumps(dict(meta), sort_keys=True, allow_nan=False).encode()
        place = self._stream.tell()
        self._stream.write(text)
        self._pad(ALIGN)
        size = self._stream.tell()
        self._stream.flush()
        sums = _file_checksum(self._stream, size)
        sizes = tuple(getattr(shape, field.name) for field in fields(Shape)) if shape else (0,) * 9 + (0.0, 0.0)
        header = HEADER.pack(
            MAGIC, ENDIAN_TAG, self._version, size, 0, 0, HEADER_BYTES, RECORD_BYTES, len(self._records), int(shape is not None),
            table, place, len(text), *sizes,
        )  # fmt: skip
        # The sums cover everything after the first 64 bytes, so the rest of the header counts too.
        total, weighted = _add_header(sums, header)
        self._stream.seek(0)
        self._stream.write(header[:24] + struct.pack("<QQ", total, weighted) + header[40:])
        self._stream.seek(size)
        return size

    def _section(self, array: np.ndarray | None) -> int:
        if array is None:
            return 0
        place = self._stream.tell()
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        self._stream.write(np.ascontiguousarray(little).data)
        self._pad(ALIGN)  # vector loads may run over the end by one register
        return place

    def _pad(self, slack: int) -> None:
        end = self._stream.tell()
        self._stream.write(bytes(padded(end + slack, ALIGN) - end))


def _file_checksum(stream: BinaryIO, size: int) -> tuple[int, int]:
    if size == HEADER_BYTES:
        return 0, 0
    words = np.memmap(stream.name, dtype="<u8", mode="r", shape=(size // 8,))
    step = 1 << 22
    return checksum(words[start : start + step] for start in range(8, len(words), step))


def _add_header(sums: tuple[int, int], header: bytes) -> tuple[int, int]:
    """Add the words of the header behind byte 64, which were zero when the file was summed."""
    total, weighted = checksum([np.frombuffer(header[64:HEADER_BYTES], dtype="<u8")])
    return (sums[0] + total) % 2**64, (sums[1] + weighted) % 2**64


def read_packed(path: Path) -> PackedModel:
    """Read a packed file in numpy (the fallback and `inspect`); checks sizes and sums.

    Raises:
        OwledError: It is no packed file, of another version, or damaged.
    """
    size = os.path.getsize(path)
    data = np.memmap(path, dtype=np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    if size < HEADER_BYTES or bytes(data[:8]) != MAGIC:
        raise OwledError(f"{path}: not a packed model; make one with `owled pack`")
    head = HEADER.unpack(bytes(data[:HEADER_BYTES]))
    (
        _,
        endian,
        version,
        file_bytes,
        total,
        weighted,
        header_bytes,
        record_bytes,
        count,
        kind,
        table,
        meta,
        meta_bytes,
    ) = head[:13]
    if (
        endian != ENDIAN_TAG
        or not OLDEST_VERSION <= version <= VERSION
        or (header_bytes, record_bytes) != (HEADER_BYTES, RECORD_BYTES)
    ):
        raise OwledError(f"{path}: packed with another byte order or format version; pack it again")
    if file_bytes != size or size % ALIGN or table + count * RECORD_BYTES > size or meta + meta_bytes > size:
        raise OwledError(f"{path}: truncated or damaged; pack it again")
    words = data.view("<u8")
    step = 1 << 22
    if checksum(words[start : start + step] for start in range(8, len(words), step)) != (total, weighted):
        raise OwledError(f"{path}: the checksum does not match: the file is damaged, pack it again")
    try:
        records = list(RECORD.iter_unpack(bytes(data[table : table + count * RECORD_BYTES])))
        if any(record[3] > NEWEST_OF[version] or (version == OLDEST_VERSION and record[6]) for record in records):
            raise ValueError(f"a tensor has a format that came after version {version}")
        tensors = [_read_tensor(data, record) for record in records]
        facts = json.loads(bytes(data[meta : meta + meta_bytes]) or b"{}")
    except (ValueError, struct.error, UnicodeDecodeError) as err:
        raise OwledError(f"{path}: damaged table: {err}; pack it again") from err
    return PackedModel(Shape(*head[13:]) if kind else None, tensors, facts, size)


def _read_tensor(data: np.ndarray, record: tuple[Any, ...]) -> PackedTensor:
    (
        name,
        role,
        layer,
        kind,
        rows,
        columns,
        group,
        nonzeros,
        mask,
        values,
        value_bytes,
        offsets,
        scales,
        correction,
        bias,
    ) = record
    style = Format(kind)

    def section(place: int, count: int, dtype: str) -> np.ndarray:
        return data[place : place + count * np.dtype(dtype).itemsize].view(dtype)

    text = name.rstrip(b"\0").decode()
    if style is Format.VECTOR:
        vector = section(values, columns, "<f4")
        return PackedTensor(text, Role(role), layer, style, rows, columns, nonzeros, vector)
    full_rows, full_columns = padded(rows, BLOCK_ROWS), padded(columns, CHUNK)
    group = group or GROUP
    if group not in GROUPS:
        raise ValueError(f"{text} has scales of {group} columns")
    groups = padded(full_columns, group) // group
    coarse = style.bits <= 8
    kind_of_value = "<i1" if style.int8 else "<u1" if style.narrow else "<u2"
    return PackedTensor(
        text, Role(role), layer, style, rows, columns, nonzeros,
        values=section(values, value_bytes // (1 if coarse else 2), kind_of_value),
        mask=section(mask, full_rows * full_columns // CHUNK, "<u8") if style.masked else None,
        block_offset=section(offsets, full_rows // BLOCK_ROWS + 1, "<u8"),
        scales=section(scales, full_rows * groups, "<u2").reshape(-1, groups, BLOCK_ROWS) if coarse else None,
        correction=section(correction, full_rows, "<f4") if 4 <= style.bits <= 8 else None,
        bias=section(bias, full_rows, "<f4") if bias else None,
        group=group,
    )  # fmt: skip
