"""Tiny randomly initialised models of every supported architecture, with inputs that run all their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

VOCABULARY, IMAGE, START = 128, 5, 6  # tokens; the image token; the token before an image
WIDTH = 32
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}
QWEN_IDS = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": 7, "video_token_id": 8}
OF_IMAGE = {"image_token_id": IMAGE}


def _llava() -> Any:
    vision = {"model_type": "clip_vision_model", **VISION}
    config = hf.LlavaConfig(
        vision_config=vision, text_config={"model_type": "llama", **TEXT}, image_token_index=IMAGE, **OF_IMAGE
    )
    return hf.LlavaForConditionalGeneration(config)


def _llava_next() -> Any:
    vision, text = {"model_type": "clip_vision_model", **VISION}, {"model_type": "llama", **TEXT}
    pinpoints = [[28, 56], [56, 28]]
    config = hf.LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=pinpoints, **OF_IMAGE
    )
    return hf.LlavaNextForConditionalGeneration(config)


def _qwen2_vl() -> Any:
    vision = {"depth": 2, "embed_dim": WIDTH, "num_heads": 4, "hidden_size": WIDTH, "mlp_ratio": 2, "patch_size": 14}
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(vision_config=vision, text_config={**TEXT, **MROPE}, **QWEN_IDS)
    )


def _qwen25_vl() -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    config = hf.Qwen2_5_VLConfig(vision_config=vision, text_config={**TEXT, **MROPE}, **QWEN_IDS)
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    config = hf.Qwen3VLConfig(vision_config=vision, text_config={**TEXT, **MROPE, "head_dim": 8}, **QWEN_IDS)
    return hf.Qwen3VLForConditionalGeneration(config)


def _smolvlm() -> Any:
    text = {"model_type": "llama", **TEXT}
    return hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(vision_config=VISION, text_config=text, scale_factor=2, **OF_IMAGE)
    )


def _idefics3() -> Any:
    text = {"model_type": "llama", **TEXT}
    config = hf.Idefics3Config(vision_config=VISION, text_config=text, scale_factor=2, **OF_IMAGE)
    return hf.Idefics3ForConditionalGeneration(config)


def _internvl() -> Any:
    vision = {**VISION, "image_size": [28, 28], "patch_size": [14, 14]}
    config = hf.InternVLConfig(vision_config=vision, text_config={"model_type": "qwen2", **TEXT}, **OF_IMAGE)
    return hf.InternVLForConditionalGeneration(config)


def _paligemma() -> Any:
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": WIDTH, **VISION}
    text = {"model_type": "gemma", "head_dim": 8, **TEXT}
    config = hf.PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=WIDTH, **OF_IMAGE)
    return hf.PaliGemmaForConditionalGeneration(config)


def _gemma3() -> Any:
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}
    text = {**TEXT, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    config = hf.Gemma3Config(vision_config=vision, text_config=text, mm_tokens_per_image=4, **OF_IMAGE)
    return hf.Gemma3ForConditionalGeneration(config)


def _opt() -> Any:
    sizes = {
        "hidden_size": WIDTH,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": WIDTH,
    }
    return hf.OPTForCausalLM(hf.OPTConfig(**sizes, vocab_size=VOCABULARY, max_position_embeddings=128))


def _gpt2() -> Any:
    config = hf.GPT2Config(
        n_embd=WIDTH, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=128, bos_token_id=1, eos_token_id=2
    )
    return hf.GPT2LMHeadModel(config)


def _qwen3_moe() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(head_dim=8, **experts, **TEXT))


QFORMER: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "encoder_hidden_size": WIDTH, "vocab_size": VOCABULARY, "cross_attention_frequency": 1,
}  # fmt: skip


def _blip2() -> Any:
    text = {"model_type": "opt", "hidden_size": WIDTH, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"vocab_size": VOCABULARY, "word_embed_proj_dim": WIDTH}
    config = hf.Blip2Config(
        vision_config=VISION, qformer_config=QFORMER, text_config=text, num_query_tokens=3, image_token_index=IMAGE
    )
    model = hf.Blip2ForConditionalGeneration(config)
    model.query_tokens.data.normal_()
    return model


def _deepseek_vl() -> Any:
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}
    text = {"model_type": "llama", **TEXT}
    return hf.DeepseekVLForConditionalGeneration(
        hf.DeepseekVLConfig(vision_config=vision, text_config=text, **OF_IMAGE)
    )


def _git() -> Any:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return hf.GitForCausalLM(hf.GitConfig(vision_config=VISION, vocab_size=VOCABULARY, **sizes))


def _llama4() -> Any:
    text = {**TEXT, "intermediate_size": 48}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1}
    config = hf.Llama4TextConfig(**text, **experts, intermediate_size_mlp=64, head_dim=8, attention_chunk_size=64)
    return hf.Llama4ForCausalLM(config)


def _jetmoe() -> Any:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_key_value_heads": 2, "kv_channels": 8}
    experts = {"intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2}
    return hf.JetMoeForCausalLM(
        hf.JetMoeConfig(**sizes, **experts, vocab_size=VOCABULARY, max_position_embeddings=VOCABULARY)
    )


UNUSUAL_MODELS: dict[str, Callable[[], Any]] = {  # weights read from outside their layer, experts in other layouts
    "mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(hidden_size=WIDTH, num_hidden_layers=2, vocab_size=VOCABULARY, state_size=4)
    ),
    "llama4": _llama4,
    "gpt_oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(**TEXT, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=16)
    ),
    "jetmoe": _jetmoe,
}
BRIDGED_MODELS: dict[str, Callable[[], Any]] = {  # projectors by other names, a Q-Former, images before the text
    "blip2": _blip2,
    "deepseek_vl": _deepseek_vl,
    "git": _git,
}
VISION_MODELS: dict[str, Callable[[], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen25_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
}
TEXT_MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(head_dim=8, **TEXT)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**TEXT)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**TEXT)),
    "opt": _opt,
    "gpt2": _gpt2,
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(num_local_experts=4, **TEXT)),
    "qwen3_moe": _qwen3_moe,
}


def tiny_model(name: str, seed: int = 0) -> Any:
    """Build one of the models in evaluation mode."""
    torch.manual_seed(seed)
    model = {**VISION_MODELS, **TEXT_MODELS, **UNUSUAL_MODELS, **BRIDGED_MODELS}[name]().eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


def tiny_batches(
    name: str, count: int = 2, sequences: int = 2, tokens: int = 12, seed: int = 1
) -> list[dict[str, torch.Tensor]]:
    """Make batches that run every block of the model of that name."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(9, VOCABULARY, (sequences, tokens), generator=generator)
        batches.append(
            {
                "input_ids": ids,
                **(_image_inputs(name, ids, generator) if name in {**VISION_MODELS, **BRIDGED_MODELS} else {}),
            }
        )
    return batches


