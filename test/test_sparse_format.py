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
from owled_ros.pruning.config import DENSE_BITS
from owled_ros.sparse import library
from owled_ros.sparse.format import (
    HEADER_BYTES,
    Format,
    Role,
    checksum,
    from_stream_order,
    from_unit_order,
    read_packed,
    to_stream_order,
    to_unit_order,
)
from owled_ros.sparse.native import NativeModel
from owled_ros.sparse.pack import pack_matrices
from owled_ros.sparse.quantise import BITS, FORMATS, pack_matrix, unpack_matrix, unpack_scales
from owled_ros.sparse.rounding import from_bf16, to_bf16


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


# Half a step, and what a clipped end loses: of the largest weight, by precision.
FURTHEST = {"int4": 0.31, "int3": 0.45, "int2": 0.65, "ternary": 0.65}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    zeros=st.floats(0, 1),
    precision=st.sampled_from(["int8", "int4", "int3", "int2", "ternary", "bf16"]),
    group=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 2**16),
)
def test_unpacking_gives_the_weights_back(
    rows: int, columns: int, zeros: float, precision: str, group: int, seed: int
) -> None:
    matrix = random_matrix(rows, columns, zeros, seed)
    packed = pack_matrix("m", Role.OTHER, -1, matrix, None, precision, group=group)
    dense = unpack_matrix(packed)
    assert dense.shape == matrix.shape
    assert not dense[matrix == 0].any()
    assert packed.nonzeros == np.count_nonzero(dense)
    if precision == "bf16":
        np.testing.assert_array_equal(dense, from_bf16(to_bf16(matrix)))
    elif precision != "int8":
        assert np.abs(dense - matrix).max() <= FURTHEST[precision] * np.abs(matrix).max()
    else:  # half a step; the step is the largest entry of the group / 127, rounded up to bf16
        assert np.abs(dense - matrix).max() <= np.abs(matrix).max() / 127 * (1 + 2**-7) * 0.5001


@pytest.mark.parametrize("precision", BITS)
def test_prune_knows_where_packed_files_keep_their_zeros(precision: str) -> None:
    assert ((precision, True) in FORMATS) == (BITS[precision] > DENSE_BITS)


def test_unit_order_is_block_unit_half_row_group_plane() -> None:
    # 16 rows, 64 columns: column 16 u + 4 g + p is in half p // 2 of unit u, at (row, g, p % 2) there.
    matrix = np.arange(16 * 64).reshape(16, 64)
    stream = to_unit_order(matrix)
    assert stream[0, :3].tolist() == [matrix[0, 0], matrix[0, 1], matrix[0, 4]]
    assert stream[0, 8] == matrix[1, 0]  # 4 groups of 2 columns, then the next row
    assert stream[0, 64] == matrix[0, 2]  # 8 rows, then the other half
    assert stream[0, 128] == matrix[0, 16]
    assert stream[1, 0] == matrix[8, 0]
    np.testing.assert_array_equal(from_unit_order(stream, 64), matrix)


def test_int4_by_hand() -> None:
    # Scale 1: 7 and -8 are the ends; the extra code goes to the longer side, whichever it is.
    for sign in (1, -1):
        row = sign * np.array([[-8, 7, 3, 0, 1.4, -0.4]], np.float32)
        packed = pack_matrix("m", Role.OTHER, -1, row, None, "int4", dense_below=2, group=32)
        assert packed.scales is not None
        assert from_bf16(packed.scales)[0, 0, 0] == sign
        np.testing.assert_array_equal(unpack_matrix(packed), sign * np.array([[-8, 7, 3, 0, 1, 0]]))
        assert packed.values[0] == (-8 + 8) | (7 + 8) << 4  # columns 0 and 1
        assert packed.values[1] == (1 + 8) | (0 + 8) << 4  # columns 4 and 5
        assert packed.values[32] == (3 + 8) | (0 + 8) << 4  # columns 2 and 3 in the other half


