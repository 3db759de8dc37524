"""The search of a plan in two stages: the same end again whatever happens in between, and plans that prune as they say."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.components import find_structure
from owled_ros.models.manifest import read_manifest
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.plan import budget_pools, within_budgets
from owled_ros.pruning.plan_file import PlanFile, PlanSettings, read_plan, write_plan
from owled_ros.pruning.plan_search import (
    PlanSearchSettings,
    Space,
    Trial,
    read_trial,
    search,
)
from owled_ros.pruning.plan_trials import PlanLoss, knobs_of, sparsity_at_equal_bytes
from owled_ros.pruning.prune import prune

pytest.importorskip("optuna")
SPACE = Space(Trial(general_share=0.25), general_shares=(0.0, 0.25), knobs=("language first", "language q_proj"))
CONFIG = PruneConfig(Path("m"), Path("o"), 0.5, dtype="float32", learn_steps=2)


def _worth(trial: Trial) -> float:
    """Some loss that looks like chance; a tenth of the trials cannot be measured."""
    drawn = zlib.crc32(str(trial).encode())
    return math.nan if drawn % 10 == 0 else 1.0 + drawn / 2**32


def _course(space: Space, state: Path, evaluations: int = 14, seed: int = 3, loss: Any = _worth) -> list[Any]:
    return list(search(loss, space, PlanSearchSettings(evaluations, seed), state, "a"))


def test_a_search_follows_from_its_seed_and_begins_with_the_defaults(tmp_path: Path) -> None:
    asked: list[Trial] = []

    def counted(trial: Trial) -> float:
        asked.append(trial)
        return _worth(trial)

    first = _course(SPACE, tmp_path / "a", loss=counted)
    assert [found.stage for found in first] == [1] * 7 + [2] * 7
    assert [found.tried for found in first] == list(range(1, 15))
    assert asked[0] == SPACE.default
    assert first == _course(SPACE, tmp_path / "b")
    assert first != _course(SPACE, tmp_path / "c", seed=4)
    assert first[-1].loss <= first[-1].first_loss <= first[-1].default_loss == _worth(SPACE.default)
    assert all(not trial.moves for trial in asked[:7])
    for before, trial in zip(first[6:], asked[7:], strict=False):
        known = before.best.moves  # what is moved is one knob of the best so far
        assert replace(trial, moves=known) == before.best
        assert sum(trial.moves[knob] != known.get(knob, 0.0) for knob in trial.moves) == 1


def test_a_search_killed_at_any_moment_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = _course(SPACE, tmp_path / "whole")
    written = (tmp_path / "whole").read_bytes()
    for cut in range(0, len(written), 701):
        (tmp_path / "cut").write_bytes(written[:cut])
        asked: list[Trial] = []

        def counted(trial: Trial, asked: list[Trial] = asked) -> float:
            asked.append(trial)
            return _worth(trial)

        assert _course(SPACE, tmp_path / "cut", loss=counted) == whole
        assert len(asked) == written.count(b"\n") - max(written[:cut].count(b"\n"), 1)
        assert (tmp_path / "cut").read_bytes() == written


@pytest.mark.parametrize("line", [b'["{}", "much"]\n', b'["{\\"wheels\\": 4}", 1.0]\n', b'["[]", 1.0]\n', b"[1]\n"])
def test_a_damaged_state_is_begun_afresh(line: bytes, tmp_path: Path) -> None:
    whole = _course(SPACE, tmp_path / "state", 4)
    written = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(written + line)
    assert _course(SPACE, tmp_path / "state", 4) == whole
    assert (tmp_path / "state").read_bytes() == written


def test_a_search_finds_what_is_worth_most(tmp_path: Path) -> None:
    def loss(trial: Trial) -> float:
        moved = sum(
            abs(trial.moves.get(knob, 0.0) - wanted) for knob, wanted in zip(SPACE.knobs, (-0.08, 0.05), strict=True)
        )
        return (trial.score != "wanda") + (trial.allocation != "block0") + abs(trial.general_share - 0.0) + moved

    found = _course(SPACE, tmp_path / "state", 80, loss=loss)[-1]
    assert (found.best.score, found.best.allocation, found.best.general_share) == ("wanda", "block0", 0.0)
    assert found.loss < 0.05 < found.first_loss == pytest.approx(0.13)


def test_what_cannot_be_searched_is_said(tmp_path: Path) -> None:
    with pytest.raises(OwledError, match="too few for two stages"):
        _course(SPACE, tmp_path / "state", 3)
    with pytest.raises(OwledError, match="no setting of the first stage"):
        _course(SPACE, tmp_path / "state", 4, loss=lambda trial: math.nan)


def test_a_trial_is_read_as_it_was_written() -> None:
    trial = Trial("wanda", "owl", 0, 0.02, 0.1, 7.0, 0.5, 64, {"language first": -0.05})
    assert read_trial(str(trial)) == str(trial)
    with pytest.raises(ValueError, match="wheels"):
        read_trial('{"wheels": 4}')


def test_another_group_size_leaves_the_packed_bytes_as_they_are() -> None:
    # Bits a weight: 4 (1 - s) + 16 / g: 1.6 + 0.5 at s = 0.6 and g = 32; with 16 / 64 = 0.25 there are 0.25 / 4 fewer zeros.
    assert sparsity_at_equal_bytes(0.6, 4, 64) == pytest.approx(0.6 - 0.0625)
    assert sparsity_at_equal_bytes(0.6, 8, 128) == pytest.approx(0.6 - 0.375 / 8)
    assert sparsity_at_equal_bytes(0.6, 4, 32) == 0.6


def _tiny() -> tuple[Any, Any, PlanLoss, list[Mapping[str, Any]]]:
    model, batches = tiny_model("llama"), tiny_batches("llama")
    structure = find_structure(model)
    return model, structure, PlanLoss(model, structure, {0.0: batches}, batches, CONFIG), batches


def test_a_trial_is_worth_what_prune_makes_of_it(tmp_path: Path) -> None:
    model, structure, loss_of, batches = _tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "model")
    knobs = knobs_of(structure)
    assert knobs[:2] == ("language first", "language self_attn.q_proj")
    assert "language middle" in knobs  # the second of two blocks
    moved = Trial("wanda", "owl", 0, 0.01, 0.1, moves={"language first": -0.1, "language mlp.down_proj": 0.05})
    for number, trial in enumerate((Trial(), moved)):
        loss = loss_of(trial)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        plan, out = loss_of.plan_of(trial), tmp_path / f"out{number}"
        config = replace(
            loss_of.config_of(trial), model=tmp_path / "model", output=out, allocation="plan", plan=plan.sparsity
        )
        manifest = read_manifest(prune(config, batches, held_out=batches))
        assert manifest.quality["pruned"]["loss"] == pytest.approx(loss, abs=2e-5)
        assert sum(block.zeros for block in manifest.blocks) == 18432 // 2
    assert loss_of.trials == 2
    flat, shifted = (loss_of.plan_of(replace(moved, moves=moves)).sparsity for moves in ({}, moved.moves))
    names = list(flat)
    # Only the differences between matrices are moved: what is shifted by the budget is the same for all.
    first, second = names[0], next(name for name in names if "layers.1" in name and "q_proj" in name)
    assert (shifted[first] - flat[first]) - (shifted[second] - flat[second]) == pytest.approx(-0.1)


def test_a_trial_that_cannot_be_pruned_is_worth_nothing() -> None:
    model, structure, loss_of, batches = _tiny()
    assert loss_of(Trial(damping=-1.0)) == math.inf
    for matrix in structure.blocks[0].matrices:
        matrix.weight().fill_(0.25)  # constant: ranks nothing, is pruned all the same
    assert math.isfinite(PlanLoss(model, structure, {0.0: batches}, batches, CONFIG)(Trial("wanda", "uniform", 0)))
    for block in structure.blocks:
        for matrix in block.matrices:
            matrix.weight().zero_()
    with pytest.raises(OwledError, match="zeros already"):
        PlanLoss(model, structure, {0.0: batches}, batches, CONFIG)


def test_a_model_whose_loss_is_nan_cannot_be_judged() -> None:
    model, structure, _, batches = _tiny()
    structure.blocks[0].matrices[-1].weight().fill_(math.nan)  # behind the attention, which may make 0 of NaN
    with pytest.raises(OwledError, match="is NaN"):
        PlanLoss(model, structure, {0.0: batches}, batches, CONFIG)


def test_a_plan_is_shifted_to_the_budget_and_knows_its_model() -> None:
    _, structure, loss_of, _ = _tiny()
    plan = loss_of.plan_of(Trial(allocation="block0")).sparsity
    shifted = within_budgets(structure, plan, budget_pools(structure, replace(CONFIG, sparsity=0.7)))
    sizes = {matrix.name: matrix.size for block in structure.blocks for matrix in block.matrices}
    assert sum(shifted[name] * size for name, size in sizes.items()) / sum(sizes.values()) == pytest.approx(0.7)
    name = next(iter(plan))
    with pytest.raises(OwledError, match="another model"):
        within_budgets(structure, {key: value for key, value in plan.items() if key != name}, [(("language",), 0.5)])


@pytest.mark.parametrize("changes", [{"allocation": "plan"}, {"plan": {"a": 0.5}}])
def test_an_allocation_and_a_plan_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(OwledError, match="go together"):
        replace(CONFIG, **changes).check()


def test_files_of_plans(tmp_path: Path) -> None:
    settings = PlanSettings("wanda", refine=0, damping=0.02, general_share=0.125)
    written = PlanFile("mine", 0.6, {"a": 0.5, "b": 0.7}, settings)
    write_plan(tmp_path / "mine.json", written, {"loss": 1.5})
    assert read_plan(tmp_path / "mine.json") == written
    good = json.loads((tmp_path / "mine.json").read_text())
    for changes, message in (
        ({"format": "owled_metric"}, "is no plan"),
        ({"format_version": 2}, "has format 2"),
        ({"plan": {}}, "by the name of every matrix"),
        ({"plan": {"a": 1.5}}, "by the name of every matrix"),
        ({"plan": {"a": True}}, "by the name of every matrix"),
        ({"sparsity": "much"}, "sparsity is 'much'"),
        ({"settings": []}, "must be an object"),
        ({"settings": {"wheels": 4}}, "unknown setting 'wheels'"),
        ({"settings": {"refine": 1.5}}, "refine is 1.5, expected int"),
        ({"settings": {"damping": "x"}}, "damping is 'x', expected float"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**good, **changes}))
        with pytest.raises(OwledError, match=message):
            read_plan(tmp_path / "bad.json")
    for content, message in (("{", "cannot be read"), ("[]", "is no plan"), ("[" * 100_000, "cannot be read")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(OwledError, match=message):
            read_plan(tmp_path / "bad.json")
    with pytest.raises(OwledError, match="there is no plan"):
        read_plan(tmp_path / "absent.json")
