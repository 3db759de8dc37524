"""SparseGPT against the closed form and against doing nothing clever; what holds for ADMM too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from owled_ros.errors import OwledError
from owled_ros.pruning.admm import admm
from owled_ros.pruning.scores import mask_rows, wanda
from owled_ros.pruning.sparsegpt import _lowest_by_value, lowest_by_order, refine, sparsegpt

Prune = Callable[..., tuple[torch.Tensor, torch.Tensor]]
BOTH: tuple[Prune, ...] = (sparsegpt, admm)


def case(rows: int = 12, columns: int = 160, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(tokens, columns, generator=generator) @ mixing  # correlated, as activations are
    return torch.randn(rows, columns, generator=generator), inputs


def _error(weight: torch.Tensor, other: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((weight - other) @ inputs.t()).square().sum())


@pytest.mark.parametrize("prune", BOTH)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_exact_number_of_zeros(share: float, prune: Prune) -> None:
    weight, inputs = case()
    zeros = round(share * weight.numel())
    pruned, mask = prune(weight, inputs.t() @ inputs, zeros)
    assert int(mask.sum()) == zeros
    assert bool((pruned[mask] == 0).all())
    if zeros == 0:
        assert torch.equal(pruned, weight) if prune is sparsegpt else torch.allclose(pruned, weight, atol=1e-4)


def test_better_than_wanda_and_refined_to_the_least_squares_of_its_mask() -> None:
    weight, inputs = case()
    zeros = weight.numel() // 2
    pruned, mask = sparsegpt(weight, inputs.t() @ inputs, zeros, damping=0.1)
    plain = weight.masked_fill(mask_rows(wanda(weight, inputs.square().sum(0)), zeros), 0.0)
    assert _error(pruned, weight, inputs) < 0.75 * _error(plain, weight, inputs)
    best = torch.zeros_like(weight)
    for row in range(weight.shape[0]):  # the best weights for this mask, row by row
        kept = ~mask[row]
        best[row, kept] = torch.linalg.lstsq(inputs[:, kept], inputs @ weight[row]).solution
    floor = _error(best, weight, inputs)
    errors = [
        _error(refine(weight, pruned, mask, inputs.t() @ inputs, steps, 1e-6), weight, inputs)
        for steps in (0, 3, 10, 60)
    ]
    assert errors[0] == _error(pruned, weight, inputs) > errors[1] > errors[2] > errors[3] * 0.9999
    assert floor * 0.999 < errors[3] < floor * 1.01
    assert bool((refine(weight, pruned, mask, inputs.t() @ inputs, 5)[mask] == 0).all())


def test_single_zero_by_hand() -> None:
    # Two equal inputs, H = [[2, 2], [2, 2]] plus damping: dropping one weight moves its value to the other one.
    inputs = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    pruned, _ = sparsegpt(torch.tensor([[0.5, 3.0]]), inputs.t() @ inputs, 1, damping=1e-4)
    assert pruned[0, 0] == 0.0
    assert float(pruned[0, 1]) == pytest.approx(3.5, abs=1e-3)


@pytest.mark.parametrize("prune", BOTH)
def test_groups_hold_in_every_row(prune: Prune) -> None:
    weight, inputs = case()
    _, mask = prune(weight, inputs.t() @ inputs, 0, group=(2, 4))
    assert bool((mask.view(12, 40, 4).sum(2) == 2).all())


@pytest.mark.parametrize("prune", BOTH)
@pytest.mark.parametrize("largest", [1.0, 1e4], ids=["even", "a massive activation, as language models have"])
def test_dead_inputs_are_dropped_and_singular_hessians_survive(largest: float, prune: Prune) -> None:
    weight, inputs = case(tokens=20)  # rank 20 of 160
    inputs[:, 7] = 0.0
    inputs[:, 3] *= largest
    pruned, _ = prune(weight, inputs.t() @ inputs, weight.numel() // 2)
    assert bool(pruned.isfinite().all())
    assert bool((pruned[:, 7] == 0).all())


@pytest.mark.parametrize("prune", BOTH)
def test_nan_hessian_is_refused(prune: Prune) -> None:
    weight, inputs = case()
    inputs[0, 0] = torch.nan
    with pytest.raises(OwledError, match="Hessian"):
        prune(weight, inputs.t() @ inputs, 10)


def test_refining_survives_huge_activations_and_rows_without_freedom() -> None:
    weight, inputs = case(tokens=60)  # rank 60 of 160
    inputs[:, 3] *= 1e4  # a massive activation, as language models have
    hessian = inputs.t() @ inputs
    pruned, mask = sparsegpt(weight, hessian, weight.numel() * 7 // 10)
    mask[0], pruned[0] = True, 0.0
    refined = refine(weight, pruned, mask, hessian, 200)
    assert bool(refined.isfinite().all())
    assert bool((refined[mask] == 0).all())
    for row in range(weight.shape[0]):
        assert _error(refined[row], weight[row], inputs) <= _error(pruned[row], weight[row], inputs) * 1.001 + 1e-3


@pytest.mark.parametrize("count", [1, 7, 40, 59, 60])
def test_a_gpu_and_the_cpu_select_the_same(count: int) -> None:
    values = torch.randint(0, 5, (60,), generator=torch.Generator().manual_seed(count)).float()  # many ties
    first = sorted(range(60), key=lambda place: (float(values[place]), place))[:count]
    for select in (_lowest_by_value, lowest_by_order):
        assert select(values, count).nonzero().flatten().tolist() == sorted(first)