def test_two_of_four_keep_half_the_values_and_a_bit_per_column() -> None:
    matrix = np.zeros((8, 64), np.float32)
    matrix[0, :8] = [7, 0, 0, -8, 0, 5, 0, 0]  # the second four keep one: the first zero goes along
    matrix[3, 62:] = [7, 1]
    packed = pack_matrix("m", Role.OTHER, -1, matrix, None, "int4", group=32)
    assert packed.format is Format.PAIRED_INT4
    assert packed.nonzeros == 5
    assert packed.mask is not None
    assert (packed.values.nbytes, packed.mask.nbytes) == (8 * 64 // 4, 8 * 64 // 8)
    assert packed.mask.view(np.uint8)[0] & 15 == 0b1001
    assert packed.mask.view(np.uint8)[1] & 15 == 0b0011  # column 4 (zero) and 5
    assert packed.values[0] == (7 + 8) | (-8 + 8) << 4
    np.testing.assert_array_equal(unpack_matrix(packed), matrix)
    matrix[0, 2] = 3  # three of four: any places
    assert pack_matrix("m", Role.OTHER, -1, matrix, None, "int4", group=32).format is Format.SPARSE_INT4


def test_as_many_of_sixteen_keep_their_share_of_the_values_and_a_bit_per_column() -> None:
    generator = np.random.default_rng(0)
    matrix = np.zeros((8, 64), np.float32)
    rows = matrix.reshape(8, 4, 16)
    rows[...] = generator.integers(1, 8, rows.shape)
    rows[..., 0] = 7  # the largest of a scale, which is 1 then
    rows[..., 1:][generator.random((8, 4, 15)).argsort(axis=2) >= 5] = 0
    rows[0, 0] = [7, 0, 0, 0, 0, -8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0]  # keeps three: the first zeros of its order go along
    packed = pack_matrix("m", Role.OTHER, -1, matrix, None, "int4", group=32)
    assert packed.format is Format.EVEN_INT4
    assert packed.nonzeros == 8 * 4 * 6 - 3
    assert packed.mask is not None
    assert (packed.values.nbytes, packed.mask.nbytes) == (8 * 64 * 6 // 16 // 2, 8 * 64 // 8)
    # The order of a row: columns 0, 1, 4, 5, 8, 9, 12, 13 and then the others two by two. 0 and 5 are kept, and 1, 4, 8; 14 is the last but one.
    assert packed.mask.view(np.uint8)[:2].tolist() == [0b00011111, 0b01000000]
    assert packed.values[:3].tolist() == [15 | 8 << 4, 8 | 0 << 4, 8 | 11 << 4]
    np.testing.assert_array_equal(unpack_matrix(packed), matrix)
    rows[5, 3, :15] = 1  # one row that keeps fifteen: any places
    assert pack_matrix("m", Role.OTHER, -1, matrix, None, "int4", group=32).format is Format.SPARSE_INT4


@pytest.mark.parametrize(("bits", "sizes"), [(2, (2 * 64, 0)), (3, (2 * 64, 64))])
def test_two_and_three_bits_by_hand(bits: int, sizes: tuple[int, int]) -> None:
    low, high = -(1 << bits >> 1), (1 << bits >> 1) - 1
    matrix = np.zeros((8, 64), np.float32)
    matrix[0, :8] = [low, high, 0, 1, -1, 0, 0, 0]
    matrix[5, 16:20] = [low, 0, 0, high]
    scales = np.ones((8, 1), np.float32)
    packed = pack_matrix("m", Role.OTHER, -1, matrix, None, f"int{bits}", group=64, scales=scales)
    assert packed.format is (Format.DENSE_INT2 if bits == 2 else Format.DENSE_INT3)
    assert (packed.values.nbytes, 0 if packed.mask is None else packed.mask.nbytes) == sizes
    codes = [low - low, high - low, 0 - low, 1 - low]  # of columns 0 to 3: the low two bits of each in one byte
    assert packed.values[0] == sum((code & 3) << 2 * plane for plane, code in enumerate(codes))
    assert packed.values[1] & 3 == (-1 - low) & 3  # column 4
    if packed.mask is not None:  # half a byte for each place; row 5, group 0 is place 20 of the second unit
        thirds = packed.mask.view(np.uint8)
        assert thirds[0] & 15 == sum((code >> 2) << plane for plane, code in enumerate(codes))
        assert thirds[16 + 20 - 16] >> 4 == 0b1110  # -4, 0, 0 and 3 are 0, 4, 4 and 7
    np.testing.assert_array_equal(unpack_matrix(packed), matrix)


def test_ternary_codes_are_digits_of_five_planes() -> None:
    # 128 columns: two chunks of 16 planes, so 32 planes in 7 registers of 32 places, the last one with two planes.
    matrix = np.zeros((8, 128), np.float32)
    matrix[0, :4] = 1, -1, 1, 0  # planes 0 to 3, place 0
    matrix[0, 16] = -1  # plane 4: the first of the second unit
    matrix[5, 4 + 1 + 16] = 1  # plane 5: register 1, digit 0; place 4 * 5 + 1
    matrix[7, 127] = 1  # plane 31: register 6, digit 1; place 31
    packed = pack_matrix("m", Role.OTHER, -1, matrix, None, "ternary", None, 64, np.ones((8, 2), np.float32))
    assert packed.format is Format.TERNARY
    assert packed.block_offset is not None
    assert packed.block_offset.tolist() == [0, 7 * 32]
    values = packed.values.reshape(7, 32)
    assert values[0, 0] == 2 + 0 * 3 + 2 * 9 + 1 * 27 + 0 * 81
    assert values[1, 21] == 2 + 3 + 9 + 27 + 81
    assert values[6, 31] == 1 + 2 * 3
    np.testing.assert_array_equal(unpack_matrix(packed), matrix)


@pytest.mark.parametrize("precision", ["int8", "int4", "int3", "int2", "ternary"])
def test_weights_on_their_grid_are_packed_without_loss_and_others_are_refused(precision: str) -> None:
    low, high = {"int8": (-127, 127), "int4": (-8, 7), "int3": (-4, 3), "int2": (-2, 1), "ternary": (-1, 1)}[precision]
    generator = np.random.default_rng(0)
    codes = generator.integers(low, high + 1, (20, 70)).astype(np.float32)
    scales = from_bf16(to_bf16(generator.normal(size=(20, 3)).astype(np.float32)))
    matrix = codes * np.repeat(scales, 32, axis=1)[:, :70]
    packed = pack_matrix("m", Role.OTHER, -1, matrix, None, precision, None, 32, scales)
    np.testing.assert_array_equal(unpack_matrix(packed), matrix)
    np.testing.assert_array_equal(unpack_scales(packed), scales)
    rounded = from_bf16(to_bf16(matrix))  # as an artifact in bf16 holds them: the same numbers come back
    np.testing.assert_array_equal(
        unpack_matrix(pack_matrix("m", Role.OTHER, -1, rounded, None, precision, None, 32, scales)), matrix
    )
    for change in (0.5 * scales[2, 0], 300 * scales[2, 0]):  # between two codes; beyond the last
        off = matrix.copy()
        off[2, 3] += change
        with pytest.raises(OwledError, match="do not lie on its"):
            pack_matrix("m", Role.OTHER, -1, off, None, precision, None, 32, scales)
    with pytest.raises(OwledError, match="shape"):
        pack_matrix("m", Role.OTHER, -1, matrix, None, precision, None, 32, scales.repeat(2, axis=1))
    with pytest.raises(OwledError, match="bf16 numbers"):
        pack_matrix("m", Role.OTHER, -1, matrix, None, precision, None, 32, scales * np.float32(1.001))


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-39])
def test_constant_and_vanishing_matrices(group: int, value: float) -> None:
    matrix = np.full((9, 70), value, np.float32)
    for precision in ("int8", "int4", "int3", "int2", "ternary"):
        dense = unpack_matrix(pack_matrix("m", Role.OTHER, -1, matrix, None, precision, group=group))
        np.testing.assert_allclose(dense, matrix, rtol=5e-3, atol=1e-38)


