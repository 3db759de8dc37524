"""Weights aimed at the dense model's outputs: the least squares by hand, what is added to the hidden state, and that drift falls."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_batches, tiny_model
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Block, Matrix, find_structure
from owled_ros.models.load import load_model
from owled_ros.pruning import drift as drift_module
from owled_ros.pruning.blocks import advance
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.drift import DenseTwin, Drift
from owled_ros.pruning.lockstep import run_in_step
from owled_ros.pruning.passes import HIDDEN, Chunk, find_segments, record, record_entering, telling_batches
from owled_ros.pruning.prune import prune
from owled_ros.pruning.residual import residual_gains

C, T = 3, 40


class Adding(nn.Module):
    """A block that adds `first`, `second` and a norm of `third` to its hidden state, each its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(C, C, bias=False) for _ in range(3))
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, -1.0]))
        self.norm = nn.LayerNorm(C)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.first(hidden.tanh())
        hidden = hidden + self.scale * self.second(hidden.sin())
        return hidden + self.norm(self.third(hidden))


def _adding() -> Block:
    torch.manual_seed(0)
    module = Adding().requires_grad_(False)
    matrices = [Matrix(name, name, getattr(module, name), "weight", C, C) for name in ("first", "second", "third")]
    return Block("block", "language", module, tuple(matrices))


def _chunks(count: int = 2, mask: torch.Tensor | None = None) -> list[Chunk]:
    generator = torch.Generator().manual_seed(1)
    return [
        Chunk(torch.randn(1, T, C, generator=generator), {"block": ((HIDDEN,), {})}, token_mask=mask)
        for _ in range(count)
    ]


def _pair(block: Block, mask: torch.Tensor | None = None) -> tuple[list[Chunk], DenseTwin]:
    """What enters the block in the pruned model, and its twin with what enters that."""
    chunks = _chunks(mask=mask)
    generator = torch.Generator().manual_seed(2)
    return chunks, DenseTwin(block, [c.hidden + 0.3 * torch.randn(1, T, C, generator=generator) for c in chunks])


def test_only_what_is_added_directly_has_gains() -> None:
    block = _adding()
    modules = [matrix.module for matrix in block.matrices]
    gains = residual_gains(block, _chunks()[0], modules)
    assert list(gains) == modules[:2]  # the third has a norm behind it
    torch.testing.assert_close(gains[modules[0]], torch.ones(C))
    torch.testing.assert_close(gains[modules[1]], torch.tensor([0.5, 2.0, -1.0]))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama", {"o_proj": 1.0, "down_proj": 1.0}),
        ("phi", {"dense": 1.0, "fc2": 1.0}),  # attention and MLP side by side
        ("qwen3_moe", {"o_proj": 1.0}),  # the experts behind it stand still
        ("internvl", {"projection_layer": 0.1, "fc2": 0.1}),  # LayerScale
        ("gemma3", {"out_proj": 1.0, "fc2": 1.0}),
        ("git", {"out_proj": 1.0, "fc2": 1.0}),
    ],
)
def test_gains_of_architectures(name: str, found: dict[str, float]) -> None:
    block, chunk = _first_blocks(name)[0]
    plain = {m.module: m.kind for m in block.matrices if m.expert is None and not m.read}
    gains = {plain[module].split(".")[-1]: gain for module, gain in residual_gains(block, chunk, plain).items()}
    assert gains.keys() == found.keys()
    for kind, gain in gains.items():
        torch.testing.assert_close(gain, torch.full_like(gain, found[kind]), rtol=0.01, atol=0.0)


@pytest.mark.parametrize("name", ["gemma3", "git"])
def test_norms_behind_the_layers_leave_no_gains(name: str) -> None:
    block, chunk = _first_blocks(name)[-1]
    assert block.component == "language"
    assert residual_gains(block, chunk, [m.module for m in block.matrices]) == {}


def test_a_projector_hands_nothing_on() -> None:
    block, chunk = next(found for found in _first_blocks("llava") if found[0].component == "projector")
    assert residual_gains(block, chunk, [m.module for m in block.matrices]) == {}


