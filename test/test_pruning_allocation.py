"""The allocations that rival OWL, N:M with a plan, and zeros by row: numbers worked by hand, budgets and bounds of everything."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.components import find_structure
from owled_ros.models.load import load_model
from owled_ros.models.manifest import read_manifest
from owled_ros.pruning import allocation
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.measures import block_depths, block_exponents, block_norms
from owled_ros.pruning.outliers import median_score
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.prune import prune
from owled_ros.pruning.rows import trim_counts
from owled_ros.pruning.scores import mask_counts, mask_rows, wanda
from owled_ros.pruning.spectrum import eigenvalues, hill_exponent

RIVALS = ("dlp", "alpha-pruning", "atp")


@pytest.mark.parametrize("name", ["owl", "dlp", "alpha-pruning"])
def test_the_smallest_difference_there_is_counts_as_any_other(name: str) -> None:
    least, most = allocation.ALLOCATORS[name](np.array([0.0, 5e-324]), np.ones(2), 0.5, 0.1)
    assert abs(least - most) > 0.09


def test_dlp_by_hand() -> None:
    # Medians 1, 2, 5 (sum 8): I = 7/8, 6/8, 3/8; scaled to [0, 2 * 0.1]: r = 0.2, 0.15, 0, mean 0.35 / 3.
    plan = allocation.dlp(np.array([1.0, 2.0, 5.0]), np.ones(3), 0.6, 0.1)
    np.testing.assert_allclose(plan, 0.6 - (np.array([0.2, 0.15, 0.0]) - 0.35 / 3), atol=1e-12)


def test_alpha_pruning_by_hand() -> None:
    # Exponents 2, 3, 4 with tau 0.3: 0.7, 1, 1.3 times eta, whose mean over sizes 1, 1, 2 is (0.7 + 1 + 2.6) / 4 = 1.075.
    plan = allocation.alpha_pruning(np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 2.0]), 0.5, 0.3)
    np.testing.assert_allclose(plan, np.array([0.7, 1.0, 1.3]) * 0.5 / 1.075, atol=1e-12)


def test_atp_by_hand() -> None:
    # Five blocks, slope beta = 2 * 0.1 / 4 = 0.05: 0.5, 0.55, 0.6, 0.65, 0.7.
    plan = allocation.atp(np.linspace(0, 1, 5), np.ones(5), 0.6, 0.1)
    np.testing.assert_allclose(plan, [0.5, 0.55, 0.6, 0.65, 0.7], atol=1e-12)


def test_median_by_hand() -> None:
    # 1, 2, 3, 4, 5 over two matrices: 3; with a 6 the lower of 3 and 4.
    assert median_score([torch.tensor([[5.0, 1.0]]), torch.tensor([[2.0], [4.0], [3.0]])]) == 3.0
    assert median_score([torch.tensor([5.0, 1.0, 6.0]), torch.tensor([2.0, 4.0, 3.0])]) == 3.0
    assert math.isnan(median_score([torch.tensor([1.0, math.nan, 2.0])]))


def test_hill_exponent_by_hand() -> None:
    # One bin, so the tail begins at the lowest, 1: k = 2 above it, e and e^2: 1 + 2 / (1 + 2).
    assert hill_exponent(torch.tensor([1.0, math.e, math.e**2], dtype=torch.float64)) == pytest.approx(1 + 2 / 3)
    # 32 values make 4 bins over ln x in [0, 8): 4 below, 20 in [2, 4), 8 from 4 on. The peak begins at ln x = 2.
    logs = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, *[3.0] * 19, *[6.0] * 7, 8.0], dtype=torch.float64)
    assert hill_exponent(logs.exp()) == pytest.approx(1 + 27 / (19 * 1 + 7 * 4 + 6))


def test_a_power_law_has_its_exponent() -> None:
    # A density ~ x^-a has the quantiles (1 - u)^(-1 / (a - 1)).
    places = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for exponent in (2.0, 3.5):
        values = (1 - places) ** (-1 / (exponent - 1))
        assert hill_exponent(values) == pytest.approx(exponent, rel=0.02)


def test_eigenvalues_are_squared_singular_values_above_zero() -> None:
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    for matrix in (weight, weight[:2], weight[:, :2]):
        torch.testing.assert_close(eigenvalues(matrix), torch.tensor([4.0, 9.0], dtype=torch.float64))


@pytest.mark.parametrize("weight", [torch.zeros(4, 6), torch.full((4, 6), 2.0), torch.eye(5)])
def test_a_matrix_without_a_tail_has_no_exponent(weight: torch.Tensor) -> None:
    assert hill_exponent(eigenvalues(weight)) is None


def test_blocks_with_damaged_matrices_get_an_exponent_or_a_sentence() -> None:
    structure = find_structure(tiny_model("llama"))
    whole = block_exponents(structure)
    for matrix in structure.blocks[0].matrices:
        matrix.weight().zero_()
    assert block_exponents(structure) == {name: whole["model.layers.1"] for name in whole}
    for matrix in structure.blocks[1].matrices:
        matrix.weight().fill_(1.0)
    assert len(set(block_exponents(structure).values())) == 1
    structure.blocks[1].matrices[0].weight()[0, 0] = math.nan
    with pytest.raises(OwledError, match=r"layers\.1.*NaN"):
        block_exponents(structure)


def test_the_norm_of_a_block_is_the_root_mean_square_of_its_weights() -> None:
    structure = find_structure(tiny_model("llama"))
    for number, block in enumerate(structure.blocks):
        for matrix in block.matrices:
            matrix.weight().fill_(-3.0 + 2 * number)
    assert [*block_norms(structure).values()] == [3.0, 1.0]


def test_depth_counts_within_each_component() -> None:
    structure = find_structure(tiny_model("llava"))
    depths = block_depths(structure)
    assert [depths[block.name] for block in structure.blocks if block.component == "language"] == [0.0, 1.0]
    assert [depths[block.name] for block in structure.blocks if block.component == "vision"] == [0.0, 1.0]
    assert [depths[block.name] for block in structure.blocks if block.component == "projector"] == [0.5]


@settings(deadline=None)
@given(
    name=st.sampled_from([*allocation.ALLOCATORS]),
    measure=st.lists(st.floats(0, 50), min_size=1, max_size=12),
    target=st.floats(0.05, 0.95),
    spread=st.floats(0.0, 0.49),
    seed=st.integers(0, 99),
)
def test_every_plan_holds_budget_and_bounds(
    name: str, measure: list[float], target: float, spread: float, seed: int
) -> None:
    sizes = np.random.default_rng(seed).integers(10, 5000, len(measure)).astype(float)
    plan = allocation.ALLOCATORS[name](np.array(measure), sizes, target, spread)
    assert ((plan >= 0) & (plan <= allocation.MAX_SPARSITY)).all()
    assert np.average(plan, weights=sizes) == pytest.approx(target, abs=1e-9)
    counts = allocation.zero_counts(plan, sizes.astype(np.int64), target)
    assert counts.sum() == round(target * int(sizes.sum()))
    grows = np.diff(plan[np.argsort(measure, kind="stable")])
    assert (grows <= 1e-12).all() if name in ("owl", "norm") else (grows >= -1e-12).all()


@pytest.mark.parametrize("name", [*allocation.ALLOCATORS])
def test_equal_measures_give_the_uniform_plan_and_nan_is_refused(name: str) -> None:
    plan = allocation.ALLOCATORS[name](np.full(4, 2.5), np.arange(1.0, 5.0), 0.7, 0.2)
    np.testing.assert_allclose(plan, 0.7, atol=1e-12)
    with pytest.raises(OwledError, match="NaN"):
        allocation.ALLOCATORS[name](np.array([0.0, np.nan, 1.0]), np.ones(3), 0.5, 0.1)


@settings(deadline=None)
@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    pattern=st.sampled_from([(2, 4), (4, 8), (1, 4)]),
    seed=st.integers(0, 99),
)
def test_whole_groups_hold_the_budget_whatever_the_sizes(
    shares: list[float], pattern: tuple[int, int], seed: int
) -> None:
    zeros, group = pattern
    sizes = np.random.default_rng(seed).choice([64, 128, 4096], len(shares))
    counts = allocation.group_counts(np.array(shares), sizes, zeros, group)
    assert ((counts >= 0) & (counts < group)).all()
    assert (counts * sizes).sum() * group == zeros * group * sizes.sum()


def test_whole_groups_by_hand() -> None:
    # Of 8: 0.5 -+ 0.2 is 2.4, 4, 5.6: floors 2, 4, 5 lack one of 12, which goes to the largest remainder, .6.
    assert allocation.group_counts(np.array([0.3, 0.5, 0.7]), np.full(3, 64), 4, 8).tolist() == [2, 4, 6]
    # A matrix alone in its size keeps 4; what its plan asked for is not taken from others.
    assert allocation.group_counts(np.array([0.3, 0.7, 0.9]), np.array([64, 64, 32]), 4, 8).tolist() == [2, 6, 4]


def _known(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, the Hessian of some inputs, and Wanda's score."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(200, columns, generator=generator) * torch.rand(columns, generator=generator) * 3
    hessian = inputs.t() @ inputs
    return weight, hessian, wanda(weight, hessian.diagonal())


def _cosine(weight: torch.Tensor, pruned: torch.Tensor, hessian: torch.Tensor) -> float:
    def product(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(((one @ hessian) * other).double().sum())

    return product(weight, pruned) / math.sqrt(product(weight, weight) * product(pruned, pruned))


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 12), columns=st.integers(2, 16), share=st.floats(0.0, 0.95), seed=st.integers(0, 99))
def test_zeros_by_row_hold_the_budget_and_are_never_worse_than_even(
    rows: int, columns: int, share: float, seed: int
) -> None:
    weight, hessian, score = _known(rows, columns, seed)
    zeros = round(share * rows * columns)
    weight[:, 0] = 0.0  # a pruned model is pruned further
    gone = (weight == 0).sum(1)
    if zeros < int(gone.sum()):
        return
    score = score.masked_fill(weight == 0, -1.0)
    counts = trim_counts(weight, score, zeros, hessian, gone)
    assert int(counts.sum()) == zeros
    assert bool((counts >= gone).all())
    even, found = mask_rows(score, zeros, gone), mask_counts(score, counts)
    assert found.sum(1).tolist() == counts.tolist()
    if zeros < (rows - 1) * columns:
        worse = _cosine(weight, weight.masked_fill(even, 0.0), hessian)
        assert _cosine(weight, weight.masked_fill(found, 0.0), hessian) >= worse - 1e-4


def test_a_row_of_few_large_weights_is_pruned_more_than_a_row_of_equal_ones() -> None:
    # Row 0 gives nearly all of its output by one weight, row 1 needs all eight; inputs are alike and independent.
    weight = torch.stack([torch.tensor([8.0, *[0.1] * 7]), torch.full((8,), 1.0)])
    hessian = torch.eye(8)
    counts = trim_counts(weight, wanda(weight, hessian.diagonal()), 8, hessian, torch.zeros(2, dtype=torch.long))
    assert counts.tolist() == [7, 1]


def test_nothing_known_gives_even_rows() -> None:
    weight = torch.ones(4, 8)
    counts = trim_counts(weight, weight, 16, torch.zeros(8, 8), torch.zeros(4, dtype=torch.long))
    assert counts.tolist() == [4, 4, 4, 4]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("name", RIVALS)
def test_the_rivals_prune_a_model_exactly_and_the_manifest_tells_their_parameter(
    name: str, llama: Path, tmp_path: Path
) -> None:
    config = PruneConfig(llama, tmp_path / "out", 0.55, "wanda", name, dtype="float32", rows="trim")
    manifest = read_manifest(prune(config, tiny_batches("llama")))
    assert sum(block.zeros for block in manifest.blocks) == round(0.55 * 18432)
    assert manifest.blocks[0].zeros != manifest.blocks[1].zeros
    assert manifest.method.owl_lambda == allocation.SPREADS[name]
    assert manifest.method.settings["rows"] == "trim"
    assert manifest.blocks[0].lod_percent is None


def test_rows_differ_only_with_trim(llama: Path, tmp_path: Path) -> None:
    for rows in ("even", "trim"):
        config = PruneConfig(llama, tmp_path / rows, 0.5, "wanda", "uniform", dtype="float32", rows=rows)
        prune(config, tiny_batches("llama"))
    counts = {
        rows: {
            name: (weight == 0).sum(1)
            for name, weight in load_model(tmp_path / rows).state_dict().items()
            if "proj" in name
        }
        for rows in ("even", "trim")
    }
    assert all(int(found.max() - found.min()) <= 1 for found in counts["even"].values())
    assert any(int(found.max() - found.min()) > 1 for found in counts["trim"].values())
    assert all(int(found.sum()) == int(counts["even"][name].sum()) for name, found in counts["trim"].items())


@pytest.mark.parametrize(("score", "name"), [("sparsegpt", "atp"), ("wanda", "learned")])
def test_n_of_m_with_a_plan(name: str, score: str, llama: Path, tmp_path: Path) -> None:
    config = PruneConfig(
        llama, tmp_path / "out", 0.5, score, name, pattern="4:8", owl_lambda=0.2, learn_steps=2, dtype="float32"
    )
    manifest = read_manifest(prune(config, tiny_batches("llama")))
    assert sum(block.zeros for block in manifest.blocks) == 18432 // 2
    found = set()
    for key, weight in load_model(tmp_path / "out").state_dict().items():
        if "proj" in key:
            counts = (weight.view(len(weight), -1, 8) == 0).sum(2)
            assert int(counts.max()) == int(counts.min()), key
            found.add(int(counts.max()))
    assert found != {4}


def test_n_of_m_on_a_grid_takes_the_plan_too(llama: Path, tmp_path: Path) -> None:
    config = PruneConfig(
        llama, tmp_path / "out", 0.5, "sparsegpt", "atp", pattern="4:8", owl_lambda=0.2, bits=4, dtype="float32"
    )
    manifest = read_manifest(prune(config, tiny_batches("llama")))
    assert manifest.blocks[0].matrices["self_attn.q_proj"] == 0.25
    assert manifest.blocks[1].matrices["self_attn.q_proj"] == 0.75


def test_each_budget_of_a_component_holds(tmp_path: Path) -> None:
    tiny_model("llava").save_pretrained(tmp_path / "llava")
    config = PruneConfig(
        tmp_path / "llava", tmp_path / "out", 0.5, "wanda", "dlp", budgets={"vision": 0.3, "language": 0.7}
    )
    manifest = read_manifest(prune(config, tiny_batches("llava")))
    for component, wanted in config.budgets.items():
        part = [block for block in manifest.blocks if block.component == component]
        assert sum(block.zeros for block in part) == round(wanted * sum(block.parameters for block in part))


def test_measures_without_inputs_need_no_pass(llama: Path) -> None:
    model = load_model(llama)
    for name in ("atp", "alpha-pruning"):
        config = PruneConfig(llama, Path("out"), 0.5, "wanda", name)
        plan = make_plan(model, find_structure(model), [], config, lambda *_: None)
        assert sum(plan.zeros.values()) == 18432 // 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": "odd"}, "unknown rows 'odd'; known: even, trim"),
        ({"rows": "trim", "score": "sparsegpt"}, "over all rows"),
        ({"rows": "trim", "pattern": "2:4"}, "pattern 2:4 gives every row the same zeros"),
        ({"rows": "trim", "allocation": "owl-reference"}, "owl-reference gives every row"),
        ({"pattern": "2:4", "allocation": "owl-reference"}, "knows no patterns"),
        ({"allocation": "atp", "owl_lambda": 0.5}, r"lambda is 0\.5"),
        ({"allocation": "atp", "owl_lambda": math.nan}, "lambda is nan"),
        ({"allocation": "ATP"}, "unknown allocation 'ATP'"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OwledError, match=message):
        replace(PruneConfig(Path("m"), Path("o"), 0.5, "wanda", "uniform"), **changes).check()