def _image_inputs(name: str, ids: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Put image tokens into `ids` and return the matching image tensors."""
    sequences = ids.shape[0]

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if name.startswith("qwen"):
        ids[:, 1], ids[:, 2] = START, IMAGE  # 2 x 2 patches of 14, merged into one token
        depth = 3 * 2 * 14 * 14
        kinds = {"mm_token_type_ids": (ids == IMAGE).int()}
        return {
            "pixel_values": noise(4 * sequences, depth),
            "image_grid_thw": torch.tensor([[1, 2, 2]] * sequences),
            **kinds,
        }
    if name in ("smolvlm", "idefics3"):
        ids[:, 1] = IMAGE
        return {"pixel_values": noise(sequences, 1, 3, 28, 28)}
    if name == "internvl":
        ids[:, 1] = IMAGE
    elif name == "blip2":
        ids[:, 1:4] = IMAGE
    elif name == "git":  # puts the image's tokens before the text itself
        return {"pixel_values": noise(sequences, 3, 28, 28)}
    elif name == "llava_next":
        ids[:, 1:11] = IMAGE  # one whole image (4) and two crops side by side with a line end (6)
        sizes = torch.tensor([[28, 28]] * sequences)
        return {"pixel_values": noise(sequences, 3, 3, 28, 28), "image_sizes": sizes}
    else:
        ids[:, 1:5] = IMAGE
    image = {"pixel_values": noise(sequences, 3, 28, 28)}
    return image | ({"token_type_ids": (ids == IMAGE).long()} if name in ("gemma3", "paligemma") else {})
