"""The hardware decides the computing type, whatever the weights are stored in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_batches, tiny_model

from owled_ros import compute_type
from owled_ros.compute_type import autocast, computing_dtype, cpu_multiplies_bfloat16, fast_dtype
from owled_ros.pruning.prune import PruneConfig, prune

CPUS = {  # flags: whether bfloat16 is multiplied in hardware
    "avx avx2 fma f16c": False,
    "avx2 avx512f avx512vl avx512_vnni": False,
    "avx2 avx512f avx512_bf16": True,
    "avx2 avx512f amx_bf16 amx_tile": True,
    "": False,
}


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    cpu_multiplies_bfloat16.cache_clear()
    yield
    cpu_multiplies_bfloat16.cache_clear()


def pretend(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(compute_type, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(compute_type.platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize(("flags", "fast"), CPUS.items())
def test_bfloat16_only_with_its_instructions(
    flags: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(flags, tmp_path, monkeypatch)
    assert fast_dtype("cpu") == computing_dtype("auto") == ("bfloat16" if fast else "float32")
    with autocast("auto"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if fast else torch.float32)


def test_without_cpuinfo_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute_type, "CPU_INFO", tmp_path / "absent")
    assert fast_dtype("cpu") == "float32"
    assert fast_dtype("mps") == "float32"


def test_what_is_asked_for_is_done_and_the_cost_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend("avx2", tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert (computing_dtype("bfloat16"), computing_dtype("float32")) == ("bfloat16", "float32")
    assert "many times slower" in caplog.text


@pytest.mark.parametrize("flags", ["avx2", "avx2 avx512_bf16"])
def test_pruning_weights_stored_in_bfloat16(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without bfloat16 no product of a whole run has a bfloat16 operand; the artifact is still bfloat16."""
    pretend(flags, tmp_path, monkeypatch)
    tiny_model("llama").bfloat16().save_pretrained(tmp_path / "model")
    seen: set[torch.dtype] = set()
    products = torch.nn.functional.linear

    def watched(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        result = products(x, weight, bias)
        seen.add(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    config = PruneConfig(tmp_path / "model", tmp_path / "out", 0.5, "wanda", "learned", learn_steps=2)
    prune(config, tiny_batches("llama"), held_out=tiny_batches("llama", seed=4))
    assert seen == {torch.bfloat16 if "bf16" in flags else torch.float32}
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
