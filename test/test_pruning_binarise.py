"""Structured binarisation and its file: values worked by hand, the very weights back, every byte counted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.load import load_model
from owled_ros.models.manifest import read_manifest, verify
from owled_ros.pruning.binarise import BLOCK, LEAST_LEVEL, Binary, binarise, importance
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.prune import prune
from owled_ros.sparse.binary import BINARY_NAME, BinaryMatrix, decode, encode, read_binary, write_binary


def _matrix(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a weight, the squared norms of its inputs, and their Hessian."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return weight, inputs.square().sum(0), inputs.t() @ inputs / len(inputs)


def _round_trip(weight: torch.Tensor, zeroed: torch.Tensor, levels: torch.Tensor, group: int) -> BinaryMatrix:
    matrix = encode(weight.numpy(), zeroed.numpy(), levels.numpy(), group)
    np.testing.assert_array_equal(decode(matrix), weight.numpy())
    return matrix


def test_importance_by_hand() -> None:
    # |w| / column + |w| / row of [[1, 3], [1, 1]]: columns 2 and 4, rows 4 and 2: [[.75, 1.5], [1, .75]]; times norms 2 and 1.
    expected = torch.tensor([[1.5, 1.5], [2.0, 0.75]])
    expected = (expected - expected.mean()) / expected.std(correction=0)
    torch.testing.assert_close(importance(torch.tensor([[1.0, -3.0], [1.0, 1.0]]), torch.tensor([4.0, 1.0])), expected)


def test_one_region_keeps_the_largest_and_their_mean() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.5, 0.25, 2.0, 0.5, -4.0, 1.0]])
    found, zeroed, levels = binarise(weight, torch.ones(8), None, (4, 8), how=Binary(1, 0))
    # Of one row the columns make every first term 1: what is largest stays, 3, 2, 4 and the last 1, 2.5 on the mean.
    assert zeroed.tolist() == [[True, False, True, True, False, True, False, False]]
    assert found.abs().unique().tolist() == [0.0, 2.5]
    assert (found != 0).sum() == 4
    assert torch.equal(found.sign()[found != 0], weight.sign()[found != 0])
    assert _round_trip(found, zeroed, levels, 8).parts["levels"].shape == (1, 1, 1)


def test_three_regions_and_salient_inputs_come_nearer() -> None:
    weight, squares, _ = _matrix(64, 256)
    weight[:, ::20] *= 6.0  # inputs of another size
    errors = []
    for how in (Binary(1, 0), Binary(3, 0), Binary(3, 30)):
        found, zeroed, levels = binarise(weight, squares, None, (4, 8), how=how)
        assert torch.equal(zeroed.reshape(64, -1, 8).sum(2), torch.full((64, 32), 4))
        assert torch.equal(found == 0, zeroed)
        errors.append(float((found - weight)[~zeroed].square().sum()))
        matrix = _round_trip(found, zeroed, levels, 8)
        assert (matrix.kept, matrix.rows, matrix.columns) == (4, 64, 256)
    assert errors[0] > errors[1] > errors[2]


def test_moving_the_errors_on_lowers_the_error_of_the_output() -> None:
    weight, squares, hessian = _matrix(32, 384, 1)

    def error(found: torch.Tensor) -> float:
        return float(((found - weight) @ hessian * (found - weight)).sum())

    assert error(binarise(weight, squares, hessian, (4, 8))[0]) < 0.8 * error(
        binarise(weight, squares, None, (4, 8))[0]
    )


@pytest.mark.parametrize(
    ("group", "how", "bits"),
    [
        # masks: log2 of 70, 56, 28 ways in whole bits, per 8; a sign per kept weight; 1.6 a region; levels 16 / 128 each.
        ((4, 8), Binary(1, 0), 7 / 8 + 1 / 2 + 16 / 128),
        ((6, 8), Binary(1, 0), 5 / 8 + 1 / 4 + 16 / 128),
        ((7, 8), Binary(1, 0), 3 / 8 + 1 / 8 + 16 / 128),
        ((4, 8), Binary(3, 0), 7 / 8 + 1 / 2 * (1 + 1.6) + 3 * 16 / 128),
        ((3, 8), Binary(3, 0), 6 / 8 + 5 / 8 * (1 + 1.6) + 3 * 16 / 128),
        ((2, 8), Binary(3, 0), 5 / 8 + 6 / 8 * (1 + 1.6) + 3 * 16 / 128),
    ],
)
def test_every_bit_is_counted(group: tuple[int, int], how: Binary, bits: float) -> None:
    weight, squares, hessian = _matrix(128, 256, 2)
    matrix = _round_trip(*binarise(weight, squares, hessian, group, how=how), group[1])
    assert matrix.bits == pytest.approx(bits + 256 / (128 * 256), abs=2e-3)  # and a bit per column for what is salient


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    rows=st.integers(1, 9), groups=st.integers(1, 20), pattern=st.sampled_from([(2, 4), (1, 4), (4, 8), (3, 8), (2, 8), (7, 8), (0, 8)]),
    seed=st.integers(0, 99), spread=st.sampled_from([0.0, 1e-20, 1.0, 1e20]), regions=st.sampled_from([1, 3]), salient=st.sampled_from([0, 1, 30]),
)  # fmt: skip
def test_what_is_written_is_read_back(
    rows: int, groups: int, pattern: tuple[int, int], seed: int, spread: float, regions: int, salient: int
) -> None:
    weight, squares, hessian = _matrix(rows, groups * pattern[1], seed)
    found, zeroed, levels = binarise(weight * spread, squares, hessian, pattern, how=Binary(regions, salient))
    assert torch.equal(found == 0, zeroed)
    _round_trip(found, zeroed, levels, pattern[1])


def test_matrices_that_are_zero_constant_or_have_outliers() -> None:
    squares, hessian = torch.ones(256), torch.eye(256)
    zero, zeroed, levels = binarise(torch.zeros(4, 256), squares, hessian, (4, 8))
    assert zero.abs().unique().tolist() == [0.0, LEAST_LEVEL]  # as good as zero, and counted as what stays
    _round_trip(zero, zeroed, levels, 8)
    same, zeroed, levels = binarise(torch.full((4, 256), -0.5), squares, hessian, (4, 8))
    assert same.unique().tolist() == [-0.5, 0.0]
    _round_trip(same, zeroed, levels, 8)
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(3))
    weight[:, 5] *= 100.0
    found, zeroed, levels = binarise(weight, squares, hessian, (4, 8))
    kept = ~zeroed
    assert int(kept[:, 5].sum()) >= 12  # only its smallest are zeroed
    assert float((found - weight)[:, 5][kept[:, 5]].square().mean()) < 0.3 * float(weight[:, 5].square().mean())
    others = kept.clone()
    others[:, 5] = False
    assert float((found - weight)[others].square().mean()) < 0.5  # in their block they keep levels of their own size
    _round_trip(found, zeroed, levels, 8)
    unseen = binarise(weight, torch.zeros(256), None, (4, 8))
    assert torch.equal(unseen[0], binarise(weight, torch.ones(256), None, (4, 8))[0])


@pytest.mark.parametrize(
    ("columns", "group", "message"),
    [(12, (4, 8), "must divide"), (16, (8, 8), "must stay"), (24, (2, 3), "must divide"), (8, (-1, 8), "must stay")],
)
def test_patterns_that_do_not_fit_are_refused(columns: int, group: tuple[int, int], message: str) -> None:
    with pytest.raises(OwledError, match=message):
        binarise(torch.ones(2, columns), torch.ones(columns), None, group)


def test_settings_and_weights_that_cannot_work_are_refused() -> None:
    for values in ((2, 0), (3, -1), (3, BLOCK + 1)):
        with pytest.raises(OwledError, match="regions are 1 or 3"):
            Binary(*values)
    with pytest.raises(OwledError, match="NaN"):
        binarise(torch.full((2, 8), math.nan), torch.ones(8), None, (4, 8))
    found, zeroed, levels = (part.numpy() for part in binarise(torch.ones(2, 8), torch.ones(8), None, (4, 8)))
    with pytest.raises(OwledError, match="none of the levels"):
        encode(found * 1.5, zeroed, levels, 8)
    zeroed[0, 0] ^= True
    with pytest.raises(OwledError, match="follow no pattern"):
        encode(found, zeroed, levels, 8)


def _file(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, Any]]:
    weight, squares, hessian = _matrix(8, 256)
    weight[:, ::20] *= 6.0
    write_binary(tmp_path / "a", {"m": _round_trip(*binarise(weight, squares, hessian, (4, 8)), 8)})
    with safe_open(tmp_path / "a", framework="numpy") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118, no mapping
        return tmp_path / "a", tensors, json.loads(stream.metadata()["binary"])


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path, tensors, header = _file(tmp_path)
    name, matrix = next(read_binary(path))
    assert (name, matrix.rows) == ("m", 8)

    def refused(changed: dict[str, np.ndarray], told: dict[str, Any], message: str) -> None:
        save_file(changed, tmp_path / "b", {"binary": json.dumps(told)})
        with pytest.raises(OwledError, match=message):
            list(read_binary(tmp_path / "b"))

    for part, found in tensors.items():
        refused({**tensors, part: found.reshape(-1)[:-1].copy()}, header, "parts of m|cannot be read")
        refused({**tensors, part: found.astype(np.float32)}, header, "parts of m|cannot be read")
        refused({key: value for key, value in tensors.items() if key != part}, header, "cannot be read")
    refused({**tensors, "m.masks": np.full_like(tensors["m.masks"], 255)}, header, "rank 127 of 70")
    refused({**tensors, "m.salient": ~tensors["m.salient"]}, header, "parts of m")
    for shape in (
        [8, 256, 5, 8],
        [8, 256, 0, 8],
        [8, 256, 4, 0],
        [-8, 256, 4, 8],
        [9, 256, 4, 8],
        [8, 248, 4, 8],
        [8, 256, 4],
        "wide",
    ):
        refused(tensors, {**header, "matrices": {"m": shape}}, "parts of m|cannot be read")
    refused(tensors, {**header, "format_version": 2}, "has format 2")
    for content in (b"", b"x" * 100):
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(OwledError, match="cannot be read"):
            list(read_binary(tmp_path / "b"))


def test_a_model_is_binarised_and_its_file_holds_it(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    config = PruneConfig(tmp_path / "model", tmp_path / "out", 0.5, "stbllm", "norm", pattern="4:8", dtype="float32")
    manifest = read_manifest(prune(config, tiny_batches("llama"), held_out=tiny_batches("llama")))
    assert sum(block.zeros for block in manifest.blocks) == 18432 // 2
    assert manifest.quality["pruned"]["loss"] > manifest.quality["dense"]["loss"]
    assert BINARY_NAME in verify(tmp_path / "out").files
    state = load_model(tmp_path / "out").state_dict()
    found = dict(read_binary(tmp_path / "out" / BINARY_NAME))
    assert len(found) == 14
    for name, matrix in found.items():
        np.testing.assert_array_equal(decode(matrix), state[f"{name}.weight"].numpy())
    again = replace(config, output=tmp_path / "again")
    prune(again, tiny_batches("llama"))
    assert (tmp_path / "again" / BINARY_NAME).read_bytes() == (tmp_path / "out" / BINARY_NAME).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "unstructured"}, "needs a pattern"),
        ({"bits": 4}, "bits"),
        ({"refine_steps": 3}, "refine"),
        ({"recovery_steps": 3}, "recovery"),
        ({"reconstruct_steps": 3}, "reconstruct"),
    ],
)
def test_what_would_leave_the_levels_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OwledError, match=message):
        replace(PruneConfig(Path("m"), Path("o"), 0.5, "stbllm", "uniform", pattern="4:8"), **changes).check()
