"""Sparse kernels for a GPU on a CPU: what is packed comes back, and the kernels' own source over emulated blocks."""

from __future__ import annotations

import pytest
import torch
from emulated_kernels import emulated_run
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.sparse.cuda_kernels import DELTA_SHAPES, TILE_SHAPES, Run, multiply, shapes_of, widen, widened
from owled_ros.sparse.deltas import Deltas, pack_deltas, unpack_deltas
from owled_ros.sparse.tiles import HEAD_BYTES, Tiles, pack_tiles, unpack_tiles

H100_SHARED = 227 * 1024


def matrix(rows: int, columns: int, density: float, seed: int = 0) -> torch.Tensor:
    """Give bfloat16 weights of which so many are not zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    kept = torch.rand(rows, columns, generator=generator) < density
    return (torch.where(weight.abs() < 1e-3, 1e-3, weight) * kept).bfloat16()


def coded(rows: int, columns: int, density: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Give codes and scales of which so many codes are not zero."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (rows, columns), generator=generator)
    codes = codes * (torch.rand(rows, columns, generator=generator) < density)
    scales = torch.rand(rows, -(-columns // 128), generator=generator) + 0.01
    return codes.to(torch.int8), scales.bfloat16()


sizes = st.tuples(
    st.integers(1, 40), st.integers(1, 400), st.sampled_from([0.0, 0.02, 0.3, 0.6, 1.0]), st.integers(0, 9)
)


@given(sizes)
def test_tiles_come_back(told: tuple[int, int, float, int]) -> None:
    codes, scales = coded(*told)
    tiles = pack_tiles(codes, scales)
    back, scales_back = unpack_tiles(tiles)
    assert torch.equal(back, codes)
    assert torch.equal(scales_back, scales)


@given(sizes)
def test_deltas_come_back_exactly(told: tuple[int, int, float, int]) -> None:
    weight = matrix(*told)
    assert torch.equal(unpack_deltas(pack_deltas(weight)), weight)


def test_what_a_tile_holds_is_as_written() -> None:
    """Row 9 is g = 1 of the second half, column 70 is t = 2, step 0, bit 6: lane 6."""
    codes = torch.zeros(16, 128, dtype=torch.int8)
    codes[9, 70], codes[0, 31] = -5, 7  # the second one: lane 0, step 3
    tiles = pack_tiles(codes, torch.arange(1, 17).bfloat16()[:, None])
    data = tiles.blob[:320]
    assert tiles.starts.tolist() == [0, 20]
    assert data[:16].view(torch.int16).tolist() == [0, 0, 1, 1, 1, 1, 1, 2]
    assert data[16:48].view(torch.bfloat16).tolist() == list(range(1, 17))
    masks = data[48:HEAD_BYTES].view(torch.int32).view(32, 2)
    assert masks.nonzero().tolist() == [[0, 0], [6, 1]]
    assert (int(masks[0, 0]), int(masks[6, 1])) == (-(2**31), 1 << 6)
    assert data[HEAD_BYTES:].view(torch.int8).tolist() == [-5, 7, *[0] * 14]


def test_a_long_gap_takes_zeros() -> None:
    weight = torch.zeros(2, 64).bfloat16()
    weight[1, 3], weight[1, 40] = 2.0, 3.0  # 37 columns on: 15 + 15 + 7
    deltas = pack_deltas(weight)
    assert deltas.starts.tolist() == [0, 0, 1]
    assert deltas.values.tolist() == [[2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]]
    assert deltas.steps.tolist() == [[3 | 15 << 4, 15 | 7 << 4, 0, 0]]


def test_bytes_are_those_of_the_description() -> None:
    codes, scales = coded(256, 1024, 0.4)
    assert pack_tiles(codes, scales).nbytes / codes.numel() == pytest.approx(0.4 + 0.154, abs=0.008)
    assert pack_deltas(matrix(256, 4096, 0.3)).nbytes / 256 / 4096 == pytest.approx(0.75, rel=0.025)


@pytest.fixture(scope="module")
def run() -> Run:
    """Give what launches the kernels on the CPU."""
    return emulated_run()


def nearly(found: torch.Tensor, packed: Tiles | Deltas, x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether a product is right to the rounding of bfloat16, of the scales and of the 16 bits of a token."""
    weight = exact(packed)
    added = torch.zeros(packed.rows) if bias is None else bias
    want, size = weight @ x.double() + added.double(), weight.abs() @ x.double().abs() + added.double().abs()
    steps = x.double().abs().max() / 32512 * weight.abs().sum(1) if isinstance(packed, Tiles) else 0.0
    return bool(((found.double() - want).abs() <= want.abs() * 2**-8 + size * 1e-6 + steps).all())


