"""Adapters: refused where they would be left out, merged with peft on request, and never half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from broken_models import put, tensors_of
from tiny_models import tiny_model
from typer.testing import CliRunner

from owled_ros.commands.merge_adapter import register
from owled_ros.errors import OwledError
from owled_ros.models.load import load_model

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_model("llama").bfloat16().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "driving.json").write_text("{}")
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], layers_to_transform=[0])
    model = peft.get_peft_model(load_model(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def merge(*words: Path) -> None:
    app = typer.Typer()
    register(app)
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None:
        raise done.exception


def test_merging_by_hand(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, adapter, tmp_path / "merged")
    before, after = tensors_of(base), tensors_of(tmp_path / "merged")
    low = {name.rsplit(".", 2)[1]: tensor for name, tensor in _adapter_tensors(adapter).items()}
    want = before[Q_PROJ].float() + 2.0 * low["lora_B"] @ low["lora_A"]  # alpha 4 over rank 2
    assert torch.equal(after[Q_PROJ], want.bfloat16())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name != Q_PROJ)
    assert (tmp_path / "merged" / "driving.json").is_file()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    with pytest.raises(OwledError, match="exists already"):
        merge(base, adapter, tmp_path / "merged")


def test_an_adapter_of_another_model_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    tensors = _adapter_tensors(adapter)
    put(
        adapter,
        {**tensors, "base_model.model.model.layers.9.q_proj.lora_A.weight": torch.ones(2, 32)},
        "adapter_model.safetensors",
    )
    with pytest.raises(OwledError, match=r"layers\.9.*no place"):
        merge(base, adapter, tmp_path / "merged")
    put(adapter, {name: torch.ones(2, 48) for name in tensors}, "adapter_model.safetensors")
    with pytest.raises(OwledError, match="does not fit the model"):
        merge(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda place: (place / "adapter_model.safetensors").rename(place / "adapter_model.bin"), "pickled adapters"),
        (lambda place: (place / "adapter_config.json").write_text("[]"), "holds a list"),
        (lambda place: (place / "adapter_config.json").write_text('{"peft_type": "NONE"}'), "does not fit"),
        (lambda place: (place / "adapter_config.json").unlink(), "LoRA adapter"),
    ],
)
def test_what_is_no_adapter_is_named(damage: object, sentence: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    damage(adapter)  # type: ignore[operator]
    with pytest.raises(OwledError, match=sentence):
        merge(base, adapter, tmp_path / "merged")


def test_an_adapter_below_the_model_is_said(base: Path, adapter: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter.rename(base / "adapter")
    load_model(base)
    assert "adapters in adapter" in caplog.text


def _adapter_tensors(adapter: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 2
    return dict(load_file(adapter / "adapter_model.safetensors"))