def _first_blocks(name: str) -> list[tuple[Block, Chunk]]:
    model, batches = tiny_model(name), tiny_batches(name)
    segments = find_segments(model, find_structure(model).blocks, *telling_batches(batches))
    return [(segment.blocks[0], record(model, segments, index, batches)[0]) for index, segment in enumerate(segments)]


@pytest.mark.parametrize("masked", [False, True])
def test_the_aim_is_the_least_squares_of_what_the_dense_model_gives(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_module, "DAMPING", 1e-9)
    block = _adding()
    mask = torch.arange(T)[None] < 30 if masked else None
    chunks, twin = _pair(block, mask)
    drift = Drift(block, twin, chunks)
    second = block.matrices[1]
    generator = torch.Generator().manual_seed(3)
    own = {place: torch.randn(1, T, C, generator=generator) for place in range(2)}
    beside = {place: torch.randn(1, T, C, generator=generator) for place in range(2)}
    real = 30 if masked else T
    x, dense, hidden = (
        torch.cat([tensor[0, :real] for tensor in tensors])
        for tensors in (
            own.values(), beside.values(), [there - c.hidden for there, c in zip(twin.hidden, chunks, strict=True)],
        )
    )  # fmt: skip
    weight = second.weight().clone()
    target = dense @ weight.t() + hidden / torch.tensor([0.5, 2.0, -1.0])
    compared = drift.compare(own, beside, x.t() @ x)
    assert compared is not None
    torch.testing.assert_close(
        drift.aim(second, own, compared), torch.linalg.lstsq(x, target).solution.t(), rtol=1e-3, atol=1e-4
    )


def test_what_is_zero_stays_zero_and_without_drift_nothing_moves() -> None:
    block = _adding()
    chunks = _chunks()
    first = block.matrices[0]
    first.weight()[0, 1] = 0.0
    own = {place: chunk.hidden for place, chunk in enumerate(chunks)}
    for twin, moves in ((DenseTwin(block, [chunk.hidden for chunk in chunks]), False), (_pair(block)[1], True)):
        drift = Drift(block, twin, chunks)
        gram = sum(chunk.hidden[0].t() @ chunk.hidden[0] for chunk in chunks)
        beside = dict(enumerate(twin.hidden))
        compared = drift.compare(own, beside, torch.as_tensor(gram))
        assert compared is not None
        aim = drift.aim(first, own, compared)
        assert aim[0, 1] == 0.0
        assert torch.allclose(aim, first.weight(), atol=1e-6) is not moves


def test_what_a_pruned_matrix_gives_less_is_asked_of_the_next() -> None:
    block = _adding()
    chunks = _chunks()
    twin = DenseTwin(block, [chunk.hidden for chunk in chunks])
    drift = Drift(block, twin, chunks)
    first, second = block.matrices[:2]
    own = {place: chunk.hidden.tanh() for place, chunk in enumerate(chunks)}
    gram = torch.as_tensor(sum(x[0].t() @ x[0] for x in own.values()))
    compared = drift.compare(own, own, gram)
    assert compared is not None
    torch.testing.assert_close(drift.aim(second, own, compared), second.weight())
    lost = first.weight().clone()
    first.weight().zero_()
    drift.note(first, own, own)
    asked = drift.aim(second, own, compared) - second.weight()
    share = torch.linalg.solve(gram + drift_module.DAMPING * gram.diagonal().mean() * torch.eye(C), gram)
    torch.testing.assert_close(asked, lost @ share.t() / torch.tensor([[0.5], [2.0], [-1.0]]), rtol=1e-4, atol=1e-5)


