"""ADMM's zeros and weights: against SparseGPT with its least squares, and the closed form of a small case."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_pruning_sparsegpt import case

from owled_ros.pruning.admm import admm
from owled_ros.pruning.sparsegpt import output_error, refine, sparsegpt


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_far_below_the_error_of_sparsegpt_even_with_its_least_squares(share: float) -> None:
    weight, inputs = case()
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
