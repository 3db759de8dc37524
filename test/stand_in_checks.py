"""Engine, pruning and training on a device that refuses the CPU's tensors: a forgotten `.to(device)` is red without a GPU.

By default a few families; OWLED_STAND_IN=all takes all of them, some six minutes of one core.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_in_device import MixedDevicesError, OnDevice, counting, stand_in_device, without_crossing
from test_models_families import conversations
from test_models_fixed_step import FIXED
from tiny_models import BRIDGED_MODELS, TEXT_MODELS, UNUSUAL_MODELS, VISION_MODELS, tiny_batches, tiny_model
from tiny_vlms import save_family
from tiny_vlms_more import FAMILIES

from owled_ros.driving.conversation import AnswerLimits
from owled_ros.models.chat import images_of
from owled_ros.models.components import find_structure
from owled_ros.models.decoding import pick
from owled_ros.models.driving_model import load_engine
from owled_ros.models.packing import pack_directory
from owled_ros.models.runners import TorchRunner
from owled_ros.pruning.config import CORRECTING, PruneConfig
from owled_ros.pruning.fitted import BesideCodes
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.prune import _weights_dtype
from owled_ros.pruning.quality import measure
from owled_ros.pruning.recovery import recover
from owled_ros.pruning.usage import settle_structure
from owled_ros.scenes import mini_train

TOKENS = 5
ALL = os.environ.get("OWLED_STAND_IN") == "all"
ANSWERING = FAMILIES if ALL else ("llava", "qwen2_5_vl", "qwen3_vl_moe")
PRUNED = [*VISION_MODELS, *TEXT_MODELS, *UNUSUAL_MODELS, *BRIDGED_MODELS] if ALL else ["llava"]
PLANNED = ["llava", "qwen2_5_vl", "qwen3_moe"] if ALL else ["llama"]
SCORES = ("magnitude", "wanda", "sparsegpt", "admm", "pruner-zero")


@pytest.fixture(scope="module")
def device() -> str:
    """Give the name of the stand-in device."""
    return stand_in_device()


def test_the_stand_in_computes_and_refuses(device: str) -> None:
    one = torch.arange(6.0, device=device).reshape(2, 3)
    assert isinstance(one, OnDevice)
    assert (one * 2 + torch.tensor(1.0)).sum().item() == 36.0  # a scalar of the CPU may take part
    assert one[torch.tensor([1])].tolist() == [[3.0, 4.0, 5.0]]  # and an index may come from it
    with pytest.raises(MixedDevicesError):
        one + torch.ones(3)
    with pytest.raises(MixedDevicesError):
        torch.cat([one, torch.ones(1, 3)])
    with pytest.raises((RuntimeError, TypeError)):
        one.numpy()
    layer = torch.nn.Linear(3, 2).to(device)
    layer(one).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.device == one.device


def test_the_stand_in_refuses_in_other_threads_and_backwards(device: str) -> None:
    found: list[BaseException] = []

    def work() -> None:
        try:
            torch.ones(2, device=device) * torch.ones(2)
        except MixedDevicesError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava"])
def test_a_planted_fault_is_found(name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = TorchRunner._moved

    def forgetful(self: TorchRunner, value: Any) -> Any:
        return value if isinstance(value, torch.Tensor) and value.ndim > 2 else moved(self, value)

    def forgets_kinds(self: TorchRunner, value: Any) -> Any:
        kinds = isinstance(value, torch.Tensor) and value.ndim == 2 and not value.is_floating_point()
        return value if kinds and value.max() == 1 and value.min() == 0 else moved(self, value)

    monkeypatch.setattr(TorchRunner, "_moved", forgets_kinds if name == "qwen2_5_vl" else forgetful)
    directory = save_family(name, tmp_path / name)
    with pytest.raises(Exception, match=r"takes tensors of standin:0 and one of the cpu|expected .*device"):
        load_engine(directory, device=device, dtype="float32")


@pytest.mark.parametrize("name", ANSWERING)
def test_every_family_answers_on_the_device_as_on_the_cpu(name: str, device: str, tmp_path: Path) -> None:
    directory = save_family(name, tmp_path / name)
    images = images_of([np.random.default_rng(3).integers(0, 255, (60, 90, 3), np.uint8)])
    answers = []
    for place, decoding in (("cpu", "growing"), (device, "growing"), (device, "fixed")):
        engine = load_engine(directory, device=place, dtype="float32", runtime="torch", decoding=decoding)
        replies = [
            engine.chat.reply(engine.chat.prompt(conversation, images), AnswerLimits(TOKENS))
            for conversation in conversations(1)[:2]
        ]
        answers.append([reply.ids for reply in replies if reply is not None])
        if decoding == "fixed":
            assert name not in FIXED or engine.facts["decoding"] == "fixed step", engine.facts["decoding"]
        if engine.facts["decoding"] == "fixed step":
            first, second = (engine.chat.runner.extend(11 + number) for number in range(2))
            del first
            with counting() as crossed:
                pick(second)
            assert crossed == ["tolist"]  # one small copy
            with without_crossing():  # what a captured graph must do without
                engine.chat.runner.extend(15)
        engine.close()
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("name", PRUNED)
def test_every_family_is_pruned_on_the_device(name: str, device: str) -> None:
    batches = tiny_batches(name)
    for score in SCORES:
        if name == "git" and score == "pruner-zero":  # its logits do not belong to its labels: no loss, no gradients
            continue
        model = tiny_model(name).to(device)
        structure = settle_structure(model, find_structure(model), batches, ("vision", "language"))
        config = PruneConfig(
            Path(), Path(), 0.5, score, "uniform", refine_steps=2 if score in CORRECTING else 0, device=device
        )
        plan = make_plan(model, structure, batches, config, lambda done, total, detail: None)
        prune_blocks(model, structure, batches, plan.zeros, config)
        for block in structure.blocks:
            for matrix in block.matrices:
                assert int((matrix.weight() == 0).sum()) >= plan.zeros[matrix.name]


@pytest.mark.parametrize("name", PLANNED)
def test_plans_losses_and_recovery_on_the_device(name: str, device: str) -> None:
    batches = tiny_batches(name)
    model, dense = tiny_model(name).to(device), tiny_model(name).to(device)
    structure = settle_structure(model, find_structure(model), batches, ("vision", "language"))
    for allocation in ("owl", "learned"):
        config = PruneConfig(Path(), Path(), 0.5, "wanda", allocation, learn_steps=2, device=device)
        plan = make_plan(model, structure, batches, config, lambda done, total, detail: None)
    prune_blocks(model, structure, batches, plan.zeros, config)
    before = measure(model, batches)
    recover(model, dense, structure, batches, 2, 0)
    assert measure(model, batches).tokens == before.tokens
    config = PruneConfig(Path(), Path(), 0.0, allocation="uniform", bits=4, device=device)
    scales = prune_blocks(model, structure, batches, dict.fromkeys(plan.zeros, 0), config).scales
    assert config.grid
    fitted = BesideCodes(model, structure, scales, config.grid, None)
    recover(model, dense, structure, batches, 2, 0, fitted=fitted)
    assert fitted.scales.keys() == scales.keys()


def test_a_packed_file_is_compared_on_the_device(device: str, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    here, there = (pack_directory(tmp_path, tmp_path / place[:3], device=place).path for place in ("cpu", device))
    assert here.read_bytes() == there.read_bytes()


def test_a_stored_float16_stays_so_on_a_gpu() -> None:
    config = PruneConfig(Path(), Path(), 0.5, device="cuda:0")
    assert _weights_dtype(config, "float16", "bfloat16") == "float16"
    assert _weights_dtype(config, "bfloat16", "bfloat16") == "bfloat16"
    assert _weights_dtype(config, "float32", "bfloat16") == "float32"
    assert _weights_dtype(PruneConfig(Path(), Path(), 0.5), "float16", "float32") == "float32"
    learning = PruneConfig(Path(), Path(), 0.5, device="cuda:0", recovery_steps=3)
    assert _weights_dtype(learning, "float16", "bfloat16") == "float32"  # small steps are lost in float16


def test_training_goes_on_on_the_device(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini_train, "VALIDATION_SCENES", 2)
    for samples in (4, 8):
        config = mini_train.TrainConfig(samples=samples, batch_size=2, device=device, loaders=0)
        module = mini_train.train(config, tmp_path)
    assert next(module.parameters()).device.type == "standin"
    assert mini_train.samples_seen(tmp_path) == 8
