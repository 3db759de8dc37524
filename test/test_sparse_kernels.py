"""Every kernel that this CPU can run, against numpy on the unpacked weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from owled_ros.errors import OwledError
from owled_ros.sparse import library
from owled_ros.sparse.format import Format, Role, Writer, read_packed
from owled_ros.sparse.native import NativeModel
from owled_ros.sparse.pack import pack_matrices
from owled_ros.sparse.quantise import pack_matrix, unpack_matrix

pytestmark = pytest.mark.skipif(not library.available(), reason=f"no native kernels: {library.reason_missing()}")
KERNELS = library.kernels() if library.available() else []
# rows, columns, share of zeros: whole groups, an odd chunk, padding in both directions, all zero, all kept
CASES = {
    "whole": (64, 256, 0.6),
    "odd_chunk": (40, 192, 0.6),
    "padded": (13, 77, 0.5),
    "one": (1, 1, 0.0),
    "wide": (8, 2050, 0.7),
    "zero": (24, 128, 1.0),
    "dense": (24, 320, 0.0),
    "dense_padded": (9, 65, 0.0),
}
PAIRED = "two_of_four"
EVEN = {"two_of_16": 2, "four_of_16": 4, "five_of_16": 5, "eight_of_16": 8}
GROUPS = {
    "int8": [128, 32, 64], "int4": [32, 64, 128], "int3": [32, 64, 128], "int2": [32, 64, 128], "ternary": [64, 128], "bf16": [128],
}  # fmt: skip
# Relative to the largest entry: 16-bit activations for int8, 8 bits for fewer, 16 bits of mantissa for bf16, bf16 tiles for int8.
SINGLE_TOLERANCE = {"int8": 1e-4, "int4": 5e-3, "int3": 5e-3, "int2": 5e-3, "ternary": 5e-3, "bf16": 2e-5}
BATCH_TOLERANCE = {"int8": 6e-3, "int4": 6e-3, "int3": 6e-3, "int2": 6e-3, "ternary": 6e-3, "bf16": 2e-5}


def make_matrices(seed: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    generator = np.random.default_rng(seed)
    matrices = {}
    for name, (rows, columns, zeros) in CASES.items():
        weight = generator.normal(size=(rows, columns)).astype(np.float32)
        weight[generator.random((rows, columns)) < zeros] = 0
        matrices[name] = (weight, generator.normal(size=rows).astype(np.float32) if rows % 2 else None)
    patterns = {PAIRED: (180, 2, 4), **{name: (176, kept, 16) for name, kept in EVEN.items()}}
    for name, (columns, kept, group) in patterns.items():
        weight = generator.normal(size=(21, columns // group, group)).astype(np.float32)
        weight[generator.random(weight.shape).argsort(axis=2) >= kept] = 0
        matrices[name] = (weight.reshape(21, columns), None)
    return matrices


@pytest.fixture(
    scope="module",
    params=[(name, group) for name, groups in GROUPS.items() for group in groups],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    precision, group = request.param
    path = tmp_path_factory.mktemp("kernels") / f"{precision}.owled"
    pack_matrices(make_matrices(), path, precision, group=group)
    return precision, path


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_products_match_numpy(packed: tuple[str, Path], kernel: str, threads: int) -> None:
    precision, path = packed
    generator = np.random.default_rng(5)
    model = NativeModel(path, threads=threads, kernel=kernel)
    for index, tensor in enumerate(read_packed(path).tensors):
        weight = unpack_matrix(tensor)
        bias = 0 if tensor.bias is None else tensor.bias[: tensor.rows]
        for count in (1, 2, 3, 16, 17, 67):
            x = generator.normal(size=(count, tensor.columns)).astype(np.float32)
            want = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
            got = model.multiply(index, x, tensor.rows)
            tolerance = (SINGLE_TOLERANCE if count <= 2 else BATCH_TOLERANCE)[precision]
            scale = np.abs(x).max() * np.abs(weight).sum(axis=1).max() + 1e-9
            assert np.abs(got - want).max() <= tolerance * scale, (tensor.name, count)
    model.close()


def test_every_format_is_covered(packed: tuple[str, Path]) -> None:
    precision, path = packed
    formats = {tensor.format for tensor in read_packed(path).tensors}
    expected = {
        "int8": {Format.SPARSE_INT8, Format.DENSE_INT8},
        "int4": {Format.SPARSE_INT4, Format.DENSE_INT4, Format.PAIRED_INT4, Format.EVEN_INT4},
        "int3": {Format.DENSE_INT3},
        "int2": {Format.DENSE_INT2},
        "ternary": {Format.TERNARY},
        "bf16": {Format.SPARSE_BF16, Format.DENSE_BF16},
    }
    assert formats == expected[precision]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_products_are_those_of_the_portable_kernels(packed: tuple[str, Path], kernel: str, copied: bool) -> None:
    """Integers are added exactly: only the order of a few float sums differs, also where zeros were filled in at opening."""
    precision, path = packed
    generator = np.random.default_rng(6)
    model, plain = NativeModel(path, 1, kernel, copy=copied), NativeModel(path, 1, "scalar")
    for index, tensor in enumerate(read_packed(path).tensors):
        x = generator.normal(size=(2, tensor.columns)).astype(np.float32) * 10.0 ** generator.integers(
            -3, 3, tensor.columns
        )
        want = plain.multiply(index, x, tensor.rows)
        got = model.multiply(index, x, tensor.rows)
        scale = np.abs(x).max() * np.abs(unpack_matrix(tensor)).max() + 1e-9
        assert np.abs(got - want).max() <= (1e-4 if precision == "bf16" else 2e-6) * scale, tensor.name


@pytest.mark.parametrize(
    "packed", [(name, group) for name in ("int4", "int3", "int2", "ternary") for group in GROUPS[name]], indirect=True
)
def test_few_bits_give_the_same_bits_with_avx512_as_with_avx2(packed: tuple[str, Path]) -> None:
    _, path = packed
    kernels = [name for name in KERNELS if name.startswith("avx")]
    if len(kernels) < 2:
        pytest.skip("needs a processor with AVX-512")
    generator = np.random.default_rng(8)
    models = [NativeModel(path, 1, kernel, copy=False) for kernel in kernels]  # not copied: no zeros are filled in
    for index, tensor in enumerate(read_packed(path).tensors):
        x = generator.normal(size=(1, tensor.columns)).astype(np.float32)
        first, *others = (model.multiply(index, x, tensor.rows) for model in models)
        for product in others:
            np.testing.assert_array_equal(product, first, err_msg=tensor.name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_unpacking_is_exact(packed: tuple[str, Path], kernel: str) -> None:
    _, path = packed
    model = NativeModel(path, threads=1, kernel=kernel)
    for index, tensor in enumerate(read_packed(path).tensors):
        out = np.empty((tensor.rows, tensor.columns), np.float32)
        library.check(model.library.owled_unpack(model.open_handle(), index, out.ctypes.data))
        np.testing.assert_array_equal(out, unpack_matrix(tensor), err_msg=tensor.name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_extreme_activations(packed: tuple[str, Path], kernel: str) -> None:
    """Zeros give the bias; one entry a million times larger than the rest does not overflow the integers."""
    precision, path = packed
    model = NativeModel(path, threads=1, kernel=kernel)
    tensor = read_packed(path).tensors[0]
    weight = unpack_matrix(tensor)
    np.testing.assert_array_equal(
        model.multiply(0, np.zeros((1, tensor.columns)), tensor.rows)[0], np.zeros(tensor.rows)
    )
    for sign in (1, -1):
        x = np.full((1, tensor.columns), sign * 1e-3, np.float32)
        x[0, 7] = sign * 1e6
        got = model.multiply(0, x, tensor.rows)[0]
        np.testing.assert_allclose(got, weight @ x[0], atol=SINGLE_TOLERANCE[precision] * 1e6)
    x = np.full((1, tensor.columns), 5.0, np.float32)  # every activation at the end of the fixed-point range
    np.testing.assert_allclose(model.multiply(0, x, tensor.rows)[0], weight @ x[0], rtol=1e-3, atol=2e-3)


def test_pairs_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    """Three of four beside one of four are as many values in all: the kernels would differ on them."""
    tensor = pack_matrix("m", Role.OTHER, -1, np.tile(np.float32([1, 1, 0, 0]), (8, 16)), None, "int4", group=32)
    assert tensor.format is Format.PAIRED_INT4
    assert tensor.mask is not None
    mask = tensor.mask.copy()
    mask.view(np.uint8)[:2] = 0b0011_0111, 0b0011_0001
    path = tmp_path / "m.owled"
    with path.open("w+b") as stream:
        writer = Writer(stream)
        writer.add(replace(tensor, mask=mask))
        writer.finish(None, {})
    with pytest.raises(OwledError, match="m: block 0 keeps other than two of four"):
        NativeModel(path, threads=1, kernel="auto")


def test_unknown_kernel_names_the_usable_ones(packed: tuple[str, Path]) -> None:
    with pytest.raises(OwledError, match="scalar"):
        NativeModel(packed[1], threads=1, kernel="avx1024")


def test_the_portable_kernels_are_always_there() -> None:
    assert KERNELS[-1] == "scalar"


@pytest.mark.parametrize("threads", [0, 1000])
def test_silly_thread_counts_are_refused(packed: tuple[str, Path], threads: int) -> None:
    with pytest.raises(OwledError, match="threads"):
        NativeModel(packed[1], threads=threads, kernel="auto")


def test_cores_can_be_named(packed: tuple[str, Path]) -> None:
    model = NativeModel(packed[1], threads=2, kernel="auto", cpus=(0, 0))
    assert model.multiply(0, np.ones((1, 256)), 64).shape == (1, 64)
    with pytest.raises(OwledError, match="cores named"):
        NativeModel(packed[1], threads=2, kernel="auto", cpus=(0,))
