"""The packed file format: layouts worked by hand, round trips, and what a damaged file gets."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.errors import OwledError
from owled_ros.sparse.format import (
    HEADER_BYTES,
    Format,
    Role,
    checksum,
    from_stream_order,
    read_packed,
    to_stream_order,
)
from owled_ros.sparse.pack import pack_matrices
from owled_ros.sparse.quantise import from_bf16, pack_matrix, to_bf16, unpack_matrix


def random_matrix(rows: int, columns: int, zeros: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(rows, columns)).astype(np.float32)
    return matrix * (generator.random((rows, columns)) >= zeros)


def test_stream_order_is_block_group_row_column() -> None:
    # 16 rows, 192 columns: two blocks; a group of 128 columns, then the odd chunk of 64.
    matrix = np.arange(16 * 192).reshape(16, 192)
    stream = to_stream_order(matrix)
    assert stream.shape == (2, 8 * 192)
    assert stream[0, 0] == matrix[0, 0]
    assert stream[0, 128] == matrix[1, 0]  # next row of the same group
    assert stream[0, 8 * 128] == matrix[0, 128]  # after 8 rows of the first group: the tail of row 0
    assert stream[0, 8 * 128 + 64] == matrix[1, 128]
    assert stream[1, 0] == matrix[8, 0]
    np.testing.assert_array_equal(from_stream_order(stream, 192), matrix)


def test_bf16_rounds_to_nearest_even() -> None:
    # 1 + 2^-8 lies halfway between 1 and 1 + 2^-7 and goes to the even one; a little more goes up.
    values = np.array([1.0, 1 + 2**-8, 1 + 2**-8 + 2**-12, -3.0, 0.0], np.float32)
    assert from_bf16(to_bf16(values)).tolist() == [1.0, 1.0, 1 + 2**-7, -3.0, 0.0]


def test_checksum_sees_a_swap_and_wraps_around() -> None:
    # words a, b: sum a + b, weighted 1 * a + 3 * b, modulo 2^64.
    words = np.array([2**64 - 1, 5], np.uint64)
    assert checksum([words]) == (4, (2**64 - 1 + 15) % 2**64)
    assert checksum([words[:1], words[1:]]) == checksum([words])
    assert checksum([words[::-1]])[1] != checksum([words])[1]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    zeros=st.floats(0, 1),
    precision=st.sampled_from(["int8", "bf16"]),
    seed=st.integers(0, 2**16),
)
def test_unpacking_gives_the_weights_back(rows: int, columns: int, zeros: float, precision: str, seed: int) -> None:
    matrix = random_matrix(rows, columns, zeros, seed)
    packed = pack_matrix("m", Role.OTHER, -1, matrix, None, precision)
    dense = unpack_matrix(packed)
    assert dense.shape == matrix.shape
    assert not dense[matrix == 0].any()
    assert packed.nonzeros == np.count_nonzero(dense)
    if precision == "bf16":
        np.testing.assert_array_equal(dense, from_bf16(to_bf16(matrix)))
    else:  # half a step; the step is the largest entry of the group / 127, rounded up to bf16
        assert np.abs(dense - matrix).max() <= np.abs(matrix).max() / 127 * (1 + 2**-7) * 0.5001


def test_int8_scale_covers_the_largest_entry() -> None:
    packed = pack_matrix("m", Role.OTHER, -1, np.array([[1.0, -127.0, 63.6]], np.float32), None, "int8", dense_below=2)
    assert packed.scales is not None
    assert from_bf16(packed.scales)[0, 0, 0] == 1.0
    assert packed.values[:3].tolist() == [1, -127, 64]
    assert packed.correction is not None
    assert packed.correction[0] == 1 - 127 + 64


def test_format_follows_the_share_of_zeros() -> None:
    dense, sparse = random_matrix(16, 128, 0.1), random_matrix(16, 128, 0.6)
    assert pack_matrix("m", Role.OTHER, -1, dense).format is Format.DENSE_INT8
    assert pack_matrix("m", Role.OTHER, -1, sparse).format is Format.SPARSE_INT8
    assert pack_matrix("m", Role.OTHER, -1, sparse, precision="bf16").format is Format.SPARSE_BF16
    assert pack_matrix("m", Role.OTHER, -1, np.zeros((8, 64), np.float32)).nonzeros == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    matrix = random_matrix(8, 64, 0.5)
    matrix[3, 3] = bad
    with pytest.raises(OwledError, match="NaN or infinity"):
        pack_matrix("layer.7", Role.OTHER, -1, matrix)


def test_unknown_precision_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(OwledError, match="int4"):
        pack_matrix("m", Role.OTHER, -1, np.ones((8, 64), np.float32), precision="int4")
    with pytest.raises(OwledError, match="matrix is needed"):
        pack_matrix("m", Role.OTHER, -1, np.ones(8, np.float32))
    with pytest.raises(OwledError, match="bias"):
        pack_matrix("m", Role.OTHER, -1, np.ones((8, 64), np.float32), np.ones(7, np.float32))


@pytest.fixture
def packed_file(tmp_path: Path) -> Path:
    path = tmp_path / "packed.owled"
    bias = np.arange(20, dtype=np.float32)
    pack_matrices({"a": (random_matrix(20, 200, 0.6), bias), "b": (random_matrix(8, 64, 0.0), None)}, path)
    return path


def test_a_file_reads_back(packed_file: Path) -> None:
    packed = read_packed(packed_file)
    assert packed.shape is None
    assert packed.meta["precision"] == "int8"
    assert [t.name for t in packed.tensors] == ["a", "b"]
    assert packed.file_bytes == packed_file.stat().st_size
    first = packed.tensors[0]
    assert first.bias is not None
    np.testing.assert_array_equal(first.bias[:20], np.arange(20))
    expected = unpack_matrix(pack_matrix("a", Role.OTHER, -1, random_matrix(20, 200, 0.6)))
    np.testing.assert_array_equal(unpack_matrix(first), expected)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"X", "not a packed model"),
        (8, struct.pack(">I", 0x01020304), "byte order"),
        (12, struct.pack("<I", 2), "version"),
        (16, struct.pack("<Q", 64), "truncated"),
        (100, b"\x11", "checksum"),
        (HEADER_BYTES + 3, b"\x11", "checksum"),
    ],
)
def test_a_damaged_file_is_refused(packed_file: Path, place: int, value: bytes, message: str) -> None:
    data = bytearray(packed_file.read_bytes())
    assert data[place : place + len(value)] != value
    data[place : place + len(value)] = value
    packed_file.write_bytes(data)
    with pytest.raises(OwledError, match=message):
        read_packed(packed_file)


def test_a_failed_write_leaves_the_old_file(packed_file: Path) -> None:
    before = packed_file.read_bytes()
    broken = np.full((8, 64), np.nan, np.float32)
    with pytest.raises(OwledError, match="NaN"):
        pack_matrices({"a": (np.ones((8, 64), np.float32), None), "b": (broken, None)}, packed_file)
    assert packed_file.read_bytes() == before
    assert [path.name for path in packed_file.parent.iterdir()] == [packed_file.name]


def test_header_has_the_documented_size() -> None:
    from owled_ros.sparse.format import HEADER, RECORD

    assert (HEADER.size, RECORD.size) == (256, 224)
    assert io.BytesIO(bytes(HEADER_BYTES)).getbuffer().nbytes == HEADER.size
