"""The learned allocation finds what it should on a model where the answer is known; sensitivity and budgets likewise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_batches, tiny_model

from owled_ros.models.components import find_structure
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.learned import LearnSettings, learn
from owled_ros.pruning.plan import dense_statistics, make_plan
from owled_ros.pruning.quality import measure
from owled_ros.pruning.sensitivity import Sensitivity, measure_sensitivity, plot, propose_budget


def _trained(steps: int = 60) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """A tiny model that has learnt a few sequences by heart, its second block made useless."""
    model, batches = tiny_model("llama"), tiny_batches("llama", count=2, sequences=4)
    for name in ("o_proj", "down_proj"):
        layer = getattr(model.model.layers[1].self_attn, name, None) or getattr(model.model.layers[1].mlp, name)
        layer.weight.data.zero_().add_(1e-6)
    chosen = [*model.model.layers[0].parameters(), model.lm_head.weight]
    optimizer = torch.optim.Adam(chosen, lr=1e-2)
    for _ in range(steps):
        for batch in batches:
            optimizer.zero_grad()
            model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss.backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval(), batches


def test_learning_moves_the_zeros_to_the_useless_block_and_leaves_the_model_alone() -> None:
    model, batches = _trained()
    structure = find_structure(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses: list[float] = []
    plan = learn(
        model, structure, dense_statistics(model, structure, batches), batches,
        {block.name: 0.5 for block in structure.blocks}, [(("language",), 0.5)],
        LearnSettings(steps=30, tokens_per_step=96), lambda step, loss: losses.append(loss),
    )  # fmt: skip
    by_block = [np.mean([plan[matrix.name] for matrix in block.matrices]) for block in structure.blocks]
    assert by_block[0] < 0.35 < 0.6 < by_block[1]
    assert losses[-1] < 0.7 * losses[0]
    weights = [(plan[matrix.name], matrix.size) for block in structure.blocks for matrix in block.matrices]
    assert np.average([value for value, _ in weights], weights=[size for _, size in weights]) == pytest.approx(
        0.5, abs=1e-9
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_scores_that_correct_what_is_kept_go_part_of_the_way_from_block0() -> None:
    model, batches = tiny_model("llama"), tiny_batches("llama")
    structure = find_structure(model)
    found: dict[str, dict[str, float]] = {}
    far = {
        matrix.name: 0.5 for block in structure.blocks for matrix in block.matrices
    }  # any plan that holds the budget
    for score, allocation in (("wanda", "learned"), ("sparsegpt", "learned"), ("sparsegpt", "block0")):
        config = PruneConfig(Path(), Path(), 0.5, score, allocation)
        found[f"{score} {allocation}"] = make_plan(model, structure, batches, config, lambda *_: None, far).sparsity
    assert found["wanda learned"] == far
    for name, start in found["sparsegpt block0"].items():
        assert found["sparsegpt learned"][name] == pytest.approx(0.6 * start + 0.4 * 0.5)
    assert any(value != 0.5 for value in found["sparsegpt block0"].values())


def test_fused_experts_of_a_block_share_one_number() -> None:
    model, batches = tiny_model("qwen3_moe"), tiny_batches("qwen3_moe")
    structure = find_structure(model)
    config = PruneConfig(Path(), Path(), 0.5, "wanda", "learned", learn_steps=2)
    plan = make_plan(model, structure, batches, config, lambda *_: None)
    experts = [matrix.name for matrix in structure.blocks[0].matrices if "down_proj" in matrix.name]
    assert len(experts) == 4
    assert len({plan.sparsity[name] for name in experts}) == 1


def test_sensitivity_puts_the_weights_back_and_grows_with_the_zeros(tmp_path: Path) -> None:
    model, batches = tiny_model("llava"), tiny_batches("llava")
    structure = find_structure(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config = PruneConfig(Path(), Path(), 0.5, "wanda", "uniform", components=("vision", "projector", "language"))
    found = measure_sensitivity(model, structure, batches, batches, config, levels=(0.3, 0.9))
    assert found.dense == pytest.approx(measure(model, batches).loss)
    assert set(found.losses) == {"vision", "projector", "language"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    plot(found, propose_budget(found, 0.5), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_budget_goes_where_it_costs_least_and_is_exact() -> None:
    curves = {"vision": {0.3: 1.0, 0.5: 3.0, 0.7: 9.0}, "language": {0.3: 0.01, 0.5: 0.03, 0.7: 0.1}}
    budget = propose_budget(Sensitivity(0.0, curves, {"vision": 100, "language": 300}), 0.6)
    assert budget["language"] > 0.7 > budget["vision"]
    assert (100 * budget["vision"] + 300 * budget["language"]) / 400 == pytest.approx(0.6, abs=1e-9)
    same = {0.3: 0.1, 0.7: 0.5}
    even = propose_budget(Sensitivity(0.0, {"vision": same, "language": same}, {"vision": 50, "language": 50}), 0.5)
    assert even["vision"] == pytest.approx(even["language"], abs=0.011)
