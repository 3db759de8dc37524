"""More families of tiny vision-language models: those that differ from the others in how they see, attend or are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tiny_vlm_models as made
import transformers as hf
from tiny_models import MROPE, VISION, WIDTH
from tiny_vlms import FAMILIES, ROLES, Family, save_family

__all__ = ["FAMILIES", "save_family"]
COHERE = (
    "<image>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
    "<|IMG_LINE_BREAK|>",
    "TILE_1",
    "TILE_2",
    "TILE_GLOBAL",
)
COHERE_NAMED = {
    "image_token": "<image>", "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "img_line_break_token": "<|IMG_LINE_BREAK|>",
}  # fmt: skip
LLAMA4 = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
JANUS_NAMED = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
GEMMA4 = ("<image_soft_token>", "<boi>", "<eoi>", "<audio>", "<boa>", "<eoa>", "<|video|>")
GEMMA4_NAMED = {
    "image_token": "<image_soft_token>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "audio_token": "<audio>",
    "boa_token": "<boa>",
    "eoa_token": "<eoa>",
}
QWEN_PIXELS = {"size": made.PIXELS}
TORCH_ONLY = {
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "rescale_factor": 1 / 255,
    "do_rescale": True,
    "do_normalize": True,
}


def vipllava(ids: Mapping[str, int], size: int) -> Any:
    config = hf.VipLlavaConfig(
        vision_config=made.CLIP, text_config=made.language(size, ids), image_token_index=ids["<image>"], vision_feature_layers=[-1, 1],
        vision_feature_layer=[-1, 1],
    )  # fmt: skip
    return hf.VipLlavaForConditionalGeneration(config)


def cohere2_vision(ids: Mapping[str, int], size: int) -> Any:
    text = made.language(size, ids, "cohere2", sliding_window=16, layer_types=["sliding_attention", "full_attention"])
    config = hf.Cohere2VisionConfig(
        vision_config=made.SIGLIP, text_config=text, image_token_id=ids["<image>"], alignment_intermediate_size=64
    )
    return hf.Cohere2VisionForConditionalGeneration(config)


def aya_vision(ids: Mapping[str, int], size: int) -> Any:
    text = made.language(size, ids, "cohere2", sliding_window=16, layer_types=["sliding_attention", "full_attention"])
    config = hf.AyaVisionConfig(
        vision_config=made.SIGLIP,
        text_config=text,
        image_token_index=ids["<|IMG_PATCH|>"],
        image_token_id=ids["<|IMG_PATCH|>"],
    )
    return hf.AyaVisionForConditionalGeneration(config)


def llama4(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
        "patch_size": 14, "vision_output_dim": WIDTH, "projector_input_dim": WIDTH, "projector_output_dim": WIDTH,
    }  # fmt: skip
    vision["intermediate_size"] = WIDTH * 4
    text = made.language(
        size,
        ids,
        "llama4_text",
        head_dim=8,
        intermediate_size_mlp=64,
        num_local_experts=2,
        attention_chunk_size=16,
        layer_types=["chunked_attention", "full_attention"],
    )
    config = hf.Llama4Config(
        vision_config=vision, text_config=text, image_token_index=ids["<|patch|>"], boi_token_index=ids["<|image_start|>"],
        eoi_token_index=ids["<|image_end|>"],
    )  # fmt: skip
    model = hf.Llama4ForConditionalGeneration(config)
    return model


def janus(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14,
        "projection_dim": WIDTH, "num_image_tokens": 4,
    }  # fmt: skip
    codes = {
        "embed_dim": 4, "num_embeddings": 8, "latent_channels": 32, "base_channels": 32, "channel_multiplier": [1, 1],
        "num_patches": 2, "projection_dim": WIDTH, "image_token_embed_dim": WIDTH, "num_res_blocks": 1,
    }  # fmt: skip
    config = hf.JanusConfig(
        text_config=made.language(size, ids), vision_config=vision, vq_config=codes, image_token_id=ids["<image>"]
    )
    return hf.JanusForConditionalGeneration(config)


def lighton_ocr(ids: Mapping[str, int], size: int) -> Any:
    vision = {"model_type": "pixtral", **VISION, "head_dim": 8, "image_size": 56}
    config = hf.LightOnOcrConfig(
        vision_config=vision, text_config=made.language(size, ids, "qwen3", head_dim=8), image_token_id=ids["[IMG]"]
    )
    return hf.LightOnOcrForConditionalGeneration(config)


def deepseek_vl_hybrid(ids: Mapping[str, int], size: int) -> Any:
    fine = {
        "model_type": "sam_vision_model", "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64,
        "patch_size": 8, "output_channels": WIDTH, "mlp_dim": 64, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 16,
    }  # fmt: skip
    config = hf.DeepseekVLHybridConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION}, high_res_vision_config=fine, text_config=made.language(size, ids),
        image_token_id=ids["<image_placeholder>"],
    )  # fmt: skip
    return hf.DeepseekVLHybridForConditionalGeneration(config)


def video_llama_3(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 14,
    }
    config = hf.VideoLlama3Config(
        vision_config=vision, text_config=made.language(size, ids, "qwen2"), image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )  # fmt: skip
    return hf.VideoLlama3ForConditionalGeneration(config)


def glm46v(ids: Mapping[str, int], size: int) -> Any:
    whole = made.glm4v(ids, size).config
    config = hf.Glm46VConfig(
        **{k: v for k, v in whole.to_dict().items() if k.endswith("_token_id")}, text_config=whole.text_config.to_dict(),
        vision_config=whole.vision_config.to_dict(),
    )  # fmt: skip
    return hf.Glm46VForConditionalGeneration(config)


def gemma4(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "head_dim": 8, "patch_size": 14, "pooling_kernel_size": 3, "position_embedding_size": 64,
    }  # fmt: skip
    text = made.language(
        size, ids, "gemma4_text", head_dim=8, layer_types=["sliding_attention", "full_attention"], sliding_window=16,
        vocab_size_per_layer_input=size, hidden_size_per_layer_input=8, global_head_dim=8, use_bidirectional_attention="vision",
    )  # fmt: skip
    config = hf.Gemma4Config(
        vision_config=vision, text_config=text, audio_config=None, image_token_id=ids["<image_soft_token>"],
        boi_token_id=ids["<boi>"], eoi_token_id=ids["<eoi>"], video_token_id=ids["<|video|>"], audio_token_id=ids["<audio>"],
    )  # fmt: skip
    return hf.Gemma4ForConditionalGeneration(config)


def exaone4_5(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "depth": 2, "hidden_size": WIDTH, "num_heads": 4, "num_key_value_heads": 2, "out_hidden_size": WIDTH, "intermediate_size": 64,
        "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = made.language(size, ids, "exaone4", sliding_window=16, layer_types=["sliding_attention", "full_attention"])
    config = hf.Exaone4_5_Config(
        vision_config=vision, text_config=text, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"]
    )
    return hf.Exaone4_5_ForConditionalGeneration(config)


def paddleocr_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {**VISION, "model_type": "paddleocr_vl_vision"}
    text = {**made.language(size, ids, "paddleocr_vl_text", head_dim=8), **MROPE}
    config = hf.PaddleOCRVLConfig(
        vision_config=vision, text_config=text, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    return hf.PaddleOCRVLForConditionalGeneration(config)


def qwen3_vl_moe(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    text = {**made.language(size, ids, "qwen3_vl_moe_text", head_dim=8, **experts), **MROPE}
    config = hf.Qwen3VLMoeConfig(vision_config=vision, text_config=text, **made.qwen_ids(ids))
    return hf.Qwen3VLMoeForConditionalGeneration(config)


FAMILIES |= {
    "vipllava": Family(
        "LlavaProcessor", made.clip_images, vipllava, template=ROLES, pieces=True,
        settings={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "cohere2_vision": Family(
        "Cohere2VisionProcessor", lambda: {
            **TORCH_ONLY, "image_processor_type": "Cohere2VisionImageProcessorFast", "size": made.SQUARE, "min_patches": 1,
            "max_patches": 3, "crop_to_patches": True, "patch_size": 1, "do_resize": True,
        }, cohere2_vision, special=COHERE, named=COHERE_NAMED,
    ),
    "aya_vision": Family(
        "AyaVisionProcessor", lambda: hf.GotOcr2ImageProcessorPil(size=made.SQUARE, crop_to_patches=True, min_patches=1, max_patches=2),
        aya_vision, special=COHERE, settings={"patch_size": 14, "img_size": 28, "downsample_factor": 2},
    ),
    "llama4": Family(
        "Llama4Processor", lambda: {
            **TORCH_ONLY, "image_processor_type": "Llama4ImageProcessorFast", "size": made.SQUARE, "max_patches": 2, "do_resize": True,
            "resize_to_max_canvas": False,
        }, llama4, special=LLAMA4, image="<|image|>", settings={"patch_size": 14, "pixel_shuffle_ratio": 0.5}, template=ROLES,
    ),
    "janus": Family(
        "JanusProcessor", lambda: hf.JanusImageProcessorPil(size=made.SQUARE, min_size=14), janus, special=("<image>", "<boi>", "<eoi>"),
        named=JANUS_NAMED, settings={"num_image_tokens": 4}, template=ROLES,
    ),
    "lighton_ocr": Family(
        "LightOnOcrProcessor", lambda: hf.PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
        lighton_ocr, special=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), image="[IMG]", settings={"patch_size": 14, "spatial_merge_size": 2},
        named={"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
    ),
    "deepseek_vl_hybrid": Family(
        "DeepseekVLHybridProcessor", lambda: hf.DeepseekVLHybridImageProcessorPil(
            size=made.SQUARE, high_res_size={"height": 64, "width": 64}
        ), deepseek_vl_hybrid, special=("<image_placeholder>",), named={"image_token": "<image_placeholder>"},
        image="<image_placeholder>", settings={"num_image_tokens": 4},
    ),
    "video_llama_3": Family(
        "VideoLlama3Processor", lambda: hf.VideoLlama3ImageProcessorPil(**QWEN_PIXELS), video_llama_3, special=made.QWEN_SPECIAL,
        image="<|image_pad|>",
    ),
    "glm46v": Family(
        "Glm46VProcessor", lambda: hf.Glm46VImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 2 * 84 * 84}), glm46v,
        special=made.GLM, image="<|begin_of_image|><|image|><|end_of_image|>",
    ),
    "gemma4": Family(
        "Gemma4Processor", lambda: hf.Gemma4ImageProcessorPil(patch_size=14, max_soft_tokens=70), gemma4,
        special=GEMMA4, named=GEMMA4_NAMED, image="<image_soft_token>", template=ROLES, pieces=True,
    ),
    "exaone4_5": Family(
        "Exaone4_5_Processor", lambda: hf.Qwen2VLImageProcessorPil(**QWEN_PIXELS), exaone4_5, special=made.QWEN_SPECIAL,
        image=made.QWEN_IMAGE,
    ),
    "paddleocr_vl": Family(
        "PaddleOCRVLProcessor", lambda: hf.PaddleOCRVLImageProcessorPil(**QWEN_PIXELS), paddleocr_vl, special=made.QWEN_SPECIAL,
        named={"image_token": "<|image_pad|>"}, image=made.QWEN_IMAGE,
    ),
    "qwen3_vl_moe": Family(
        "Qwen3VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(**QWEN_PIXELS), qwen3_vl_moe, special=made.QWEN_SPECIAL,
        image=made.QWEN_IMAGE,
    ),
}  # fmt: skip
