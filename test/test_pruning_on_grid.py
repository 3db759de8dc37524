"""Pruning and rounding in one sweep: on the grid, better than rounding afterwards, bad input, artifacts that pack without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_batches, tiny_model
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Matrix
from owled_ros.models.grid import GRID_NAME, read_grid_of
from owled_ros.models.load import load_model
from owled_ros.models.manifest import read_manifest, verify
from owled_ros.pruning.fitted import Scaled
from owled_ros.pruning.on_grid import nearest, settle, sweep
from owled_ros.pruning.packing import pack_artifact
from owled_ros.pruning.prune import PruneConfig, prune
from owled_ros.pruning.recovery import texts_of
from owled_ros.pruning.rounding import Grid, choose_scales, codes, rounded, spread
from owled_ros.pruning.sparsegpt import damped, sparsegpt
from owled_ros.sparse.format import Format, Role, read_packed
from owled_ros.sparse.quantise import unpack_matrix


def _case(rows: int = 12, columns: int = 160, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(tokens, columns, generator=generator) @ mixing  # correlated, as activations are
    return torch.randn(rows, columns, generator=generator), inputs


def _error(weight: torch.Tensor, other: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((weight - other) @ inputs.t()).square().sum())


def _on_grid(weight: torch.Tensor, scales: torch.Tensor, grid: Grid) -> bool:
    wide = spread(scales, grid, weight.shape[1])
    return torch.equal(codes(weight, wide, grid) * wide, weight) and torch.equal(scales.bfloat16().float(), scales)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_one_sweep_ends_on_the_grid_and_beats_rounding_afterwards(bits: int, group: int, share: float) -> None:
    weight, inputs = _case()  # 160 inputs: no group divides them but 32
    hessian, grid, zeros = inputs.t() @ inputs, Grid(bits, group), round(share * 12 * 160)
    swept, mask, scales = sweep(weight, hessian, zeros, grid)
    assert int(mask.sum()) == zeros
    assert bool((swept[mask] == 0).all())
    assert scales.shape == (12, -(-160 // group))
    assert _on_grid(swept, scales, grid)
    settled, fitted = settle(weight, swept, mask, scales, grid, hessian)
    assert _on_grid(settled, fitted, grid)
    assert bool((settled[mask] == 0).all())
    assert _error(settled, weight, inputs) <= _error(swept, weight, inputs) * 1.001
    if bits <= 4:
        pruned, own = sparsegpt(weight, hessian, zeros)
        after, _ = nearest(pruned, own, grid)
        assert _error(settled, weight, inputs) < 0.8 * _error(after, weight, inputs)


def test_a_mask_that_is_given_is_kept_and_groups_hold() -> None:
    weight, inputs = _case()
    hessian, grid = inputs.t() @ inputs, Grid(4, 32)
    _, mask = sparsegpt(weight, hessian, 0, group=(2, 4))
    swept, kept, _ = sweep(weight, hessian, 0, grid, mask=mask)
    assert torch.equal(kept, mask)
    assert bool((swept[mask] == 0).all())
    _, mask, _ = sweep(weight, hessian, 0, grid, group=(4, 8))
    assert bool((mask.view(12, 20, 8).sum(2) == 4).all())


def test_scales_by_hand() -> None:
    grid = Grid(4, 32)
    ones = torch.ones(())
    assert choose_scales(torch.tensor([[-8.0, 7.0, 1.0]]), ones, grid).item() == 1.0
    assert (
        choose_scales(torch.tensor([[8.0, -7.0, 1.0]]), ones, grid).item() == -1.0
    )  # the longer side gets the extra code
    # An outlier that hardly counts is clipped for the others' sake, one that does not count at all is not looked at.
    weight = torch.tensor([[10.0, 2.1, 2.2, -2.3]])
    assert abs(choose_scales(weight, torch.tensor([1e-6, 1.0, 1.0, 1.0]), grid).item()) < 10 / 8
    assert abs(choose_scales(weight, torch.tensor([0.0, 1.0, 1.0, 1.0]), grid).item()) <= 2.3 / 7 * 1.01
    for bits, low, high in ((3, -4.0, 3.0), (2, -2.0, 1.0)):
        for sign in (1.0, -1.0):
            assert choose_scales(sign * torch.tensor([[low, high, 1.0]]), ones, Grid(bits, 32)).item() == sign


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-39])
def test_constant_and_vanishing_matrices(value: float) -> None:
    _, inputs = _case()
    for grid in (Grid(2, 64), Grid(3, 32), Grid(4, 32), Grid(8, 128)):
        weight = torch.full((3, 160), value)
        swept, mask, scales = sweep(weight, inputs.t() @ inputs, 0, grid)
        settled, _ = settle(weight, swept, mask, scales, grid, inputs.t() @ inputs)
        assert torch.allclose(settled, weight, rtol=5e-3, atol=1e-38)
        assert torch.allclose(nearest(weight, mask, grid)[0], weight, rtol=5e-3, atol=1e-38)


def test_the_scale_of_a_group_by_hand() -> None:
    """One row, codes 1, -2 and 1 under unit inputs: 2.2, -4.1 and 1.7 are (2.2 + 8.2 + 1.7) / 6 = 2.0167 times them."""
    grid, weight = Grid(4, 32), torch.tensor([[2.2, -4.1, 1.7]])
    start, scales = torch.tensor([[1.9, -3.8, 1.9]]).bfloat16().float(), torch.tensor([[1.9]]).bfloat16().float()
    none = torch.zeros(1, 3, dtype=torch.bool)
    settled, fitted = settle(weight, start, none, scales, grid, torch.eye(3), damping=0.0)
    assert fitted.item() == pytest.approx(12.1 / 6, rel=1 / 256)
    assert torch.equal(settled, torch.tensor([[1.0, -2.0, 1.0]]) * fitted)
    still, same = settle(weight, settled, none, fitted, grid, torch.eye(3), damping=0.0)  # nothing comes closer
    assert torch.equal(still, settled)
    assert torch.equal(same, fitted)


def test_a_matrix_of_one_row_is_not_written_into() -> None:
    """Its transpose is contiguous as it is, so that a copy of it is easily none."""
    weight, inputs = _case(rows=1)
    hessian, grid, before = inputs.t() @ inputs, Grid(2, 64), weight.clone()
    pruned, _ = sparsegpt(weight, hessian, 80)
    swept, mask, scales = sweep(weight, hessian, 80, grid)
    start = swept.clone()
    settled, _ = settle(weight, swept, mask, scales, grid, hessian)
    assert torch.equal(weight, before)
    assert torch.equal(swept, start)
    assert not torch.equal(pruned, weight)
    assert not torch.equal(settled, swept)


def test_scales_that_move_with_the_codes_come_closer_than_codes_alone() -> None:
    weight, inputs = _case(rows=40)
    hessian, grid = inputs.t() @ inputs, Grid(1.6, 64)
    swept, mask, scales = sweep(weight, hessian, 0, grid)
    errors = [
        _error(settle(weight, swept, mask, scales, grid, hessian, passes)[0], weight, inputs) for passes in (0, 1, 2, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.95 * errors[1]
    alone, wide, whole = swept.clone(), spread(scales, grid, 160), damped(hessian, 0.01)
    for column in [*range(160)] * 4:  # the same four passes with the scales as they were
        pull = (weight - alone) @ whole[:, column] / whole[column, column]
        alone[:, column] = rounded(alone[:, column] + pull, wide[:, column], grid)
    assert errors[3] < 0.99 * _error(alone, weight, inputs)


def test_outlier_inputs_and_singular_hessians_stay_finite_and_on_the_grid() -> None:
    weight, inputs = _case(tokens=20)  # rank 20 of 160
    inputs[:, 3] *= 1e4  # a massive activation, as language models have
    inputs[:, 9] = 0.0
    weight[:, 5] *= 100  # and outlier weights
    grid, hessian = Grid(4, 32), inputs.t() @ inputs
    swept, mask, scales = sweep(weight, hessian, weight.numel() // 2, grid)
    settled, fitted = settle(weight, swept, mask, scales, grid, hessian)
    assert bool(settled.isfinite().all())
    assert _on_grid(settled, fitted, grid)
    assert float(codes(settled, spread(fitted, grid, 160), grid).abs().max()) <= 8


def test_damaged_weights_and_unknown_grids_are_refused() -> None:
    weight, inputs = _case()
    weight[2, 2] = torch.nan
    with pytest.raises(OwledError, match="NaN"):
        sweep(weight, inputs.t() @ inputs, 0, Grid(4, 32))
    for bits, group in ((1, 32), (5, 32), (4, 48), (4, 0)):
        with pytest.raises(OwledError, match="no grid"):
            Grid(bits, group)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def _config(model: Path, output: Path, **changes: Any) -> PruneConfig:
    return replace(PruneConfig(model, output, 0.5, allocation="uniform", dtype="float32", bits=4), **changes)


@pytest.mark.parametrize("bits", [1.6, 2, 3, 4, 8])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"refine_steps": 0},
        {"score": "wanda"},
        {"pattern": "2:4"},
        {"sparsity": 0.0},
        {"statistics": "oneshot"},
        {"reconstruct_steps": 5},
        {"reconstruct_steps": 5, "sparsity": 0.0},
        {"recovery_steps": 3},
    ],
    ids=str,
)
def test_artifacts_lie_on_their_grid_and_pack_without_loss(
    bits: float, changes: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    out = prune(_config(llama, tmp_path / "out", bits=bits, **changes), tiny_batches("llama"))
    manifest = verify(out)
    assert GRID_NAME in manifest.files
    assert manifest.method.settings["bits"] == bits
    assert manifest.sparsity >= changes.get("sparsity", 0.5)
    packed = pack_artifact(out)
    assert packed.packed is not None
    assert packed.packed["precision"] == ("ternary" if bits == 1.6 else f"int{bits}")
    state = load_model(out).state_dict()
    grid = read_grid_of(out)
    assert grid is not None
    tensors = {tensor.name: tensor for tensor in read_packed(out / packed.packed["file"]).tensors}
    assert set(grid.scales) <= set(tensors)
    for name in grid.scales:
        np.testing.assert_array_equal(unpack_matrix(tensors[name]), state[f"{name}.weight"].numpy())
        assert tensors[name].group == (64 if bits < 4 else 32)
        ends = tensors[name].role in (Role.EMBEDDING, Role.HEAD)
        assert tensors[name].format.bits == (max(bits, 4) if ends else bits)
    if changes.get("pattern") == "2:4" and bits == 4:
        assert tensors["model.layers.0.mlp.up_proj"].format is Format.PAIRED_INT4


@pytest.mark.parametrize("bits", [1.6, 4])
def test_recovery_of_a_rounded_model_moves_scales_and_gains_and_no_code(
    bits: float, llama: Path, tmp_path: Path
) -> None:
    held_out = tiny_batches("llama", seed=8)
    plain = prune(_config(llama, tmp_path / "plain", bits=bits), tiny_batches("llama"))
    config = _config(llama, tmp_path / "out", bits=bits, recovery_steps=3)
    out = prune(config, tiny_batches("llama"), held_out=held_out)
    before, after = read_grid_of(plain), read_grid_of(out)
    assert before is not None
    assert after is not None
    old, new = load_model(plain).state_dict(), load_model(out).state_dict()
    moved = 0
    for name, scales in after.scales.items():
        grid = config.grid if name.startswith("model.layers.") else config.grid_of_ends
        assert grid is not None
        first, second = old[f"{name}.weight"], new[f"{name}.weight"]
        wide = [spread(found.float(), grid, first.shape[1]) for found in (before.scales[name], scales)]
        assert torch.equal(codes(first, wide[0], grid), codes(second, wide[1], grid))
        moved += int(not torch.equal(scales, before.scales[name]))
    assert moved == 16  # the matrices of both blocks, embedding and output matrix
    gains = [name for name in old if name.endswith("norm.weight")]
    assert len(gains) == 5
    assert not any(torch.equal(old[name], new[name]) for name in gains)
    assert set(read_manifest(out).quality) == {"dense", "before_recovery", "pruned"}


def test_texts_are_taken_one_by_one_and_frames_as_they_come() -> None:
    text = {"input_ids": torch.arange(6).view(3, 2), "labels": torch.tensor([[-100, 1], [0, -100], [2, 3]])}
    frames = {**text, "pixel_values": torch.zeros(3, 4)}
    found = texts_of([text, frames])
    assert [entry["input_ids"].tolist() for entry in found[:-1]] == [[[0, 1]], [[4, 5]]]  # the second scores nothing
    assert found[-1] is frames


def test_recovery_without_a_token_to_score_is_refused(llama: Path, tmp_path: Path) -> None:
    silent = [{**batch, "labels": torch.full_like(batch["input_ids"], -100)} for batch in tiny_batches("llama")]
    with pytest.raises(OwledError, match="no token to score"):
        prune(_config(llama, tmp_path / "out", recovery_steps=2), silent)
    assert not (tmp_path / "out").exists()


def test_the_gradient_of_a_scale_by_hand() -> None:
    layer = nn.Linear(64, 1, bias=False)
    scales = {"m": torch.tensor([[0.5, 2.0]])}
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 1], layer.weight[0, 32] = -1.5, 4.0  # codes -3 and 2
    scaled = Scaled([Matrix("m", "m", layer, "weight", 1, 64)], scales, Grid(4, 32))
    layer.weight.grad = torch.arange(64.0).view(1, 64)
    scaled.pull()
    (scale, _), *_ = scaled.steps
    assert scale.grad is not None
    assert scale.grad.tolist() == [[-3.0, 64.0]]
    scale += torch.tensor([[0.5, -1.0]])
    scaled.push()
    assert layer.weight[0, [1, 32]].tolist() == [-3.0, 2.0]
    assert int(layer.weight.count_nonzero()) == 2
    assert scaled.scales["m"].tolist() == [[1.0, 1.0]]


def test_half_stored_models_pack_to_their_grid_too(tmp_path: Path) -> None:
    tiny_model("llama").bfloat16().save_pretrained(tmp_path / "half")
    out = prune(_config(tmp_path / "half", tmp_path / "out"), tiny_batches("llama"))
    assert pack_artifact(out).packed is not None
    grid = read_grid_of(out)
    assert grid is not None
    tensors = {tensor.name: tensor for tensor in read_packed(out / "packed.owled").tensors}
    for name, weight in load_model(out).state_dict().items():
        if (
            name.removesuffix(".weight") in grid.scales
        ):  # the file holds the exact numbers, the artifact what bf16 makes of them
            exact = torch.from_numpy(unpack_matrix(tensors[name.removesuffix(".weight")]))
            assert torch.equal(exact.bfloat16().float(), weight)


def test_a_changed_weight_is_not_packed_as_if_it_lay_on_the_grid(llama: Path, tmp_path: Path) -> None:
    from broken_models import put, tensors_of

    out = prune(_config(llama, tmp_path / "out"), tiny_batches("llama"))
    tensors = tensors_of(out)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] += 0.01
    put(out, tensors)
    (out / "owled.json").unlink()  # as a plain model that was trained further
    config = json.loads((out / "config.json").read_text())
    config.pop("owled_artifact")
    (out / "config.json").write_text(json.dumps(config))
    from owled_ros.models.packing import pack_directory

    with pytest.raises(OwledError, match=r"up_proj.*4-bit grid"):
        pack_directory(out, out / "packed.owled")
    assert not (out / "packed.owled").exists()


def test_few_bits_are_only_for_weights_that_were_put_on_them(llama: Path, tmp_path: Path) -> None:
    from owled_ros.models.packing import pack_directory

    with pytest.raises(OwledError, match=r"no weights on a grid of int2, .*`owled prune --bits 2`"):
        pack_directory(llama, tmp_path / "packed.owled", "int2")
    out = prune(_config(llama, tmp_path / "out", bits=3), tiny_batches("llama"))
    with pytest.raises(OwledError, match="grid of int3 in groups of 32"):
        pack_directory(out, tmp_path / "packed.owled", "int3", group=32)
    pack_directory(out, tmp_path / "packed.owled", "int8")  # rounded anew, as any model


def test_a_killed_run_goes_on_with_its_scales(llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "out")
    whole = prune(replace(config, output=tmp_path / "whole"), tiny_batches("llama"))
    stages: list[str] = []
    with pytest.raises(OwledError, match="cancelled in stage prune"):
        prune(
            config,
            tiny_batches("llama"),
            progress=lambda step: stages.append(step.stage),
            cancelled=lambda: stages[-1] == "prune",  # the first block is done
        )
    prune(config, tiny_batches("llama"))
    assert read_manifest(tmp_path / "out").files[GRID_NAME] == read_manifest(whole).files[GRID_NAME]


def test_settings_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    base = _config(tmp_path, tmp_path / "out")
    for change, message in (
        ({"bits": 5}, "no grid of 5 bits"),
        ({"group_size": 48}, "groups of 48"),
        ({"bits": None, "group_size": 32}, "without bits"),
        ({"sparsity": 0.0, "allocation": "owl"}, "uniform"),
        ({"sparsity": 0.0, "bits": None}, "inside"),
        ({"sparsity": 1.0}, "inside"),
    ):
        with pytest.raises(OwledError, match=message):
            replace(base, **change).check()
    base.check()


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_grid_is_refused(content: bytes, tmp_path: Path) -> None:
    assert read_grid_of(tmp_path) is None
    (tmp_path / GRID_NAME).write_bytes(content)
    with pytest.raises(OwledError, match="prune again"):
        read_grid_of(tmp_path)


def test_rounding_clips_instead_of_wrapping_around() -> None:
    grid = Grid(4, 32)
    found = rounded(torch.tensor([[100.0, -100.0]]), torch.tensor([[1.0]]), grid)
    assert found.tolist() == [[7.0, -8.0]]