def test_an_outlier_costs_its_own_group_only() -> None:
    matrix = random_matrix(8, 128, 0.0)
    matrix[:, 5] = 1000.0
    for precision in ("int8", "int4"):
        dense = unpack_matrix(pack_matrix("m", Role.OTHER, -1, matrix, None, precision, group=32))
        assert np.abs(dense - matrix)[:, 32:].max() < 0.4
        assert np.abs(dense[:, 5] - 1000).max() < 5


def test_unknown_groups_are_refused() -> None:
    with pytest.raises(OwledError, match="32, 64, 128"):
        pack_matrix("m", Role.OTHER, -1, np.ones((8, 64), np.float32), None, "int4", group=48)


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
    with pytest.raises(OwledError, match="int5"):
        pack_matrix("m", Role.OTHER, -1, np.ones((8, 64), np.float32), precision="int5")
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
        (12, struct.pack("<I", 4), "version"),
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


def version_of(path: Path, told: int | None = None) -> int:
    """Read the version of a file; with `told` write that one there, checksum and all."""
    content = bytearray(path.read_bytes())
    found: int = struct.unpack_from("<I", content, 12)[0]
    if told is not None:
        struct.pack_into("<I", content, 12, told)  # the sums begin behind it
        path.write_bytes(content)
    return found


def test_what_needs_nothing_new_is_written_as_version_1(packed_file: Path) -> None:
    assert version_of(packed_file, told=2) == 1
    assert [tensor.group for tensor in read_packed(packed_file).tensors] == [128, 128]
    for precision, group in (("int8", 32), ("int4", 128)):
        pack_matrices({"a": (random_matrix(20, 200, 0.6), None)}, packed_file, precision, group=group)
        assert read_packed(packed_file).tensors[0].group == group
        assert version_of(packed_file, told=1) == 2
        with pytest.raises(OwledError, match="came after version 1"):
            read_packed(packed_file)
        for kernel in library.kernels():
            with pytest.raises(OwledError, match="came after version 1"):
                NativeModel(packed_file, 1, kernel)
    for precision in ("int3", "ternary"):
        pack_matrices({"a": (random_matrix(20, 200, 0.6), None)}, packed_file, precision, group=128)
        assert version_of(packed_file, told=2) == 3
        with pytest.raises(OwledError, match="came after version 2"):
            read_packed(packed_file)
        for kernel in library.kernels():
            with pytest.raises(OwledError, match="came after version 2"):
                NativeModel(packed_file, 1, kernel)


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
