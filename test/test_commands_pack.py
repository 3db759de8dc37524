"""owled pack and owled bench on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from owled_ros.commands.pack import register
from owled_ros.errors import OwledError
from owled_ros.sparse.pack import PACKED_NAME

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 80,
}


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    register(made)
    return made


def test_pack_then_bench(app: typer.Typer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY))
    model.save_pretrained(tmp_path)
    packed = CliRunner().invoke(app, ["pack", str(tmp_path)])
    assert packed.exit_code == 0, packed.output
    assert "of dense bf16" in " ".join(packed.output.split())
    assert (tmp_path / PACKED_NAME).is_file()
    timed = CliRunner().invoke(app, ["bench", str(tmp_path), "--rounds", "1", "--kernel", "torch"])
    assert timed.exit_code == 0, timed.output
    assert "ms/token" in timed.output
    assert "prefill 64" in timed.output
    assert "prefill 256" not in timed.output  # the model has 80 positions


def test_failures_are_clear(app: typer.Typer, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gpt2"
    refused = CliRunner().invoke(app, ["pack", str(tmp_path)])
    assert isinstance(refused.exception, OwledError)
    assert "gpt2" in str(refused.exception)
    assert not (tmp_path / PACKED_NAME).exists()
    missing = CliRunner().invoke(app, ["bench", str(tmp_path)])
    assert isinstance(missing.exception, OwledError)
    assert "owled pack" in str(missing.exception)
