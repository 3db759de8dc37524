"""What the module tree does not tell: weights read from outside, layouts of fused experts, towers that never run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import UNUSUAL_MODELS, tiny_batches, tiny_model
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Matrix, find_structure
from owled_ros.models.load import load_model
from owled_ros.models.manifest import read_manifest
from owled_ros.pruning.plan import dense_statistics
from owled_ros.pruning.products import Products
from owled_ros.pruning.prune import PruneConfig, prune
from owled_ros.pruning.usage import settle_structure

WEIGHT = torch.arange(12.0).reshape(3, 4)  # (R, K)
FUSED = torch.arange(24.0).reshape(2, 3, 4)  # (E, R, K)
X = torch.ones(5, 4)  # (T, K)
F = nn.functional


def seen(matrices: list[Matrix], product: Any) -> list[tuple[str, tuple[int, ...], bool]]:
    found: list[tuple[str, tuple[int, ...], bool]] = []
    with Products(matrices, lambda m, x, transposed: found.append((m.name, tuple(x.shape), transposed))):
        product()
    return found


@pytest.mark.parametrize("as_stored", [True, False])  # (R, K), or (K, R)
def test_every_way_to_write_a_product_is_seen(as_stored: bool) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(WEIGHT.clone() if as_stored else WEIGHT.t().contiguous())
    w = module.weight if as_stored else module.weight.t()  # (R, K) in either case
    matrix = Matrix("m", "m", module, "weight", 3, 4)
    one, flipped = [("m", (5, 4), not as_stored)], [("m", (1, 5, 4), not as_stored)]
    for product in (
        lambda: F.linear(X, w),
        lambda: X @ w.t(),
        lambda: torch.matmul(X, w.t()),
        lambda: X.mm(w.t()),
        lambda: w @ X.t(),
        lambda: torch.addmm(torch.zeros(3), X, w.t()),
        lambda: torch.einsum("tk,rk->tr", X, w),
    ):
        assert seen([matrix], product) == one
    assert seen([matrix], lambda: w @ X.t()[None]) == flipped  # as Mamba reads its time step
    assert seen([matrix], lambda: (X.sum(), w.sum(), torch.ones(5, 3) @ WEIGHT)) == []


@pytest.mark.parametrize("as_stored", [True, False])  # (E, R, K), or (E, K, R)
def test_products_with_fused_experts_are_seen_expert_by_expert(as_stored: bool) -> None:
    module = nn.Module()
    module.w = nn.Parameter(FUSED.clone() if as_stored else FUSED.transpose(1, 2).contiguous())
    w = module.w if as_stored else module.w.transpose(1, 2)  # (E, R, K)
    matrices = [Matrix(f"w[{e}]", "w", module, "w", 3, 4, expert=e) for e in range(2)]
    both = [(f"w[{e}]", (5, 4), not as_stored) for e in range(2)]
    x = X.expand(2, 5, 4)
    for product in (
        lambda: torch.bmm(x, w.transpose(1, 2)),
        lambda: torch.matmul(x, w.transpose(1, 2)),
        lambda: torch.baddbmm(torch.zeros(2, 5, 3), x, w.transpose(1, 2)),
        lambda: torch.einsum("etk,erk->etr", x, w),
        lambda: torch.einsum("tk,erk->etr", X, w),
        lambda: [F.linear(X, w[e]) for e in range(2)],
        lambda: [X @ w[e].t() for e in range(2)],
    ):
        assert seen(matrices, product) == both


@pytest.mark.parametrize("name", UNUSUAL_MODELS)
@pytest.mark.parametrize("score", ["wanda", "sparsegpt", "admm"])
def test_the_target_is_met_with_the_scores_own_statistics(name: str, score: str, tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path / name)
    prune(PruneConfig(tmp_path / name, tmp_path / "out", 0.5, score, "uniform", dtype="float32"), tiny_batches(name))
    manifest = read_manifest(tmp_path / "out")
    total = sum(block.parameters for block in manifest.blocks)
    assert abs(manifest.sparsity - 0.5) <= 1 / total
    assert manifest.fallbacks == {}


def test_mambas_time_step_and_llama4s_experts_by_hand() -> None:
    mamba, batches = tiny_model("mamba"), tiny_batches("mamba", count=1)
    structure = settle_structure(mamba, find_structure(mamba), batches)
    read = {matrix.kind for block in structure.blocks for matrix in block.matrices if matrix.read}
    assert read == {"mixer.dt_proj"}
    found = dense_statistics(mamba, structure, batches)["backbone.layers.0.mixer.dt_proj"]
    caught: list[torch.Tensor] = []
    mixer = mamba.backbone.layers[0].mixer
    mixer.x_proj.register_forward_hook(lambda _, __, output: caught.append(output.detach()))
    with torch.no_grad():
        mamba(**batches[0])
    steps = caught[0][..., : mixer.dt_proj.in_features]  # the first outputs of x_proj are the time step's inputs
    torch.testing.assert_close(found.squares.float(), steps.square().sum((0, 1)))

    llama4 = tiny_model("llama4")
    structure = settle_structure(llama4, find_structure(llama4), tiny_batches("llama4"))
    down = next(m for block in structure.blocks for m in block.matrices if m.kind.endswith("experts.down_proj"))
    assert (down.rows, down.columns, down.transposed) == (32, 48, True)  # stored (E, 48, 32)


def test_a_tower_that_never_runs_is_left_dense_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dense = tiny_model("llava")
    dense.save_pretrained(tmp_path / "llava")
    config = PruneConfig(tmp_path / "llava", tmp_path / "out", 0.5, "wanda", "owl", dtype="float32")
    with caplog.at_level(logging.WARNING):
        prune(config, tiny_batches("llama"))
    assert "left dense: the calibration never runs it" in caplog.text
    manifest = read_manifest(tmp_path / "out")
    assert {block.component for block in manifest.blocks} == {"language"}
    assert manifest.sparsity == pytest.approx(0.5, abs=1e-4)
    assert "never runs" in manifest.skipped["model.vision_tower.encoder.layers.0"]
    tower = load_model(tmp_path / "out").model.vision_tower.state_dict()
    assert all(torch.equal(tower[name], weight) for name, weight in dense.model.vision_tower.state_dict().items())


@pytest.mark.parametrize("changes", [{"budgets": {"vision": 0.4}}, {"components": ("vision",)}])
def test_a_tower_that_must_run_is_named(changes: dict[str, Any], tmp_path: Path) -> None:
    tiny_model("llava").save_pretrained(tmp_path / "llava")
    config = PruneConfig(tmp_path / "llava", tmp_path / "out", 0.5, "wanda", "uniform", **changes)
    with pytest.raises(OwledError, match=r"never runs model\.vision_tower.*add frames with images"):
        prune(config, tiny_batches("llama"))


def test_an_expert_without_tokens_is_counted_as_a_fallback(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    for layer in model.model.layers:
        layer.mlp.gate.weight.data[3] = -100 * layer.mlp.gate.weight.data[:3].abs().sum(0)
    model.save_pretrained(tmp_path / "mixtral")
    batches = [{"input_ids": torch.full((2, 6), 20)}]  # one token: at most two of four experts in a layer
    prune(PruneConfig(tmp_path / "mixtral", tmp_path / "out", 0.5, "wanda", "uniform", dtype="float32"), batches)
    manifest = read_manifest(tmp_path / "out")
    assert len(manifest.fallbacks) == 2 * 2 * 2  # layers, experts without a token, parameters of each
    assert all("magnitude" in reason for reason in manifest.fallbacks.values())
    assert manifest.sparsity == pytest.approx(0.5, abs=1e-4)
