"""Rounding the output matrix by its inputs: what it is fitted to, tied and untied models, what is left alone, packed without loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_models import VISION_MODELS, tiny_batches, tiny_model
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.grid import PRECISIONS, StoredGrid, read_grid_of, write_grid
from owled_ros.models.load import load_model
from owled_ros.pruning import ends as ends_module
from owled_ros.pruning.ends import EVERY_SIDE, inputs_of, round_ends
from owled_ros.pruning.on_grid import nearest
from owled_ros.pruning.packing import pack_artifact
from owled_ros.pruning.prune import PruneConfig, prune
from owled_ros.pruning.rounding import Grid, codes, spread
from owled_ros.sparse.format import Format, Role, read_packed
from owled_ros.sparse.quantise import unpack_matrix

GRID = Grid(4, 32)


def _llama(tied: bool) -> Any:
    model = tiny_model("llama")
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
        model.config.tie_word_embeddings = True
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_logits_keep_more_than_with_rounding_to_nearest(tied: bool) -> None:
    model, batches = _llama(tied), tiny_batches("llama", count=6)
    dense = model.lm_head.weight.detach().clone()
    inputs = torch.cat([model.model(**batch).last_hidden_state.detach().flatten(0, 1) for batch in batches])
    scales = round_ends(model, batches, GRID)
    found = model.lm_head.weight.detach()
    assert list(scales) == (["model.embed_tokens"] if tied else ["lm_head", "model.embed_tokens"])
    values = next(iter(scales.values()))
    wide = spread(values, GRID, dense.shape[1])
    assert torch.equal(codes(found, wide, GRID) * wide, found)  # on the grid
    assert (model.model.embed_tokens.weight is model.lm_head.weight) == tied
    near, _ = nearest(dense, torch.zeros_like(dense, dtype=torch.bool), GRID)

    def error(weight: torch.Tensor) -> float:
        return float((inputs @ (weight - dense).t()).square().mean() + tied * EVERY_SIDE * inputs.square().mean() * (weight - dense).square().sum(1).mean())  # fmt: skip

    assert error(found) < error(near)


def test_the_inputs_are_those_of_real_tokens_and_no_logits_are_computed() -> None:
    model, batch = _llama(tied=False), tiny_batches("llama", count=1)[0]
    mask = torch.ones_like(batch["input_ids"])
    mask[0, 5:] = 0
    batch |= {"attention_mask": mask, "labels": batch["input_ids"]}
    calls: list[Any] = []
    handle = model.lm_head.register_forward_hook(lambda _, __, out: calls.append(out.shape))
    seen = inputs_of(model, model.lm_head, [batch])
    handle.remove()
    hidden = model.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state.detach()[mask.bool()]
    assert seen.hessian is not None
    torch.testing.assert_close(seen.hessian, hidden.t() @ hidden, rtol=1e-3, atol=1e-4)
    assert seen.tokens == int(mask.sum())
    assert [shape[-1] for shape in calls] == [1]
    assert model(batch["input_ids"]).logits.shape[-1] == len(model.lm_head.weight)  # as before


def test_pieces_of_the_vocabulary_give_what_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = _llama(tied=True), _llama(tied=True)
    scales = round_ends(whole, tiny_batches("llama"), GRID)
    monkeypatch.setattr(ends_module, "ROWS", 7)
    told: list[tuple[int, int]] = []
    found = round_ends(pieces, tiny_batches("llama"), GRID, report=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(found, scales)
    words = len(whole.lm_head.weight)  # a tied one counts once
    assert told == [(min(7 * (i + 1), words), words) for i in range(-(-words // 7))]
    torch.testing.assert_close(pieces.lm_head.weight, whole.lm_head.weight)


def test_models_without_an_output_matrix_are_left_alone() -> None:
    model = _llama(tied=False)
    assert round_ends(model.model, tiny_batches("llama"), GRID) == {}
    model.lm_head = nn.Identity()
    assert round_ends(model, tiny_batches("llama"), GRID) == {}


def test_a_model_that_cannot_run_without_its_output_matrix_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = _llama(tied=False)
    before, forward = model.lm_head.weight.detach().clone(), model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: forward(**inputs).logits.view(-1, len(before)))
    assert round_ends(model, tiny_batches("llama"), GRID) == {}
    assert torch.equal(model.lm_head.weight, before)
    assert "are not rounded" in caplog.text


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("bits", "ends", "ends_group"),
    [(4, 4, None), (4, 0, None), (4, 3, None), (2, 4, None), (2, 4, 128), (2, 3, 64), (2, 2, None), (1.6, 2, None)],
)
def test_packed_files_hold_what_the_artifact_does(
    tied: bool, bits: float, ends: int, ends_group: int | None, tmp_path: Path
) -> None:
    kept = ends == 0
    _llama(tied).save_pretrained(tmp_path / "model")
    config = PruneConfig(
        tmp_path / "model", tmp_path / "out", 0.5, allocation="uniform", dtype="float32", bits=bits, round_ends=not kept,
        ends_bits=ends or 4, ends_group=ends_group,
    )  # fmt: skip
    packed = pack_artifact(prune(config, tiny_batches("llama"))).packed
    assert packed is not None
    tensors = {tensor.role: tensor for tensor in read_packed(tmp_path / "out" / packed["file"]).tensors}
    role = Role.EMBEDDING if tied else Role.HEAD
    assert tensors[role].format.bits == (ends or 8)
    assert packed["precision"] == PRECISIONS[bits]
    usual = 32 if bits == 4 or ends in (2, 3) else 64  # fewer than four bits at the ends need finer scales
    assert tensors[role].group == (ends_group or usual)
    assert {
        tensor.group for tensor in tensors.values() if tensor.layer >= 0 and tensor.format is not Format.VECTOR
    } == {32 if bits == 4 else 64}
    assert tensors[Role.EMBEDDING].format is tensors[role].format
    grid = read_grid_of(tmp_path / "out")
    assert grid is not None
    before, after = load_model(tmp_path / "model").state_dict(), load_model(tmp_path / "out").state_dict()
    for tensor in (tensors[role], tensors[Role.EMBEDDING]):
        assert (tensor.name in grid.scales) == (not kept)
        weight = after[f"{tensor.name}.weight"].numpy()
        if kept:
            np.testing.assert_array_equal(weight, before[f"{tensor.name}.weight"].numpy())
        else:
            np.testing.assert_array_equal(unpack_matrix(tensor), weight)


@pytest.mark.parametrize(
    ("ends", "words"),
    [((4, 64), "2 64"), ((4, None), "2 64"), ((3, 64), "2 64 3"), ((4, 32), "2 64 4 32"), ((2, 32), "2 64 2 32")],
)
def test_the_grid_file_says_no_more_than_older_releases_need(
    ends: tuple[float, int | None], words: str, tmp_path: Path
) -> None:
    write_grid(tmp_path, StoredGrid(2, 64, {"head": torch.ones(3, 1)}, *ends))
    with safe_open(tmp_path / "grid.safetensors", framework="pt") as stream:
        assert stream.metadata() == {"grid": words}
    read = read_grid_of(tmp_path)
    assert read is not None
    assert (read.bits, read.group, read.ends_bits, read.ends_group) == (2, 64, ends[0], ends[1] or 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": None}, "4 bits or fewer only"),
        ({"bits": 8}, "4 bits or fewer only"),
        ({"bits": 2, "round_ends": False}, "4 bits or fewer only"),
        ({"bits": 2, "ends_bits": 8}, "not 8"),
        ({"bits": 2, "ends_bits": 2.5}, r"no grid of 2\.5 bits"),
        ({"bits": 2, "ends_group": 48}, "groups of 48"),
        ({"bits": 8, "ends_bits": 4, "ends_group": 32}, "4 bits or fewer only"),
    ],
)
def test_bits_of_ends_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    config = PruneConfig(Path("m"), Path("o"), 0.5, ends_bits=3)
    with pytest.raises(OwledError, match=words):
        replace(config, **changes).check()


@pytest.mark.parametrize("changes", [{"bits": 8}, {"components": ("vision",)}])
def test_eight_bits_and_other_components_leave_it(changes: dict[str, Any], tmp_path: Path) -> None:
    name = next(iter(VISION_MODELS))
    tiny_model(name).save_pretrained(tmp_path / "model")
    config = PruneConfig(tmp_path / "model", tmp_path / "out", 0.5, allocation="uniform", dtype="float32", bits=4)
    prune(replace(config, **changes), tiny_batches(name))
    before, after = (load_model(tmp_path / place) for place in ("model", "out"))
    assert torch.equal(before.get_output_embeddings().weight, after.get_output_embeddings().weight)
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
