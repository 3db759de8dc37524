"""Packing: directories, models inside VLMs, refusals with reasons, and packed Linear layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from owled_ros.errors import OwledError
from owled_ros.models.packing import pack_directory
from owled_ros.sparse import SparseDecoder, library
from owled_ros.sparse.architecture import position_sections, refusal, rotary_frequencies, shape_of, text_config
from owled_ros.sparse.build import AVX512, sources
from owled_ros.sparse.format import read_packed
from owled_ros.sparse.linear import pack_linears, replace_linears
from owled_ros.sparse.pack import PACKED_NAME, pack_model

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 128,
}
LLAMA = {**LlamaConfig(**TINY).to_dict(), "model_type": "llama"}


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY)).eval()


def test_a_directory_packs_like_its_state_dict(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path / "model", max_shard_size="40KB")  # several shards
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    calls: list[tuple[int, int]] = []
    facts = pack_directory(
        tmp_path / "model", tmp_path / PACKED_NAME, progress=lambda done, total: calls.append((done, total))
    )
    other = pack_model(llama.state_dict(), tmp_path / "other.owled", config=llama.config.to_dict())
    assert facts.path.read_bytes() == other.path.read_bytes()
    assert facts.file_bytes == facts.path.stat().st_size
    assert facts.weights == sum(p.numel() for name, p in llama.named_parameters() if p.ndim == 2)
    assert calls[-1] == (16, 16)  # 2 layers of 7, embedding, head


def test_config_json_without_defaults_is_enough(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path / "model")
    config_file = tmp_path / "model" / "config.json"
    config = json.loads(config_file.read_text())
    for key in ("rms_norm_eps", "head_dim", "hidden_act", "rope_parameters", "tie_word_embeddings"):
        config.pop(key, None)
    config_file.write_text(json.dumps(config))
    shape = read_packed(pack_directory(tmp_path / "model", tmp_path / "p.owled").path).shape
    assert shape is not None
    assert (shape.head_dim, shape.norm_epsilon) == (16, pytest.approx(1e-6))


def test_the_language_model_inside_llava(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                              image_size=28, patch_size=14)  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**TINY), image_token_index=96)
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "model")
    path = pack_directory(tmp_path / "model", tmp_path / "p.owled", "bf16").path
    decoder = SparseDecoder.open(path)
    embeddings = torch.randn(1, 9, 64)  # as a projector would give them
    with torch.no_grad():
        want = model(inputs_embeds=embeddings).logits[0, -1].numpy()
    got = decoder.prefill(decoder.new_cache(16), embeddings[0].numpy())
    np.testing.assert_allclose(got, want, atol=5e-3 * np.abs(want).max())  # its weights are rounded to bf16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": "gemma"}, "gemma"),
        ({"hidden_act": "gelu"}, "activation"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}}, "mrope"),
        ({"partial_rotary_factor": 0.5}, "partial"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
    ],
)
def test_what_the_kernels_cannot_compute_is_refused(change: dict[str, object], reason: str) -> None:
    assert refusal(LLAMA) == ""
    assert reason in refusal({**LLAMA, **change})
    with pytest.raises(OwledError, match="torch"):
        shape_of({**LLAMA, **change})


@pytest.mark.parametrize("kind", ["mrope", "default"])
def test_the_text_of_qwen_vl_in_both_layouts_of_its_config(kind: str) -> None:
    text = {**LLAMA, "model_type": "qwen2_vl_text", "rope_scaling": {"type": kind, "mrope_section": [2, 3, 3]}}
    for config in ({**text, "model_type": "qwen2_vl"}, {"model_type": "qwen2_vl", "text_config": text}):
        found = text_config(config)
        assert refusal(found) == ""
        assert shape_of(found).head_dim == 16
        assert position_sections(found) == (2, 3, 3)
    assert position_sections(LLAMA) == ()


def test_rotary_frequencies_by_hand() -> None:
    # head size 4: 1 and theta^(-1/2); linear scaling divides both.
    config = {**LLAMA, "head_dim": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
    np.testing.assert_allclose(rotary_frequencies(config, shape_of(config)), [1.0, 0.1], rtol=1e-6)
    config["rope_parameters"] = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
    np.testing.assert_allclose(rotary_frequencies(config, shape_of(config)), [0.5, 0.05], rtol=1e-6)


def test_what_lies_on_no_grid_of_few_bits_keeps_eight(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    loose = {"vision.fc": (np.ones((8, 64), np.float32), None)}
    path = tmp_path / "m.owled"
    pack_model(llama.state_dict(), path, "int2", config=llama.config.to_dict(), extra=loose)
    bits = {tensor.name: tensor.format.bits for tensor in read_packed(path).tensors}
    assert bits["vision.fc"] == bits["model.embed_tokens"] == 8
    assert bits["model.layers.0.mlp.up_proj"] == 2


def test_broken_checkpoints_are_refused(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    out = tmp_path / "p.owled"
    with pytest.raises(OwledError, match=r"config\.json"):
        pack_directory(tmp_path, out)
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(OwledError, match="gpt2"):
        pack_directory(tmp_path / "gpt2", out)
    state = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    config = llama.config.to_dict()
    missing = {name: tensor for name, tensor in state.items() if "layers.1.mlp.up_proj" not in name}
    with pytest.raises(OwledError, match=r"layers\.1\.mlp\.up_proj"):
        pack_model(missing, out, config=config)
    with pytest.raises(OwledError, match="the config says"):
        pack_model({**state, "model.layers.0.self_attn.k_proj.weight": torch.ones(8, 8)}, out, config=config)
    broken = {**state, "model.layers.0.mlp.gate_proj.weight": torch.full((96, 64), float("nan"))}
    with pytest.raises(OwledError, match="NaN"):
        pack_model(broken, out, config=config)
    (tmp_path / "model").mkdir()
    llama.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(OwledError, match="safetensors"):
        pack_directory(tmp_path / "model", out)
    assert not out.exists()
    with pytest.raises(OwledError, match="cannot write"):
        pack_model(state, tmp_path / "absent" / "p.owled", config=config)


@pytest.mark.skipif(not library.available(), reason="no native kernels")
def test_linear_layers_of_a_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(70, 33), torch.nn.GELU(), torch.nn.Linear(33, 12, bias=False))
    with torch.no_grad():
        module[0].weight.mul_(torch.rand_like(module[0].weight) > 0.6)
    x = torch.randn(2, 25, 70)
    with torch.no_grad():
        want = module(x)
    assert pack_linears(module, ["0", "2"], tmp_path / "m.owled") == ["0", "2"]
    packed = replace_linears(module, tmp_path / "m.owled")
    assert distance(module(x), want) < 2e-2
    assert module(x.bfloat16()).dtype == torch.bfloat16
    assert module(x[:, :0]).shape == (2, 0, 12)
    with pytest.raises(OwledError, match="features"):
        module[0](x[..., :5])
    with pytest.raises(OwledError, match="Linear"):
        pack_linears(module, ["1"], tmp_path / "n.owled")
    packed.close()
    with pytest.raises(OwledError, match="closed"):
        module(x)


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def test_build_and_cmake_agree_on_sources_and_flags() -> None:
    """Two recipes for one library: every source and every instruction set stands in both."""
    if not sources():
        pytest.skip("installed without csrc/")
    recipe = (Path(__file__).parents[1] / "csrc" / "CMakeLists.txt").read_text()
    for path in sources():
        assert f"src/{path.name}" in recipe
    for flag in AVX512:
        assert flag in recipe
