"""Weights without their zeros for a GPU on a CPU: what is chosen when, whole models over emulated kernels, and reasons."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulated_kernels import emulated_run
from tiny_models import tiny_batches, tiny_model
from torch import nn

from owled_ros.compute_type import EXACT, FASTEST, SMALLEST, SPARSE_GOALS
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import load_engine
from owled_ros.models.int8_weights import Int8Linear, linears, quantise, widen
from owled_ros.models.sparse_weights import Chooser, SparseWeightLinear, put_sparse, put_sparse_or_say_why
from owled_ros.sparse import cuda_kernels
from owled_ros.sparse.cuda_kernels import multiply, shapes_of
from owled_ros.sparse.deltas import pack_deltas
from owled_ros.sparse.tiles import pack_tiles

SHARED = 227 * 1024


def pruned(rows: int, columns: int, density: float) -> nn.Linear:
    """Give a layer of which so many weights are not zero."""
    torch.manual_seed(rows + columns)
    layer = nn.Linear(columns, rows).bfloat16()
    with torch.no_grad():
        layer.weight *= torch.rand(rows, columns) < density
    return layer


def times(dense: float, int8: float, sparse: float) -> Callable[[Callable[[], torch.Tensor]], float]:
    """Give a timer that knows every product by what it returns: (1, R) of a layer, (R) of a kernel; the first layer is dense."""
    layers = [dense, int8]

    def timer(product: Callable[[], torch.Tensor]) -> float:
        return sparse if product().dim() == 1 else layers.pop(0)

    return timer


def chooser(goal: str, *told: float) -> Chooser:
    """Give a chooser for which products take so long."""
    return Chooser(goal, emulated_run(), SHARED, None, times(*told))


@pytest.mark.parametrize(
    ("goal", "told", "kind"),
    [
        (FASTEST, (4.0, 2.0, 1.9), SparseWeightLinear),
        (FASTEST, (4.0, 2.0, 2.1), Int8Linear),  # dense int8 is faster
        (SMALLEST, (4.0, 2.0, 2.1), SparseWeightLinear),
        (SMALLEST, (4.0, 2.0, 4.1), Int8Linear),  # slower than what it replaces
        (EXACT, (4.0, 0.0, 3.9), SparseWeightLinear),
        (EXACT, (4.0, 0.0, 4.1), nn.Linear),
    ],
)
def test_the_goal_and_the_times_choose(goal: str, told: tuple[float, float, float], kind: type[nn.Module]) -> None:
    layer = pruned(32, 256, 0.4)
    choice = chooser(goal, *told)
    assert type(choice.layer(layer)) is kind
    assert sum(choice.chosen.values()) == 1


@pytest.mark.parametrize("goal", SPARSE_GOALS)
def test_a_matrix_without_zeros_is_neither_packed_nor_timed(goal: str) -> None:
    def never(product: Callable[[], torch.Tensor]) -> float:
        raise AssertionError

    choice = Chooser(goal, emulated_run(), SHARED, None, never)
    assert not isinstance(choice.layer(pruned(16, 128, 1.0)), SparseWeightLinear)
    assert choice.bytes_now == choice.bytes_dense == 16 * 128 * 2 if goal == EXACT else 16 * 128 + 16 * 2


def test_like_matrices_are_timed_once_and_bytes_are_counted() -> None:
    choice = chooser(SMALLEST, 4.0, 2.0, 2.1)  # its timer knows one dense product
    layers = [choice.layer(pruned(64, 512, 0.4)) for _ in range(3)]
    assert choice.chosen == {"tiles": 3}
    assert len(choice.timings) == 1
    assert choice.bytes_now == sum(layer.packed.nbytes for layer in layers if isinstance(layer, SparseWeightLinear))
    assert choice.bytes_dense == 3 * (64 * 512 + 64 * 4 * 2)
    assert choice.words() == f"smallest-int8: 3 matrices as tiles; {choice.bytes_now / 1e9:.3g} GB, 0.55 of dense int8"


def test_a_kernel_that_multiplies_wrongly_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(name: str, blocks: int, threads: int, shared: int, arguments: list[Any]) -> None:
        emulated_run()(name, blocks, threads, shared, arguments)
        arguments[4].mul_(1.1)

    choice = Chooser(SMALLEST, wrong, SHARED, None, times(4.0, 2.0, 1.0))
    assert isinstance(choice.layer(pruned(32, 256, 0.4)), Int8Linear)
    assert "multiplies wrongly here (Tiles, blocks (16, 2))" in caplog.text


@pytest.mark.parametrize("goal", [SMALLEST, EXACT])
def test_a_layer_multiplies_one_token_and_many(goal: str) -> None:
    layer = pruned(24, 256, 0.4)
    found = chooser(goal, 4.0, 2.0, 1.0).layer(layer)
    assert isinstance(found, SparseWeightLinear)
    plain = layer if goal == EXACT else copy.deepcopy(layer)
    if goal == SMALLEST:
        plain.weight = nn.Parameter(widen(*quantise(layer.weight.detach()), torch.bfloat16))
    for shape in ((1, 1, 256), (256,), (1, 3, 256)):
        x = torch.randn(shape).bfloat16()
        assert found(x).shape == plain(x).shape
        assert torch.allclose(found(x).float(), plain(x).float(), atol=2e-2, rtol=1e-2)


def test_a_whole_model_decodes_with_packed_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_kernels, "DELTA_SHAPES", ((4, 1),))
    model = tiny_model("llava").bfloat16()
    with torch.no_grad():
        inner = [layer for _, _, layer in linears(model) if layer is not model.get_output_embeddings()]
        for layer in inner:
            layer.weight *= torch.rand(layer.weight.shape) < 0.4
    same = copy.deepcopy(model)
    assert all(shapes_of(pack_deltas(layer.weight.detach()), SHARED) for layer in inner)
    told = iter([1.0, 2.0] * len(inner))  # the kernel, the dense product
    words = put_sparse(model, Chooser(EXACT, emulated_run(), SHARED, None, lambda product: next(told)))
    assert words.startswith(f"sparse-bf16: {len(inner)} matrices as deltas, 1 matrices as dense bfloat16; ")
    batch = {key: value for key, value in tiny_batches("llava")[0].items() if key != "labels"}
    batch = {key: value.bfloat16() if value.is_floating_point() else value for key, value in batch.items()}
    with torch.inference_mode():
        found, want = (each(**batch, use_cache=True) for each in (model, same))
        assert torch.equal(found.logits, want.logits)  # a prompt: the same matrices, widened
        token = want.logits[:1, -1:].argmax(-1)
        rows = [each.get_decoder()(token).last_hidden_state for each in (model, same)]
    assert torch.allclose(rows[0].float(), rows[1].float(), atol=5e-2, rtol=5e-2)


def test_without_kernels_weights_stay_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llava")
    facts = SimpleNamespace(major=7, minor=5, name="T4")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    cuda_kernels.compiled.cache_clear()
    words = put_sparse_or_say_why(model, "cuda:0", "bfloat16", SMALLEST)
    assert words == "bfloat16, not smallest-int8: sparse kernels need compute capability 8.0, T4 has 7.5"
    words = put_sparse_or_say_why(model, "cuda:0", "float16", EXACT)
    assert words == "float16, not sparse-bf16: sparse kernels multiply bfloat16, cuda:0 computes in float16"

    def fails(*told: object) -> None:
        raise OSError("CUDA_HOME is not set\nmore")

    facts.major = 9
    monkeypatch.setattr(torch.cuda, "_compile_kernel", fails)
    words = put_sparse_or_say_why(model, "cuda:0", "bfloat16", EXACT)
    assert words.endswith("cannot be compiled here (OSError: CUDA_HOME is not set)")
    assert not any(isinstance(module, SparseWeightLinear) for module in model.modules())


@pytest.mark.parametrize("goal", SPARSE_GOALS)
def test_on_a_cpu_they_are_refused_in_words(goal: str) -> None:
    with pytest.raises(OwledError, match=rf"{goal!r} is for CUDA, the device is cpu; on the CPU `owled pack`"):
        load_engine(None, dtype=goal)


def test_what_is_launched_is_compiled_from_both_texts_and_given_room(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Kernel:
        def __init__(self, source: str, name: str) -> None:
            assert f"{name}(" in source
            assert source.index("multiply_add") < source.index(name)
            self.name = name

        def set_shared_memory_config(self, size: int) -> None:
            given.append((self.name, size))

        def __call__(self, blocks: object, threads: object, arguments: list[Any], shared_mem: int) -> None:
            given.append((self.name, blocks, threads, shared_mem))

    facts = SimpleNamespace(major=9, minor=0, name="H100", shared_memory_per_block_optin=SHARED)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(torch.cuda, "_compile_kernel", Kernel)
    cuda_kernels.compiled.cache_clear()
    run, most = cuda_kernels.compiled("cuda:0")
    cuda_kernels.compiled.cache_clear()
    assert most == SHARED
    assert given == [(name, SHARED) for name in cuda_kernels.KERNELS]
    tiles = pack_tiles(*quantise(pruned(40, 256, 0.4).weight.detach()))
    multiply(run, tiles, torch.zeros(256).bfloat16(), None, (8, 1))
    # 40 rows: 3 strips; table 128, totals 8 * 64, two groups of 256 and 16 for their scales, 8 warps with a ring of four slots
    assert given[-1] == ("tiles_product", (3, 1, 1), (256, 1, 1), 128 + 8 * 64 + 2 * 256 + 16 + 8 * 4 * tiles.slot)
