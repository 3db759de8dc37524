"""Devices: "auto", numbers, words for what is not here, and what a GPU's memory cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from owled_ros import cli, devices
from owled_ros.devices import is_out_of_memory, memory_in_words, resolve_device
from owled_ros.errors import OwledError
from owled_ros.models import load as load_room
from owled_ros.models.driving_model import bundled_model
from owled_ros.onboard.loading import ModelChoice, check_memory, choose_device

GPU_COMMANDS = (
    "evaluate", "evaluate-scenes", "drive", "sensitivity", "recalibrate", "prune", "prune-uniform", "train-mini", "calibrate", "demo",
    "pack",
)  # fmt: skip
REFUSED = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.00 GiB is free."
)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say that it has two GPUs; of 10 GB, 1 GB is free and 0.5 GB more lie unused in torch's own store."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {'AB'[number]}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7 * 10**8)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * 10**8)
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **how: real(*size))


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    with pytest.raises(OwledError, match=r"device 'cuda:1': .*give cpu, or auto"):
        resolve_device("cuda:1")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_have_numbers() -> None:
    assert resolve_device("auto") == resolve_device("cuda") == "cuda:0"
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(OwledError, match=r"'cuda:2' is not there; this machine has cuda:0 \(GPU A\), cuda:1 \(GPU B\)"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cpu:x", "meta:a"])
def test_words_that_name_no_device(device: str) -> None:
    with pytest.raises(OwledError, match=f"device '{device}' cannot be used .*expected auto, cpu, cuda or cuda:NUMBER"):
        resolve_device(device)


@pytest.mark.usefixtures("two_gpus")
def test_the_sparse_runtime_is_the_cpus() -> None:
    assert choose_device(ModelChoice("", "auto", "auto", 1, "sparse")) == "cpu"
    assert choose_device(ModelChoice("", "auto", "auto", 1, "auto")) == "cuda:0"


@pytest.mark.usefixtures("two_gpus")
def test_out_of_memory_says_what_was_asked_and_what_was_free() -> None:
    words = r"big does not fit \(2.50 GiB were asked for, 1.50 GB were free on cuda:0\): take a smaller one"
    with (
        pytest.raises(OwledError, match=words) as found,
        memory_in_words("big does not fit", "cuda:0", "take a smaller one"),
    ):
        raise torch.OutOfMemoryError(REFUSED)
    assert is_out_of_memory(found.value)  # what the node reports as OUT_OF_MEMORY
    with pytest.raises(RuntimeError, match="something else"), memory_in_words("big", "cuda:0", ""):
        raise RuntimeError("something else")


@pytest.mark.usefixtures("two_gpus")
def test_a_model_larger_than_the_gpu_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        pytest.fail("the weights were read")

    monkeypatch.setattr(load_room, "load_directory", unwanted)
    monkeypatch.setattr(load_room, "free_device_bytes", lambda device: 1_000_000 if device == "cuda:1" else None)
    with pytest.raises(OwledError, match=r"needs 0\.0 GB of memory of cuda:1 as float32, 0\.0 GB are free"):
        load_room.load_model(bundled_model(), device="cuda:1")


def test_a_second_model_is_loaded_beside_only_where_the_gpu_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = ModelChoice(str(bundled_model()), "cuda:0", "float32", 1, "torch")  # 7.9 M parameters: 32 MB in float32
    monkeypatch.setattr("owled_ros.onboard.loading.free_device_bytes", lambda device: 100_000_000)
    check_memory(choice, 60.0)
    with pytest.raises(OwledError, match=r"100 MB are free on cuda:0; the running model drives on"):
        check_memory(choice, 70.0)


@pytest.mark.parametrize("command", GPU_COMMANDS)
def test_every_command_that_computes_takes_a_device(command: str, tmp_path: Path) -> None:
    cli.register_commands()
    runner = CliRunner()
    shown = runner.invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert "auto (CUDA where there is one), cpu, cuda" in " ".join(shown.replace("│", " ").split())  # lines may fold
    words = [str(tmp_path / "no"), str(tmp_path / "where")]
    refused = runner.invoke(cli.app, [command, "--device", "gpu", *words])
    assert isinstance(refused.exception, (OwledError, SystemExit))
    if command not in ("drive", "demo", "evaluate-scenes", "train-mini", "pack"):  # those take fewer words
        assert "device 'gpu' cannot be used" in str(refused.exception)


def test_nothing_is_given_back_where_nothing_was_taken() -> None:
    devices.give_back_memory()
    with devices.on_device("cpu"):
        assert devices.free_device_bytes("cpu") is None
