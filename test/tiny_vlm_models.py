"""Tiny vision-language models by family, random and with weights that make answers depend on every token and image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as hf
from tiny_models import MROPE, TEXT, VISION, WIDTH

OVIS = ("<image>", "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
GLM = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
SMOL = (
    "<image>",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    "<row_1_col_1>",
    "<row_1_col_2>",
    "<row_2_col_1>",
)
INTERN = ("<IMG_CONTEXT>", "<img>", "</img>", "<video>")
INTERN_NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
GEMMA_NAMED = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


def language(size: int, ids: Mapping[str, int], kind: str = "llama", **changes: Any) -> dict[str, Any]:
    tokens = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    return {**TEXT, "model_type": kind, "vocab_size": size, "max_position_embeddings": 4096, **tokens, **changes}


CLIP = {"model_type": "clip_vision_model", **VISION}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}
SQUARE = {"height": 28, "width": 28}
QWEN_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PIXELS = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}


def qwen_ids(ids: Mapping[str, int]) -> dict[str, int]:
    names = (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
    )
    return {**{name: ids[token] for name, token in names}, "vision_end_token_id": ids["<|vision_end|>"]}


def clip_images(**changes: Any) -> Any:
    return hf.CLIPImageProcessorPil(**{"size": {"shortest_edge": 28}, "crop_size": SQUARE, **changes})


def llava(ids: Mapping[str, int], size: int) -> Any:
    config = hf.LlavaConfig(
        vision_config=CLIP,
        text_config=language(size, ids),
        image_token_index=ids["<image>"],
        image_token_id=ids["<image>"],
    )
    return hf.LlavaForConditionalGeneration(config)


def llava_next(ids: Mapping[str, int], size: int) -> Any:
    config = hf.LlavaNextConfig(
        vision_config=CLIP, text_config=language(size, ids), image_token_index=ids["<image>"], image_token_id=ids["<image>"],
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config)


def onevision(ids: Mapping[str, int], size: int) -> Any:
    config = hf.LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config=language(size, ids, "qwen2"), image_token_index=ids["<image>"],
        image_token_id=ids["<image>"], video_token_index=ids["<video>"], video_token_id=ids["<video>"],
        image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]], vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config)


def qwen2_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "embed_dim": WIDTH, "num_heads": 4, "hidden_size": WIDTH, "mlp_ratio": 2, "patch_size": 14}
    text = {**language(size, ids, "qwen2_vl_text"), **MROPE}
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(vision_config=vision, text_config=text, **qwen_ids(ids)))


def qwen25_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    text = {**language(size, ids, "qwen2_5_vl_text"), **MROPE}
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **qwen_ids(ids))
    )


def qwen3_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    text = {**language(size, ids, "qwen3_vl_text", head_dim=8), **MROPE}
    return hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(vision_config=vision, text_config=text, **qwen_ids(ids)))


def qwen35(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [], "num_position_embeddings": 16}
    text = language(
        size, ids, "qwen3_5_text", head_dim=8, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4,
    )  # fmt: skip
    text |= {"rope_parameters": {**MROPE["rope_parameters"], "partial_rotary_factor": 1.0, "mrope_interleaved": True}}
    return hf.Qwen3_5ForConditionalGeneration(hf.Qwen3_5Config(vision_config=vision, text_config=text, **qwen_ids(ids)))


def internvl(ids: Mapping[str, int], size: int) -> Any:
    vision = {**VISION, "image_size": [28, 28], "patch_size": [14, 14]}
    config = hf.InternVLConfig(
        vision_config=vision, text_config=language(size, ids, "qwen2"), image_token_id=ids["<IMG_CONTEXT>"]
    )
    return hf.InternVLForConditionalGeneration(config)


def smolvlm(ids: Mapping[str, int], size: int) -> Any:
    config = hf.SmolVLMConfig(
        vision_config=VISION, text_config=language(size, ids), scale_factor=2, image_token_id=ids["<image>"]
    )
    return hf.SmolVLMForConditionalGeneration(config)


def idefics3(ids: Mapping[str, int], size: int) -> Any:
    config = hf.Idefics3Config(
        vision_config=VISION, text_config=language(size, ids), scale_factor=2, image_token_id=ids["<image>"]
    )
    return hf.Idefics3ForConditionalGeneration(config)


def idefics2(ids: Mapping[str, int], size: int) -> Any:
    perceiver = {
        "resampler_n_latents": 3,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }
    config = hf.Idefics2Config(
        vision_config=VISION, perceiver_config=perceiver, text_config=language(size, ids, "mistral", sliding_window=None),
        image_token_id=ids["<image>"],
    )  # fmt: skip
    return hf.Idefics2ForConditionalGeneration(config)


def paligemma(ids: Mapping[str, int], size: int) -> Any:
    vision = {**SIGLIP, "projection_dim": WIDTH}
    text = language(size + 1200, ids, "gemma", head_dim=8)  # its processor adds a thousand tokens for places
    config = hf.PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=WIDTH,
        image_token_index=ids["<image>"],
        image_token_id=ids["<image>"],
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def gemma3(ids: Mapping[str, int], size: int) -> Any:
    text = language(
        size, ids, "gemma3_text", head_dim=8, layer_types=["sliding_attention", "full_attention"], sliding_window=16,
    )  # fmt: skip
    config = hf.Gemma3Config(
        vision_config=SIGLIP, text_config=text, mm_tokens_per_image=4, image_token_index=ids["<image_soft_token>"],
        image_token_id=ids["<image_soft_token>"], boi_token_index=ids["<start_of_image>"], eoi_token_index=ids["<end_of_image>"],
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config)


def mllama(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4,
        "image_size": 28, "patch_size": 14, "max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        "intermediate_layers_indices": [0], "vision_output_dim": 2 * WIDTH,
    }  # fmt: skip
    text = language(size, ids, "mllama_text_model", cross_attention_layers=[1], num_hidden_layers=3)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    config = hf.MllamaConfig(
        vision_config=vision, text_config=text, image_token_index=ids["<|image|>"], image_token_id=ids["<|image|>"]
    )
    model = hf.MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 1.0)  # closed at the start, as they are made
    return model


def pixtral(ids: Mapping[str, int], size: int) -> Any:
    vision = {"model_type": "pixtral", **VISION, "head_dim": 8}
    config = hf.LlavaConfig(
        vision_config=vision, text_config=language(size, ids, "mistral", sliding_window=None, head_dim=8), image_token_index=ids["[IMG]"],
        image_token_id=ids["[IMG]"], vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config)


def mistral3(ids: Mapping[str, int], size: int) -> Any:
    vision = {"model_type": "pixtral", **VISION, "head_dim": 8, "image_size": 56}
    config = hf.Mistral3Config(
        vision_config=vision, text_config=language(size, ids, "mistral", sliding_window=None, head_dim=8),
        image_token_index=ids["[IMG]"], image_token_id=ids["[IMG]"], spatial_merge_size=2,
    )  # fmt: skip
    return hf.Mistral3ForConditionalGeneration(config)


def glm4v(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64, "image_size": 56,
        "patch_size": 14,
    }  # fmt: skip
    text = language(size, ids, "glm4v_text", head_dim=8)
    text["rope_parameters"] = {
        "rope_type": "default",
        "mrope_section": [1, 1, 2],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    }
    tokens = {
        "image_token_id": "<|image|>", "video_token_id": "<|video|>", "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>", "video_start_token_id": "<|begin_of_video|>", "video_end_token_id": "<|end_of_video|>",
    }  # fmt: skip
    config = hf.Glm4vConfig(
        vision_config=vision, text_config=text, **{name: ids[token] for name, token in tokens.items()}
    )
    return hf.Glm4vForConditionalGeneration(config)


def ovis2(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        **VISION,
        "vocab_size": 32,
        "num_visual_indicator_tokens": 5,
        "hidden_stride": 1,
        "backbone_kwargs": {},
        "qkv_bias": False,
    }
    config = hf.Ovis2Config(
        vision_config=vision, text_config=language(size, ids, "qwen2"), image_token_id=ids["<IMG_ATOM>"], hidden_size=WIDTH,
        visual_indicator_token_ids=[ids[token] for token in OVIS[2:]], vocab_size=size,
    )  # fmt: skip
    return hf.Ovis2ForConditionalGeneration(config)


def deepseek_vl(ids: Mapping[str, int], size: int) -> Any:
    config = hf.DeepseekVLConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION}, text_config=language(size, ids),
        image_token_id=ids["<image_placeholder>"],
    )  # fmt: skip
    return hf.DeepseekVLForConditionalGeneration(config)


def lfm2_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"model_type": "siglip2_vision_model", **VISION, "num_patches": 16, "vision_use_head": False}
    text = language(
        size, ids, "lfm2", layer_types=["conv", "full_attention"], conv_L_cache=3, block_auto_adjust_ff_dim=False
    )
    config = hf.Lfm2VlConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids["<image>"],
        downsample_factor=2,
        projector_hidden_size=WIDTH,
    )
    return hf.Lfm2VlForConditionalGeneration(config)