def test_inputs_that_are_not_the_same_tokens_are_not_compared() -> None:
    block = _adding()
    chunks, twin = _pair(block)
    drift = Drift(block, twin, chunks)
    whole = {place: torch.randn(1, T, C) for place in range(2)}
    some = {place: torch.randn(7, C) for place in range(2)}  # what a router sent to one expert
    gram = torch.eye(C)
    assert drift.compare(whole, whole, gram) is not None
    assert drift.compare(some, some, gram) is None
    assert drift.compare({0: whole[0]}, {0: whole[0]}, gram) is None
    assert drift.compare(whole, {0: whole[0], 1: some[1]}, gram) is None
    assert drift.compare(whole, {place: x * torch.nan for place, x in whole.items()}, gram) is None


def test_a_twin_stays_dense_while_its_block_is_pruned() -> None:
    block = _adding()
    chunks = _chunks()
    twin = DenseTwin(block, [chunk.hidden for chunk in chunks])
    before = [block.module(chunk.hidden) for chunk in chunks]
    for matrix in block.matrices:
        assert torch.equal(twin.weight(matrix), matrix.weight())
        matrix.weight().zero_()
    advance(block, chunks)
    twin.advance(chunks)
    for there, chunk, expected in zip(twin.hidden, chunks, before, strict=True):
        torch.testing.assert_close(there, expected)
        assert not torch.equal(chunk.hidden, expected)


def test_a_block_that_cannot_be_copied_is_refused_with_a_way_out() -> None:
    block = _adding()
    block.module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(OwledError, match="prune with --keep-drift"):
        DenseTwin(block, [])


def test_twins_halt_at_the_stops_of_what_they_are_twins_of() -> None:
    stop, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    seen: list[list[int]] = []
    jobs = [lambda: stop(torch.zeros(1, 2)), lambda: twin(torch.ones(1, 2))]
    run_in_step(jobs, [stop], lambda module, calls: seen.append([index for index, _ in calls]), {twin: stop})
    assert seen == [[0, 1]]


def test_what_enters_every_segment_is_recorded_in_one_pass() -> None:
    model, batches = tiny_model("llava"), tiny_batches("llava")
    segments = find_segments(model, find_structure(model).blocks, *telling_batches(batches))
    for index, entering in enumerate(record_entering(model, segments, batches)):
        one_by_one = [chunk.hidden for chunk in record(model, segments, index, batches)]
        assert len(entering) == len(one_by_one) == len(batches)
        for one, other in zip(entering, one_by_one, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "opt", "llava", "internvl", "qwen3_vl", "qwen3_moe"])
@pytest.mark.parametrize("score", ["sparsegpt", "admm"])
def test_the_model_comes_closer_to_the_dense_one(name: str, score: str, tmp_path: Path) -> None:
    dense, batches = tiny_model(name), tiny_batches(name, count=8, sequences=4)
    dense.save_pretrained(tmp_path / "model")
    apart = {}
    for follows in (False, True):
        config = PruneConfig(
            tmp_path / "model", tmp_path / "out", 0.6, score, "uniform", dtype="float32", correct_drift=follows
        )
        prune(config, batches)
        pruned = load_model(tmp_path / "out")
        with torch.no_grad():
            apart[follows] = sum(float((pruned(**b).logits - dense(**b).logits).square().mean()) for b in batches)
    assert apart[True] < apart[False]


def test_it_is_on_where_weights_make_up_for_zeros() -> None:
    config = PruneConfig(Path("m"), Path("o"))
    assert config.corrects_drift
    assert replace(config, score="sparsegpt").corrects_drift
    assert not replace(config, statistics="block").corrects_drift
    assert not replace(config, score="wanda").corrects_drift
    assert replace(config, score="wanda", refine_steps=10, correct_drift=True).corrects_drift


@pytest.mark.parametrize(
    "changes", [{"statistics": "block"}, {"score": "wanda"}, {"score": "stbllm", "pattern": "4:8", "sparsity": 0.5}]
)
def test_what_cannot_correct_drift_is_refused(changes: dict[str, Any]) -> None:
    config = replace(PruneConfig(Path("m"), Path("o"), allocation="uniform", correct_drift=True), **changes)
    with pytest.raises(OwledError, match="drift is corrected by the weights that stay"):
        config.check()