def exact(packed: Tiles | Deltas) -> torch.Tensor:
    """Give the matrix in float64."""
    if isinstance(packed, Deltas):
        return unpack_deltas(packed).double()
    codes, scales = unpack_tiles(packed)
    return codes.double() * scales.double().repeat_interleave(128, 1)[:, : packed.columns]


CASES = [  # rows, columns, density, shape
    (48, 512, 0.4, (4, 2)),
    (33, 1000, 0.5, (4, 1)),  # neither whole tiles nor whole strips
    (16, 8, 1.0, (2, 1)),
    (7, 128 * 40, 0.3, (1, 1)),  # places of tiles in both registers
    (80, 256, 0.02, (4, 4)),
    (16, 384, 0.0, (2, 1)),  # more warps than tiles for some
    (32, 640, 1.0, (16, 2)),
]


@pytest.mark.parametrize(("rows", "columns", "density", "shape"), CASES)
def test_tiles_multiply(run: Run, rows: int, columns: int, density: float, shape: tuple[int, int]) -> None:
    tiles = pack_tiles(*coded(rows, columns, density))
    x = torch.randn(columns).bfloat16()
    for bias in (None, torch.randn(rows).bfloat16()):
        assert nearly(multiply(run, tiles, x, bias, shape), tiles, x, bias)
    assert torch.equal(widen(run, tiles), widened(tiles))


@pytest.mark.parametrize(
    ("rows", "columns", "density"),
    [(9, 1536, 0.5), (5, 4096, 0.3), (2, 4096, 0.9), (8, 8, 1.0), (3, 640, 0.0), (4, 2048, 0.01)],
)
def test_deltas_multiply(run: Run, rows: int, columns: int, density: float) -> None:
    deltas = pack_deltas(matrix(rows, columns, density))
    x = torch.randn(columns).bfloat16()
    for bias in (None, torch.randn(rows).bfloat16()):
        assert nearly(multiply(run, deltas, x, bias, (4, 1)), deltas, x, bias)
    assert torch.equal(widen(run, deltas), widened(deltas))


def test_a_token_of_one_large_input_is_exact(run: Run) -> None:
    tiles = pack_tiles(*coded(32, 256, 0.5))
    x = torch.zeros(256).bfloat16()
    x[130] = 3.0
    assert torch.equal(multiply(run, tiles, x, None, (2, 1)), (exact(tiles)[:, 130] * 3.0).bfloat16())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_a_number_stays_none(run: Run, bad: float) -> None:
    x = torch.randn(256).bfloat16()
    x[200] = bad
    tiles, deltas = pack_tiles(*coded(16, 256, 0.9)), pack_deltas(matrix(16, 256, 1.0))
    assert not multiply(run, tiles, x, None, (2, 1)).isfinite().any()
    assert not multiply(run, deltas, x, None, (4, 1)).isfinite().any()


def test_tiny_and_huge_inputs(run: Run) -> None:
    tiles = pack_tiles(*coded(16, 256, 0.9))
    x = torch.randn(256).bfloat16()
    x[:128] *= 1e-36
    x[128:] *= 1e30
    assert nearly(multiply(run, tiles, x, None, (2, 1)), tiles, x, None)
    assert not multiply(run, tiles, torch.full((256,), 1e-38).bfloat16(), None, (2, 1)).any()


def test_shapes_are_those_that_fit() -> None:
    tiles = pack_tiles(*coded(16, 4096, 0.4))
    assert shapes_of(tiles, H100_SHARED) == list(TILE_SHAPES)
    assert shapes_of(tiles, 48 * 1024) == [(8, 1)]
    long = pack_tiles(*coded(16, 128 * 250, 0.3))
    assert shapes_of(long, H100_SHARED) == [(16, 2), (16, 1), (8, 1)]  # of (16, 4) a warp would have 63 tiles
    assert shapes_of(pack_deltas(matrix(4, 4096, 0.4)), 48 * 1024) == list(DELTA_SHAPES)
    assert shapes_of(pack_deltas(matrix(4, 12, 0.4)), 48 * 1024) == []
