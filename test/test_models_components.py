"""Blocks and matrices of every architecture, and what must be left alone."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TEXT_MODELS, VISION_MODELS, tiny_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from owled_ros.errors import OwledError
from owled_ros.models.components import component_of, find_structure


@pytest.mark.parametrize("name", [*VISION_MODELS, *TEXT_MODELS])
def test_every_linear_layer_is_found_or_skipped_with_a_reason(name: str) -> None:
    model = tiny_model(name)
    structure = find_structure(model)
    linear = {
        key
        for key, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    found = {matrix.name for block in structure.blocks for matrix in block.matrices if matrix.expert is None}
    assert linear == found | (set(structure.skipped) & linear)
    assert not found & set(structure.skipped)
    expected = {"language"} if name in TEXT_MODELS else {"vision", "language"}
    assert set(structure.component_sizes()) - {"projector"} == expected
    assert sum(block.component == "language" for block in structure.blocks) == 2
    assert "lm_head" in structure.skipped


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "smolvlm", "internvl", "paligemma"])
def test_projectors(name: str) -> None:
    assert find_structure(tiny_model(name)).component_sizes()["projector"] > 0


def test_sizes_of_a_llama_block_by_hand() -> None:
    # q and o 32 x 32, k and v 16 x 32, gate and up 64 x 32, down 32 x 64: 2048 + 1024 + 6144 = 9216 per block.
    structure = find_structure(tiny_model("llama"))
    assert [block.size for block in structure.blocks] == [9216, 9216]
    assert [matrix.kind for matrix in structure.blocks[0].matrices] == [
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    ]  # fmt: skip


def test_conv1d_is_seen_as_outputs_by_inputs() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64, n_positions=32))
    matrix = find_structure(model).blocks[0].matrices[0]
    assert (matrix.rows, matrix.columns) == (96, 32)
    matrix.weight()[5, 3] = 42.0
    assert float(model.transformer.h[0].attn.c_attn.weight[3, 5]) == 42.0


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_fused_experts_are_one_matrix_each_and_routers_stay(name: str) -> None:
    block = find_structure(tiny_model(name)).blocks[0]
    experts = [matrix for matrix in block.matrices if matrix.expert is not None]
    assert len(experts) == 8  # four experts, two parameters
    assert len({matrix.kind for matrix in experts}) == 2
    assert not any("gate" in matrix.kind.split(".")[-1] and "gate_" not in matrix.kind for matrix in block.matrices)
    experts[5].weight().fill_(7.0)
    assert bool((getattr(experts[5].module, experts[5].parameter)[experts[5].expert] == 7.0).all())


def test_shared_weights_are_left_alone() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=64)
    )
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    structure = find_structure(model)
    assert not any("up_proj" in matrix.name for block in structure.blocks for matrix in block.matrices)
    assert "shares" in structure.skipped["model.layers.0.mlp.up_proj"]


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(OwledError, match="no Transformer block"):
        find_structure(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 4)))


def test_components_from_names() -> None:
    assert component_of("model.visual.merger.mlp") == "projector"
    assert component_of("model.vision_tower.encoder.layers.0") == "vision"
    assert component_of("model.language_model.layers.0") == "language"
    assert component_of("model.audio_tower.layers.0") == "foreign"


def test_torch_attention_is_left_alone() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16)])

    structure = find_structure(Model())
    assert [matrix.kind for matrix in structure.blocks[0].matrices] == ["linear1", "linear2"]
    assert any("fused attention" in reason for reason in structure.skipped.values())
    assert isinstance(structure.blocks[0].matrices[0].weight(), torch.Tensor)


@pytest.mark.parametrize(
    ("name", "projector"),
    [
        ("blip2", {"qformer.encoder.layer.0", "qformer.encoder.layer.1", "language_projection"}),
        ("deepseek_vl", {"model.aligner"}),
        ("git", {"git.visual_projection"}),
        ("llava", {"model.multi_modal_projector"}),
        ("qwen3_vl", {"model.visual.merger", "model.visual.deepstack_merger_list.0"}),
        ("llama", set()),
    ],
)
def test_projectors_by_any_name(name: str, projector: set[str]) -> None:
    blocks = find_structure(tiny_model(name)).blocks
    assert {block.name for block in blocks if block.component == "projector"} == projector
    wanted = {"language"} if name == "llama" else {"vision", "language", "projector"}
    assert {block.component for block in blocks} == wanted


def test_a_projector_that_no_word_tells_is_what_lies_between() -> None:
    model = tiny_model("llava")
    model.model.glue = model.model.multi_modal_projector
    del model.model.multi_modal_projector
    assert [b.name for b in find_structure(model).blocks if b.component == "projector"] == ["model.glue"]


def test_weights_of_other_kinds_are_listed() -> None:
    skipped = find_structure(tiny_model("mamba")).skipped
    assert "Conv1d" in skipped["backbone.layers.0.mixer.conv1d.weight"]
