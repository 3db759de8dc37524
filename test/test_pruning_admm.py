"""ADMM's zeros and weights: against SparseGPT with its least squares, and the closed form of a small case."""

from __future__ import annotations

import itertools

import pytest
import torch

from owled_ros.errors import OwledError
from owled_ros.pruning.admm import admm
from owled_ros.pruning.sparsegpt import output_error, refine, sparsegpt


def _case(rows: int = 12, columns: int = 160, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(tokens, columns, generator=generator) @ mixing  # correlated, as activations are
    return torch.randn(rows, columns, generator=generator), inputs


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_exact_number_of_zeros(share: float) -> None:
    weight, inputs = _case()
    zeros = round(share * weight.numel())
    pruned, mask = admm(weight, inputs.t() @ inputs, zeros)
    assert int(mask.sum()) == zeros
    assert bool((pruned[mask] == 0).all())
    if zeros == 0:
        assert torch.allclose(pruned, weight, atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_far_below_the_error_of_sparsegpt_even_with_its_least_squares(share: float) -> None:
    weight, inputs = _case()
    hessian, zeros = inputs.t() @ inputs, round(share * weight.numel())
    errors = []
    for prune in (sparsegpt, admm):
        pruned, mask = prune(weight, hessian, zeros)
        errors.append(float(output_error(weight, refine(weight, pruned, mask, hessian, 10), hessian).sum()))
    assert errors[1] < 0.85 * errors[0]


def test_the_best_of_all_masks_of_a_small_row() -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(50, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    weight, hessian = torch.randn(1, 6, generator=generator), inputs.t() @ inputs
    errors = {}
    for kept in itertools.combinations(range(6), 3):
        here = list(kept)
        best = torch.zeros(1, 6)
        best[0, here] = torch.linalg.lstsq(inputs[:, here], inputs @ weight[0]).solution
        errors[kept] = float(output_error(weight, best, hessian))
    _, mask = admm(weight, hessian, 3, damping=1e-6)
    found = tuple((~mask[0]).nonzero().flatten().tolist())
    assert errors[found] == min(errors.values())


def test_groups_hold_in_every_row() -> None:
    weight, inputs = _case()
    _, mask = admm(weight, inputs.t() @ inputs, 0, group=(2, 4))
    assert bool((mask.view(12, 40, 4).sum(2) == 2).all())


def test_dead_inputs_go_first_and_singular_hessians_survive() -> None:
    weight, inputs = _case(tokens=20)  # rank 20 of 160
    inputs[:, 7] = 0.0
    inputs[:, 3] *= 1e4  # a massive activation, as language models have
    pruned, _ = admm(weight, inputs.t() @ inputs, weight.numel() // 2)
    assert bool(pruned.isfinite().all())
    assert bool((pruned[:, 7] == 0).all())


def test_nan_hessian_is_refused() -> None:
    weight, inputs = _case()
    inputs[0, 0] = torch.nan
    with pytest.raises(OwledError, match="Hessian"):
        admm(weight, inputs.t() @ inputs, 10)
