"""Models load from local safetensors and GGUF only; everything else is refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.load import is_vision_language, load_model, source_of
from owled_ros.models.processor import load_processor


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_a_directory_comes_back_in_evaluation_mode(llama: Path) -> None:
    model = load_model(llama)
    assert not model.training
    assert torch.equal(model.lm_head.weight, tiny_model("llama").lm_head.weight)
    assert load_model(llama, dtype="bfloat16").dtype == torch.bfloat16


def test_vision_models_load_as_such(tmp_path: Path) -> None:
    tiny_model("llava").save_pretrained(tmp_path / "llava")
    model = load_model(tmp_path / "llava")
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert is_vision_language(model.config)
    assert not is_vision_language(tiny_model("llama").config)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(llama: Path, number: float) -> None:
    """torch's attention on AVX-512 makes 0 of queries that are NaN: nothing behind it would tell."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[3, 4] = number
    model.save_pretrained(llama)
    with pytest.raises(
        OwledError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight hold NaN or infinities as bfloat16"
    ):
        load_model(llama, dtype="bfloat16")


def test_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(OwledError, match="downloads are off"):
        load_model("someone/some-model")


def test_pickled_weights_are_refused(llama: Path) -> None:
    torch.save(load_model(llama).state_dict(), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    for read in (load_model, source_of):
        with pytest.raises(OwledError, match=r"pytorch_model\.bin: pickled weights are refused"):
            read(llama)


def test_remote_code_is_never_run(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(
        json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
    )
    (llama / "mine.py").write_text("raise SystemExit('executed')")
    with pytest.raises(OwledError, match="cannot be loaded"):
        load_model(llama)


def test_half_a_model_is_refused(llama: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(llama / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OwledError, match="lacks weights"):
        load_model(llama)


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_damaged_files_are_named(damage: str, llama: Path) -> None:
    (llama / damage).write_bytes(b"\x00" * 40)
    with pytest.raises(OwledError, match=str(llama)):
        load_model(llama)


def test_other_directories_files_and_devices(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(OwledError, match="neither"):
        load_model(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(OwledError, match="GGUF"):
        load_model(tmp_path / "model.gguf")
    with pytest.raises(OwledError, match="dtype"):
        load_model(llama, dtype="int3")
    with pytest.raises(OwledError, match="no tokenizer"):
        load_processor(llama)


def test_the_source_hash_follows_the_weights(llama: Path, tmp_path: Path) -> None:
    tiny_model("llama").half().save_pretrained(tmp_path / "half")
    assert source_of(llama).sha256 == source_of(llama).sha256 != source_of(tmp_path / "half").sha256
    assert (source_of(llama).dtype, source_of(tmp_path / "half").dtype) == ("float32", "float16")
