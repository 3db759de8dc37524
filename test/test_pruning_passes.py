"""Blocks replayed from recorded inputs give what the whole model gives, and fused statistics see the pruned weights."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TEXT_MODELS, VISION_MODELS, tiny_batches, tiny_model
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import find_structure
from owled_ros.pruning.blocks import Rule, advance, observe, prune_block
from owled_ros.pruning.lockstep import run_in_step
from owled_ros.pruning.passes import find_segments, forward_body, record
from owled_ros.pruning.plan import dense_statistics
from owled_ros.pruning.statistics import InputStatistics


@pytest.mark.parametrize("name", [*VISION_MODELS, *TEXT_MODELS])
def test_replayed_blocks_equal_the_models_own_pass(name: str) -> None:
    model, batches = tiny_model(name), tiny_batches(name)
    blocks = find_structure(model).blocks
    outputs: dict[str, list[torch.Tensor]] = {}
    for block in blocks:
        block.module.register_forward_hook(
            lambda _, __, output, key=block.name: outputs.setdefault(key, []).append(
                (output[0] if isinstance(output, tuple) else output).detach()
            )
        )
    with torch.no_grad():
        for batch in batches:
            forward_body(model, batch)
    expected = dict(outputs)
    outputs.clear()
    segments = find_segments(model, blocks, batches[:1])
    assert [block for segment in segments for block in segment.blocks]
    for index, segment in enumerate(segments):
        chunks = record(model, segments, index, batches)
        for block in segment.blocks:
            advance(block, chunks)
            for chunk, truth in zip(chunks, expected[block.name], strict=True):
                torch.testing.assert_close(chunk.hidden, truth, rtol=0, atol=1e-6)


def test_a_tower_that_never_runs_is_named() -> None:
    model = tiny_model("llava")
    with pytest.raises(OwledError, match=r"never runs model\.vision_tower"):
        find_segments(model, find_structure(model).blocks, tiny_batches("llama"))


def test_text_batches_may_stand_beside_images() -> None:
    model = tiny_model("llava")
    batches = [*tiny_batches("llama", count=1), *tiny_batches("llava", count=1)]
    segments = find_segments(model, find_structure(model).blocks, batches)
    calls = [len(record(model, segments, index, batches)) for index in range(len(segments))]
    assert calls == [1, 1, 2]  # vision tower, projector: the image batch only; language model: both


def test_statistics_by_hand() -> None:
    # One matrix, inputs (1, 2) and (3, 4) in one sequence: squares 1 + 9 and 4 + 16; X^T X = [[10, 14], [14, 20]].
    from owled_ros.pruning.statistics import InputStatistics

    seen = InputStatistics.empty(2, with_hessian=True)
    seen.add(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    assert seen.squares.tolist() == [10.0, 20.0]
    assert seen.hessian is not None
    assert seen.hessian.tolist() == [[10.0, 14.0], [14.0, 20.0]]
    seen.add(torch.tensor([[[9.0, 9.0], [1.0, 0.0]]]), token_mask=torch.tensor([[False, True]]))
    assert (seen.squares.tolist(), seen.tokens, seen.sequences) == ([11.0, 20.0], 3, 2)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_expert_statistics_equal_a_loop_over_the_routing(name: str) -> None:
    model, batches = tiny_model(name), tiny_batches(name, count=1)
    structure = find_structure(model)
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    matrix = next(matrix for matrix in structure.blocks[0].matrices if matrix.expert == 2 and "gate_up" in matrix.kind)
    hook = matrix.module.register_forward_pre_hook(lambda _, args: calls.append((args[0], args[1])))
    seen = dense_statistics(model, structure, batches)
    hook.remove()
    hidden, chosen = calls[0]
    routed = hidden[(chosen == 2).any(-1)]
    assert seen[matrix.name].tokens == len(routed)
    torch.testing.assert_close(seen[matrix.name].squares.float(), routed.square().sum(0))


def test_fused_statistics_follow_the_pruned_matrices_before() -> None:
    # The down projection must see the inputs that the already pruned gate and up projections produce.
    model, batches = tiny_model("llama"), tiny_batches("llama", count=3)
    block = find_structure(model).blocks[0]
    zeros = {matrix.name: matrix.size // 2 for matrix in block.matrices}
    segments = find_segments(model, [block], batches)
    dense = observe(block, record(model, segments, 0, batches), with_hessian=False, advance=False)
    down = block.matrices[-1]
    before = down.weight().clone()
    prune_block(block, record(model, segments, 0, batches), zeros, Rule("wanda"), "fused")
    pruned = observe(block, record(model, segments, 0, batches), with_hessian=False, advance=False)
    assert not torch.allclose(dense[down.name].squares, pruned[down.name].squares)
    score = (
        before.abs() * pruned[down.name].squares.float().sqrt()
    )  # on the pruned inputs: this is what must have ranked
    for row in range(down.rows):
        kept, gone = score[row][down.weight()[row] != 0], score[row][down.weight()[row] == 0]
        assert gone.max() <= kept.min() * (1 + 1e-5)


def test_layers_that_read_the_same_tensor_share_one_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    # A LLaMA block has seven matrices and four inputs: q, k and v share one, gate and up another.
    model, batches = tiny_model("llama"), tiny_batches("llama", count=3)
    block = find_structure(model).blocks[0]
    chunks = record(model, find_segments(model, [block], batches), 0, batches)
    sums: set[int] = set()
    add = InputStatistics.add

    def counted(self: InputStatistics, inputs: torch.Tensor, token_mask: torch.Tensor | None = None) -> None:
        sums.add(self.squares.data_ptr())
        kept.append(self)
        add(self, inputs, token_mask)

    kept: list[InputStatistics] = []  # keeps addresses from being used twice
    monkeypatch.setattr(InputStatistics, "add", counted)
    prune_block(block, chunks, {matrix.name: 1 for matrix in block.matrices}, Rule("wanda"), "fused")
    assert len(block.matrices) == 7
    assert len(sums) == 4


def test_run_in_step_handles_each_stop_once_with_all_inputs() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    seen: list[tuple[int, list[float]]] = []

    def handle(module: nn.Module, calls: list[tuple[int, tuple[tuple[torch.Tensor, ...], dict[str, object]]]]) -> None:
        place = list(layers).index(module)  # type: ignore[arg-type]
        seen.append((place, [float(arguments[0][0].sum()) for _, arguments in calls]))
        module.weight.data.fill_(float(place + 1))  # type: ignore[union-attr]

    jobs = [lambda value=value: layers[1](layers[0](torch.full((1, 2), value))) for value in (1.0, 10.0)]
    results = run_in_step(jobs, list(layers), handle)
    # weights of ones: (1, 1) -> (2, 2); then weights of twos: (2, 2) -> (8, 8); the other job ten times that.
    assert seen == [(0, [2.0, 20.0]), (1, [4.0, 40.0])]
    assert [result.tolist() for result in results] == [[[8.0, 8.0]], [[80.0, 80.0]]]


def test_run_in_step_raises_what_a_job_raises_and_ends_the_others() -> None:
    layer = nn.Linear(2, 2)

    def fails() -> None:
        layer(torch.zeros(1, 2))
        raise ValueError("broken job")

    with pytest.raises(ValueError, match="broken job"):
        run_in_step([lambda: layer(torch.zeros(1, 2)), fails], [layer], lambda *_: None)
    assert not layer._forward_pre_hooks
