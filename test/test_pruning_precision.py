"""Pruning in the number types of a GPU, tried on a CPU: bfloat16 products of float32 weights, and float16 as it is stored; resumed too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.components import find_structure
from owled_ros.pruning.blocks import Rule, prune_matrix
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.rounding import Grid
from owled_ros.pruning.state import PruneState
from owled_ros.pruning.statistics import InputStatistics


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("qwen3_vl", "bfloat16"), ("smolvlm", "float16")],
)
def test_a_resumed_run_equals_a_whole_one(name: str, dtype: str, tmp_path: Path) -> None:
    whole = pruned(name, dtype, None)
    assert all(bool((weight == 0).any()) for weight in whole.values())
    stopped = PruneState(tmp_path / "state", "a run")
    with pytest.raises(OwledError, match="stopped"):
        pruned(name, dtype, stopped, stop)
    resumed = pruned(name, dtype, PruneState(tmp_path / "state", "a run"))
    assert all(torch.equal(weight, resumed[matrix]) for matrix, weight in whole.items())


def stop(done: int, total: int, block: str) -> None:
    """Stop after the first block."""
    raise OwledError("stopped")


def pruned(
    name: str, dtype: str, store: PruneState | None, report: Callable[[int, int, str], None] = lambda *told: None
) -> dict[str, torch.Tensor]:
    """Prune half of a tiny model; returns its matrices."""
    model, batches = tiny_model(name), tiny_batches(name)
    if dtype == "float16":
        model = model.half()
    structure = find_structure(model)
    matrices = [matrix for block in structure.blocks for matrix in block.matrices]
    zeros = {matrix.name: matrix.size // 2 for matrix in matrices}
    config = PruneConfig(Path(), Path(), 0.5, "wanda", "uniform")
    with forward_precision("float32" if dtype == "float16" else dtype, "cpu"):
        prune_blocks(model, structure, batches, zeros, config, store, report)
    return {matrix.name: matrix.weight().clone() for matrix in matrices}


@pytest.mark.parametrize("score", ["wanda", "sparsegpt", "admm"])
@pytest.mark.parametrize("bits", [None, 4])
def test_what_solves_for_weights_is_float32_whatever_the_passes_are(score: str, bits: int | None) -> None:
    """Under bfloat16 the least squares of a layer with massive activations ran away, and the check that no row becomes worse with them."""
    torch.manual_seed(0)
    inputs = torch.randn(300, 64) * torch.logspace(-1, 2, 64)
    found = []
    for dtype in ("float32", "bfloat16"):
        model = tiny_model("llama")
        matrix = find_structure(model).blocks[0].matrices[0]
        columns = matrix.weight().shape[1]
        seen = InputStatistics.empty(columns, with_hessian=True)
        with torch.no_grad(), forward_precision(dtype, "cpu"):
            seen.add(inputs[:, :columns])
            rule = Rule(score, refine_steps=10, grid=None if bits is None else Grid(bits, 32))
            prune_matrix(matrix, seen, matrix.size // 2, rule)
        found.append(matrix.weight().clone())
    assert torch.equal(*found)
