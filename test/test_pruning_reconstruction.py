"""Attention and MLP fitted apart to the dense model: the error falls, zeros stay, and everything that holds of a run without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.components import find_structure
from owled_ros.models.load import load_model
from owled_ros.models.manifest import artifact_id, read_manifest
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.passes import find_segments, record
from owled_ros.pruning.prune import prune
from owled_ros.pruning.reconstruction import Part, dense_parts, reconstruct


def _entered(name: str) -> tuple[Any, Any, list[Any], list[Part]]:
    """A tiny model, its first block, the chunks that enter it, and the block's parts."""
    model, batches = tiny_model(name), tiny_batches(name)
    structure = find_structure(model).only(("language",))
    segments = find_segments(model, structure.blocks, batches)
    chunks = record(model, segments, 0, batches)
    block = segments[0].blocks[0]
    return model, block, chunks, dense_parts(block, chunks, [chunk.hidden for chunk in chunks])[1]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("llama", ["LlamaAttention", "LlamaMLP"]),
        ("gpt2", ["GPT2Attention", "GPT2MLP"]),
        ("opt", ["OPTAttention", "OPTDecoderLayer"]),  # fc1 and fc2 stand in the block itself
        ("qwen3_moe", ["Qwen3MoeAttention", "Qwen3MoeSparseMoeBlock"]),
        ("mamba", ["MambaMixer"]),  # reads a weight without calling its module
    ],
)
def test_parts_are_found(name: str, modules: list[str]) -> None:
    _, block, chunks, parts = _entered(name)
    assert [type(part.module).__name__ for part in parts] == modules
    assert all(len(part.targets) == len(chunks) for part in parts)
    held = [id(parameter) for part in parts for parameter in part.parameters]
    assert len(held) == len(set(held)) == len({id(getattr(m.module, m.parameter)) for m in block.matrices})


def test_targets_are_what_the_dense_parts_give() -> None:
    model, block, chunks, parts = _entered("llama")
    hidden = chunks[0].hidden
    _, mlp = parts
    with torch.no_grad():
        after = hidden + parts[0].targets[0]
        expected = model.model.layers[0].mlp(block.module.post_attention_layernorm(after))
    torch.testing.assert_close(mlp.targets[0], expected)


def test_a_part_is_fitted_and_zeros_stay() -> None:
    _, block, chunks, parts = _entered("llama")
    generator = torch.Generator().manual_seed(0)
    for matrix in block.matrices:
        matrix.weight()[torch.rand(matrix.rows, matrix.columns, generator=generator) < 0.5] = 0.0
    zeros = {matrix.name: matrix.weight() == 0 for matrix in block.matrices}

    def error() -> float:
        _, again = dense_parts(block, chunks, [chunk.hidden for chunk in chunks])
        return sum(
            float((one - other).square().mean())
            for part, now in zip(parts, again, strict=True)
            for one, other in zip(part.targets, now.targets, strict=True)
        )

    before, entering = error(), [chunk.hidden for chunk in chunks]
    reconstruct(block, chunks, entering, parts, 240, 0)
    assert error() < 0.6 * before
    assert all(torch.equal(matrix.weight() == 0, zeros[matrix.name]) for matrix in block.matrices)
    assert all(chunk.hidden is hidden for chunk, hidden in zip(chunks, entering, strict=True))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in block.module.parameters())


def test_a_part_that_does_not_become_better_keeps_its_weights() -> None:
    _, block, chunks, parts = _entered("llama")  # nothing was pruned: no step can help
    before = {matrix.name: matrix.weight().clone() for matrix in block.matrices}
    reconstruct(block, chunks, [chunk.hidden for chunk in chunks], parts, 3, 0)
    assert all(torch.equal(matrix.weight(), before[matrix.name]) for matrix in block.matrices)


def _config(model: Path, output: Path, **changes: Any) -> PruneConfig:
    return replace(
        PruneConfig(model, output, 0.6, "wanda", "uniform", dtype="float32", reconstruct_steps=30), **changes
    )


@pytest.mark.parametrize("name", ["llava", "qwen3_moe", "opt"])
def test_a_model_comes_closer_to_the_dense_one_with_the_same_zeros_in_number(name: str, tmp_path: Path) -> None:
    dense, batches = tiny_model(name), tiny_batches(name)
    dense.save_pretrained(tmp_path / "model")
    apart = {}
    for steps in (None, 30):
        manifest = read_manifest(prune(_config(tmp_path / "model", tmp_path / "out", reconstruct_steps=steps), batches))
        assert sum(block.zeros for block in manifest.blocks) == round(0.6 * sum(b.parameters for b in manifest.blocks))
        pruned = load_model(tmp_path / "out")
        with torch.no_grad():
            apart[steps] = sum(float((pruned(**b).logits - dense(**b).logits).square().mean()) for b in batches)
    assert apart[30] < 0.9 * apart[None]


def test_the_same_seed_gives_the_same_bits_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    config = _config(tmp_path / "llama", tmp_path / "whole", score="sparsegpt", reconstruct_steps=5)
    for output in ("whole", "again"):
        prune(replace(config, output=tmp_path / output), tiny_batches("llama"))
    seen: list[str] = []

    def cancelled() -> bool:
        return len(seen) == 2  # the first block is done

    with pytest.raises(OwledError, match="cancelled in stage prune"):
        prune(
            replace(config, output=tmp_path / "cut"), tiny_batches("llama"), cancelled=cancelled,
            progress=lambda step: seen.append(step.stage) if step.stage == "prune" or not seen else None,
        )  # fmt: skip
    prune(replace(config, output=tmp_path / "cut"), tiny_batches("llama"))
    names = {artifact_id(read_manifest(tmp_path / place)) for place in ("whole", "again", "cut")}
    assert len(names) == 1


def test_a_model_in_half_precision_is_fitted_in_single(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "llama")
    prune(_config(tmp_path / "llama", tmp_path / "out", dtype="auto"), tiny_batches("llama"))
    assert load_model(tmp_path / "out", dtype=None).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": "oneshot"}, "oneshot never sees"),
        ({"reconstruct_steps": -1}, "not negative"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OwledError, match=message):
        _config(Path("m"), Path("o"), **changes).check()


@pytest.mark.parametrize("mixes", [False, True])
def test_steps_are_taken_on_single_sequences_unless_a_part_mixes_them(
    mixes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, block, chunks, _ = _entered("llama")
    assert len(chunks[0].hidden) > 1
    mlp, forward = block.module.mlp, block.module.mlp.forward
    if mixes:
        monkeypatch.setattr(mlp, "forward", lambda hidden: forward(hidden - hidden.mean(0, keepdim=True)))
    entering = [chunk.hidden for chunk in chunks]
    part = dense_parts(block, chunks, entering)[1][1]
    with torch.no_grad():
        for parameter in part.parameters:
            parameter.mul_(1.5)
    fitted_on: set[int] = set()

    def note(module: Any, args: Any) -> None:
        if torch.is_grad_enabled():
            fitted_on.add(len(args[0]))

    mlp.register_forward_pre_hook(note)
    reconstruct(block, chunks, entering, [part], 5, 0)
    assert fitted_on == ({len(chunk.hidden) for chunk in chunks} if mixes else {1})
