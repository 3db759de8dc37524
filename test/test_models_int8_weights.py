"""int8 weights for a GPU on a CPU: the codes of packed files, the kernel over an emulated warp, whole models, and reasons."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_batches, tiny_model
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models import int8_weights
from owled_ros.models.driving_model import load_engine
from owled_ros.models.int8_weights import Int8Linear, put_int8, put_int8_or_say_why, quantise, widen
from owled_ros.sparse.format import Role
from owled_ros.sparse.quantise import pack_matrix, unpack_matrix

HERE = Path(__file__).parent
COMPILER = shutil.which("c++") or shutil.which("g++")


def random_matrix(rows: int, columns: int) -> torch.Tensor:
    """Give weights of very different sizes, with zeros, as pruned models have."""
    generator = torch.Generator().manual_seed(rows * columns)
    weight = torch.randn(rows, columns, generator=generator) * 10.0 ** torch.randn(rows, 1, generator=generator)
    return weight * (torch.rand(rows, columns, generator=generator) > 0.5)


@pytest.mark.parametrize(("rows", "columns"), [(3, 16), (8, 128), (5, 192), (16, 272)])
def test_the_codes_are_those_of_packed_files(rows: int, columns: int) -> None:
    weight = random_matrix(rows, columns)
    weight[0] = 0.0
    packed = pack_matrix("a", Role.OTHER, -1, weight.numpy(), dense_below=2.0)
    assert torch.equal(widen(*quantise(weight), torch.float32), torch.from_numpy(unpack_matrix(packed)))
    halves = weight.bfloat16()
    exact = pack_matrix("a", Role.OTHER, -1, halves.float().numpy(), dense_below=2.0)
    assert torch.equal(widen(*quantise(halves), torch.float32), torch.from_numpy(unpack_matrix(exact)))


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32])
def emulated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[torch.dtype, ctypes.CDLL]:
    """Give the kernel for a type of numbers, compiled for the CPU."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("kernel") / "kernel.so"
    told = [f'-DKERNEL="{int8_weights.SOURCE}"', *(["-DFLOAT_INPUT"] if request.param == torch.float32 else [])]
    how = ["-x", "c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-Wno-unknown-pragmas"]
    subprocess.run([COMPILER, *how, *told, str(HERE / "cuda_on_cpu.h"), "-o", str(library)], check=True)
    return request.param, ctypes.CDLL(str(library))


@pytest.mark.parametrize(("rows", "columns", "biased"), [(1, 16, True), (9, 528, False), (19, 1040, True)])
def test_the_kernel_multiplies_as_the_widened_matrix(
    emulated: tuple[torch.dtype, ctypes.CDLL], rows: int, columns: int, biased: bool
) -> None:
    dtype, library = emulated
    codes, scales = quantise(random_matrix(rows, columns))
    x, bias = torch.randn(columns).to(dtype), torch.randn(rows).to(dtype)
    y = torch.full((rows,), torch.nan, dtype=dtype)
    blocks = -(-rows // (int8_weights.ROWS * int8_weights.WARPS))
    places = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (codes, scales, x, bias, y)]
    library.run(*places, rows, columns, int(biased), blocks, int8_weights.WARPS)
    want = widen(codes, scales, torch.float64) @ x.double() + (bias.double() if biased else 0.0)
    size = widen(codes, scales, torch.float64).abs() @ x.double().abs() + bias.double().abs()
    allowed = size * (2**-8 if dtype == torch.bfloat16 else 1e-6)
    assert bool(((y.double() - want).abs() <= allowed).all())


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_model_computes_with_the_widened_weights(name: str) -> None:
    model, same = tiny_model(name), tiny_model(name)
    table = model.get_input_embeddings().weight.detach().clone()
    assert put_int8(model, None) > 0.9
    assert isinstance(model.get_output_embeddings(), Int8Linear)
    assert not any(isinstance(m, Int8Linear) for n, m in model.named_modules() if "visual" in n or "vision" in n)
    for path, layer in same.named_modules():
        if isinstance(model.get_submodule(path), Int8Linear):
            assert isinstance(layer, nn.Linear)
            layer.weight = nn.Parameter(widen(*quantise(layer.weight.detach()), torch.float32))
    batch = {key: value for key, value in tiny_batches(name)[0].items() if key != "labels"}
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, same(**batch).logits)
    assert torch.equal(model.get_input_embeddings().weight, table)  # a tied table keeps its own


def test_one_token_goes_to_the_kernel_and_a_prompt_does_not() -> None:
    seen = []

    def multiply(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return widen(codes, scales, x.dtype) @ x + (0.0 if bias is None else bias)

    linear = nn.Linear(32, 5)
    layer, plain = Int8Linear(linear, multiply), Int8Linear(linear, None)
    with torch.inference_mode():
        for shape in ((1, 1, 32), (1, 3, 32), (32,)):
            x = torch.randn(shape)
            assert torch.allclose(layer(x), plain(x), atol=1e-6)
            assert layer(x).shape == linear(x).shape
    assert seen == [(32,), (32,)] * 2


def test_without_its_kernel_the_weights_stay_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llava")

    def fails(*told: object, **options: object) -> None:
        raise OSError("CUDA_HOME is not set\nmore")

    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "_compile_kernel", fails)
    words = put_int8_or_say_why(model, "cuda:0", "bfloat16")
    assert words == "bfloat16, not int8: its kernel cannot be compiled here (OSError: CUDA_HOME is not set)"
    assert not any(isinstance(module, Int8Linear) for module in model.modules())
    monkeypatch.setattr(int8_weights, "compiled", lambda device, dtype: None)
    assert put_int8_or_say_why(model, "cuda:0", "float32").startswith("int8, ")


def test_on_a_cpu_int8_is_refused_in_words() -> None:
    with pytest.raises(OwledError, match=r"'int8' is for CUDA, the device is cpu; on the CPU `owled pack`"):
        load_engine(None, dtype="int8")


def test_the_rounding_keeps_what_is_largest() -> None:
    weight = torch.tensor([[np.nextafter(np.float32(127 * 1.00390625), np.float32(1e9)), *[0.0] * 15]])
    codes, scales = quantise(weight)
    assert codes.abs().max() <= 127
    assert float(widen(codes, scales, torch.float32)[0, 0]) == pytest.approx(float(weight[0, 0]), rel=1 / 127)
