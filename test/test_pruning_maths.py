"""Outliers, allocation, scores and masks against numbers worked by hand and three-line references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.errors import OwledError
from owled_ros.pruning import allocation
from owled_ros.pruning.outliers import outlier_percent, outlier_scores
from owled_ros.pruning.scores import _selected, magnitude, mask_groups, mask_rows, pruner_zero, selected_by_row, wanda


def test_outlier_percent_by_hand() -> None:
    # Two matrices of one block: 1, 1, 1, 1 and 1, 1, 1, 33. Mean 40 / 8 = 5. Only 33 > 5 * 5; nothing > 7 * 5.
    block = [torch.ones(2, 2), torch.tensor([[1.0, 1.0], [1.0, 33.0]])]
    assert outlier_percent(block, 5.0) == 100.0 / 8
    assert outlier_percent(block, 7.0) == 0.0


def test_outlier_percent_is_strict() -> None:
    # Values 0 and 2: mean 1, and 2 is not above 2 * 1.
    assert outlier_percent([torch.tensor([0.0, 2.0])], 2.0) == 0.0


def test_outlier_scores_by_hand() -> None:
    # |-3| * sqrt(4) = 6, |2| * sqrt(9) = 6.
    assert outlier_scores(torch.tensor([[-3.0, 2.0]]), torch.tensor([4.0, 9.0])).tolist() == [[6.0, 6.0]]


def test_owl_by_hand() -> None:
    # D = 0, 1, 2 with lambda 0.1: r = 0, 0.1, 0.2, mean 0.1, so S = 0.6 + 0.1, 0.6, 0.6 - 0.1.
    plan = allocation.owl(np.array([0.0, 1.0, 2.0]), np.ones(3), 0.6, 0.1)
    np.testing.assert_allclose(plan, [0.7, 0.6, 0.5], atol=1e-12)
    np.testing.assert_allclose(allocation.owl_reference(np.array([0.0, 1.0, 2.0]), 0.6, 0.1), plan, atol=1e-12)


def test_owl_weighs_blocks_by_their_size() -> None:
    # r = 0, 0.2 with sizes 1 and 3: weighted mean 0.15, so S = 0.65, 0.45 and (0.65 + 3 * 0.45) / 4 = 0.5.
    np.testing.assert_allclose(
        allocation.owl(np.array([0.0, 1.0]), np.array([1.0, 3.0]), 0.5, 0.1), [0.65, 0.45], atol=1e-12
    )


def test_equal_outliers_give_the_uniform_plan() -> None:
    for plan in (
        allocation.owl(np.full(4, 2.5), np.arange(1.0, 5.0), 0.7, 0.08),
        allocation.owl_reference(np.full(4, 2.5), 0.7, 0.08),
    ):
        np.testing.assert_allclose(plan, 0.7, atol=1e-12)


def test_reference_guard() -> None:
    # lambda 0.3 at 0.2: S = 0.2 + 0.3, 0.2 - 0.3 = -0.1, which the reference raises to 0.01.
    np.testing.assert_allclose(allocation.owl_reference(np.array([0.0, 1.0]), 0.2, 0.3), [0.5, 0.01])


def test_lambda_beyond_the_bounds_is_projected() -> None:
    # Unprojected S = 1.15, 0.95, 0.75 at target 0.95: bounds hold, and so does the mean.
    plan = allocation.owl(np.array([0.0, 1.0, 2.0]), np.ones(3), 0.95, 0.2)
    assert plan.max() <= allocation.MAX_SPARSITY
    assert plan.mean() == pytest.approx(0.95, abs=1e-9)


def test_nan_outliers_are_refused() -> None:
    with pytest.raises(OwledError, match="NaN"):
        allocation.owl(np.array([0.0, np.nan]), np.ones(2), 0.5, 0.1)


def test_protect_first_by_hand() -> None:
    # Two blocks of one size at 0.6: the first keeps 0.35, so the other gets 0.85.
    np.testing.assert_allclose(
        allocation.protect_first(np.array([True, False]), np.ones(2), 0.6), [0.35, 0.85], atol=1e-9
    )


@settings(deadline=None)
@given(
    lod=st.lists(st.floats(0, 50), min_size=1, max_size=12),
    target=st.floats(0.05, 0.95),
    spread=st.floats(0.0, 0.4),
    seed=st.integers(0, 99),
)
def test_every_plan_holds_budget_and_bounds(lod: list[float], target: float, spread: float, seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(10, 5000, len(lod)).astype(float)
    plan = allocation.owl(np.array(lod), sizes, target, spread)
    assert (plan >= 0).all()
    assert (plan <= allocation.MAX_SPARSITY).all()
    assert np.average(plan, weights=sizes) == pytest.approx(target, abs=1e-9)
    counts = allocation.zero_counts(plan, sizes.astype(np.int64), target)
    assert counts.sum() == round(target * int(sizes.sum()))
    assert (np.abs(counts - plan * sizes) <= 1 + 1e-6).all()


def test_more_outliers_never_mean_more_zeros() -> None:
    lod = np.array([3.0, 0.1, 9.0, 2.0])
    plan = allocation.owl(lod, np.array([5.0, 1.0, 2.0, 8.0]), 0.6, 0.08)
    assert (np.diff(plan[np.argsort(lod)]) <= 0).all()


def test_scores_by_hand() -> None:
    weight = torch.tensor([[-2.0, 3.0]])
    assert magnitude(weight).tolist() == [[2.0, 3.0]]
    assert wanda(weight, torch.tensor([9.0, 1.0])).tolist() == [[6.0, 3.0]]
    # |G| = 1, 3 becomes 0, 1: W^2 * that.
    assert pruner_zero(weight, torch.tensor([[1.0, -3.0]])).tolist() == [[0.0, 9.0]]


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 6), columns=st.integers(1, 9), seed=st.integers(0, 999), share=st.floats(0, 1))
def test_mask_rows_takes_the_lowest_of_each_row(rows: int, columns: int, seed: int, share: float) -> None:
    score = torch.randint(0, 4, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()  # many ties
    zeros = round(share * rows * columns)
    mask = mask_rows(score, zeros)
    counts = mask.sum(1)
    assert int(mask.sum()) == zeros
    assert int(counts.max() - counts.min()) <= 1
    for row in range(rows):
        order = sorted(range(columns), key=lambda column: (float(score[row, column]), column))
        assert mask[row].nonzero().flatten().tolist() == sorted(order[: int(counts[row])])


def test_a_gpu_and_the_cpu_select_the_same_border() -> None:
    score = torch.randint(0, 4, (3, 9), generator=torch.Generator().manual_seed(1)).float()
    for places in ([0], [3, 4], [8]):
        for select in (_selected, selected_by_row):
            assert all(
                torch.equal(value, score.sort(1).values[:, place]) for place, value in select(score, places).items()
            )


def test_mask_groups_by_hand() -> None:
    score = torch.tensor([[4.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0]])
    assert mask_groups(score, 2, 4).int().tolist() == [[0, 1, 0, 1, 1, 1, 0, 0]]
    with pytest.raises(OwledError, match="multiple of 4"):
        mask_groups(score[:, :6], 2, 4)
