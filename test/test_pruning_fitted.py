"""What reconstruction moves: gradients past a rounding by a reference, grids and zeros kept, and the way back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from owled_ros.models.components import Matrix
from owled_ros.pruning.fitted import Kept, Rounded
from owled_ros.pruning.on_grid import nearest
from owled_ros.pruning.rounding import Grid, bfloat16, codes, spread

ROWS, COLUMNS = 6, 70


def _on_grid(bits: float, transposed: bool = False) -> tuple[Matrix, torch.Tensor, Grid]:
    """A layer whose weights lie on a grid, and the scales; it is stored as (K, R) where it is transposed."""
    torch.manual_seed(0)
    grid = Grid(bits, 32)
    weight, scales = nearest(torch.randn(ROWS, COLUMNS), torch.zeros(ROWS, COLUMNS, dtype=torch.bool), grid)
    layer = nn.Module()
    layer.weight = nn.Parameter((weight.t() if transposed else weight).contiguous())
    return Matrix("layer", "layer", layer, "weight", ROWS, COLUMNS, transposed), scales, grid


@pytest.mark.parametrize("bits", [1.6, 2, 4, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_go_past_the_rounding(bits: float, transposed: bool) -> None:
    matrix, scales, grid = _on_grid(bits, transposed)
    fitted = Rounded([matrix], {"layer": scales}, {"layer": 0}, grid)
    (weight, _), (found, _) = fitted.steps
    weight += (
        0.3 * torch.randn_like(weight) * scales.abs().mean()
    )  # some round elsewhere now, some beyond the last code
    wanted = torch.randn(ROWS, COLUMNS)
    matrix.module.weight.grad = wanted.t().contiguous() if transposed else wanted.clone()
    fitted.pull()

    free, scale = weight.detach().clone().requires_grad_(), scales.clone().requires_grad_()
    wide = spread(scale, grid, COLUMNS)
    ratio = (free / wide).clamp(grid.low - 0.5, grid.high + 0.5)
    ((ratio + (codes(free, wide, grid) - ratio).detach()) * wide * wanted).sum().backward()
    torch.testing.assert_close(weight.grad, free.grad)
    torch.testing.assert_close(found.grad, scale.grad, rtol=1e-4, atol=1e-4)


def test_what_is_pushed_lies_on_the_grid_and_comes_back() -> None:
    matrix, scales, grid = _on_grid(2)
    before = matrix.weight().clone()
    fitted = Rounded([matrix], {"layer": scales}, {"layer": 0}, grid)
    for tensor, _ in fitted.steps:
        tensor += 0.4 * torch.randn_like(tensor)
    fitted.push()
    moved, now = matrix.weight(), fitted.scales["layer"]
    assert not torch.equal(moved, before)
    assert torch.equal(now, bfloat16(now))
    wide = spread(now, grid, COLUMNS)
    assert torch.equal(moved, codes(moved, wide, grid) * wide)
    fitted.restore()
    assert torch.equal(matrix.weight(), before)
    assert torch.equal(fitted.scales["layer"], scales)


@pytest.mark.parametrize("pruned", [0, 1])
def test_zeros_stay_where_weights_were_pruned_and_are_a_code_like_others_where_not(pruned: int) -> None:
    matrix, scales, grid = _on_grid(2)
    zero = matrix.weight() == 0
    fitted = Rounded([matrix], {"layer": scales}, {"layer": pruned}, grid)
    fitted.steps[0][0].add_(3.0)
    fitted.push()
    assert bool((matrix.weight()[zero] == 0).all()) is bool(pruned)


def test_an_expert_that_no_token_reached_stays() -> None:
    experts = nn.Module()
    experts.weight = nn.Parameter(torch.full((2, ROWS, COLUMNS), 0.7))
    matrices = [Matrix(f"expert{index}", "up", experts, "weight", ROWS, COLUMNS, expert=index) for index in (0, 1)]
    grid = Grid(2, 32)
    scales = {matrix.name: torch.ones(ROWS, 3) for matrix in matrices}
    fitted = Rounded(matrices, scales, {matrix.name: 0 for matrix in matrices}, grid)
    fitted.pull()  # no gradient at all
    assert all(tensor.grad is None for tensor, _ in fitted.steps)
    experts.weight.grad = torch.stack([torch.ones(ROWS, COLUMNS), torch.zeros(ROWS, COLUMNS)])
    fitted.pull()
    assert [bool(tensor.grad.any()) for tensor, _ in fitted.steps] == [True, False, True, False]


def test_masked_parameters_keep_their_zeros() -> None:
    parameter = nn.Parameter(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    fitted = Kept([parameter])
    assert fitted.steps[0][1] == pytest.approx(0.01 * (5 / 2) ** 0.5)
    with torch.no_grad():
        parameter.add_(1.0)
    fitted.push()
    assert parameter.tolist() == [[0.0, 2.0], [3.0, 0.0]]
    fitted.restore()
    assert parameter.tolist() == [[0.0, 1.0], [2.0, 0.0]]
