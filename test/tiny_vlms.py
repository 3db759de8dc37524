"""Tiny random vision-language models on disk, each with its family's real processor and a tokenizer made here.

Weights are large enough for answers to depend on every token and image; nothing is downloaded and nothing is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_models import MROPE, TEXT, VISION, WIDTH
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SAID = (
    "You drive a car. Your speed is 5.0 m/s. What should the car do now? What is to be seen? Answer with one line: cruise, follow, "
    "stop, yield; acceleration +1.0 m/s2, steering -0.1 rad. Nearest first. Isn't the traffic light red? user assistant system"
)
WORDS = 420  # entries of the vocabulary beside the special tokens
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>"
    "\n\n{% endif %}{% endif %}"
)
ROLES = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}: {% for c in m.content %}{% if c.type == 'image' %}IMAGE\n"
    "{% else %}{{ c.text }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Family:
    """What a tiny model of one family is made of."""

    kind: str  # class of the processor
    images: Callable[[], Any]
    model: Callable[[Mapping[str, int], int], Any]  # (ids by token, size of the vocabulary)
    special: tuple[str, ...] = ("<image>",)  # tokens of its own
    named: Mapping[str, str] = field(default_factory=dict)  # tokens that the tokenizer knows by name
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the processor
    template: str | None = CHATML
    image: str = "<image>"  # what the template writes for an image
    pieces: bool = False  # a tokenizer in the manner of SentencePiece that adds <s> itself


def byte_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """Train a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [SAID], trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def piece_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """Train a BPE with the space mark of SentencePiece, bytes for the rest, and a beginning added to every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    first = [*SPECIAL[:4], *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator([SAID], trainer)
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def save_family(name: str, directory: Path, seed: int = 0, **changes: Any) -> Path:
    """Write model and processor of a family as a checkpoint has them."""
    family = FAMILIES[name]
    special = (*SPECIAL, *family.special)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=(piece_tokenizer if family.pieces else byte_tokenizer)(special),
        bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_special_tokens=dict(family.named),
    )  # fmt: skip
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    torch.manual_seed(seed)
    model = family.model(ids, len(tokenizer) + 64).eval()
    enliven(model)
    model.generation_config.eos_token_id = ids["</s>"]
    model.generation_config.pad_token_id = ids["<pad>"]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    images = family.images()
    if isinstance(images, dict):  # settings of one that is on torchvision only
        (directory / "preprocessor_config.json").write_text(json.dumps(images))
    else:
        images.save_pretrained(directory)
    (directory / "processor_config.json").write_text(json.dumps({"processor_class": family.kind, **family.settings}))
    template = changes.get("template", family.template)
    if template is not None:
        (directory / "chat_template.jinja").write_text(template.replace("IMAGE", family.image))
    return directory


@torch.no_grad()
def enliven(model: torch.nn.Module) -> None:
    """Draw weights of unit gain, so that nothing is lost on the way."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(std=min(0.6, 1.2 * parameter[0].numel() ** -0.5))


def _text(size: int, ids: Mapping[str, int], kind: str = "llama", **changes: Any) -> dict[str, Any]:
    tokens = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    return {**TEXT, "model_type": kind, "vocab_size": size, "max_position_embeddings": 4096, **tokens, **changes}


CLIP = {"model_type": "clip_vision_model", **VISION}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}
SQUARE = {"height": 28, "width": 28}
QWEN_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PIXELS = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}


def _qwen_ids(ids: Mapping[str, int]) -> dict[str, int]:
    names = (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
    )
    return {**{name: ids[token] for name, token in names}, "vision_end_token_id": ids["<|vision_end|>"]}


def _clip_images(**changes: Any) -> Any:
    return hf.CLIPImageProcessorPil(**{"size": {"shortest_edge": 28}, "crop_size": SQUARE, **changes})


def _llava(ids: Mapping[str, int], size: int) -> Any:
    config = hf.LlavaConfig(
        vision_config=CLIP,
        text_config=_text(size, ids),
        image_token_index=ids["<image>"],
        image_token_id=ids["<image>"],
    )
    return hf.LlavaForConditionalGeneration(config)


def _llava_next(ids: Mapping[str, int], size: int) -> Any:
    config = hf.LlavaNextConfig(
        vision_config=CLIP, text_config=_text(size, ids), image_token_index=ids["<image>"], image_token_id=ids["<image>"],
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config)


def _onevision(ids: Mapping[str, int], size: int) -> Any:
    config = hf.LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config=_text(size, ids, "qwen2"), image_token_index=ids["<image>"],
        image_token_id=ids["<image>"], video_token_index=ids["<video>"], video_token_id=ids["<video>"],
        image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]], vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config)


def _qwen2_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "embed_dim": WIDTH, "num_heads": 4, "hidden_size": WIDTH, "mlp_ratio": 2, "patch_size": 14}
    text = {**_text(size, ids, "qwen2_vl_text"), **MROPE}
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(vision_config=vision, text_config=text, **_qwen_ids(ids))
    )


def _qwen25_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    text = {**_text(size, ids, "qwen2_5_vl_text"), **MROPE}
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **_qwen_ids(ids))
    )


def _qwen3_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    text = {**_text(size, ids, "qwen3_vl_text", head_dim=8), **MROPE}
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(vision_config=vision, text_config=text, **_qwen_ids(ids))
    )


def _qwen35(ids: Mapping[str, int], size: int) -> Any:
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64}
    vision |= {"patch_size": 14, "deepstack_visual_indexes": [], "num_position_embeddings": 16}
    text = _text(
        size, ids, "qwen3_5_text", head_dim=8, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4,
    )  # fmt: skip
    text |= {"rope_parameters": {**MROPE["rope_parameters"], "partial_rotary_factor": 1.0, "mrope_interleaved": True}}
    return hf.Qwen3_5ForConditionalGeneration(
        hf.Qwen3_5Config(vision_config=vision, text_config=text, **_qwen_ids(ids))
    )


def _internvl(ids: Mapping[str, int], size: int) -> Any:
    vision = {**VISION, "image_size": [28, 28], "patch_size": [14, 14]}
    config = hf.InternVLConfig(
        vision_config=vision, text_config=_text(size, ids, "qwen2"), image_token_id=ids["<IMG_CONTEXT>"]
    )
    return hf.InternVLForConditionalGeneration(config)


def _smolvlm(ids: Mapping[str, int], size: int) -> Any:
    config = hf.SmolVLMConfig(
        vision_config=VISION, text_config=_text(size, ids), scale_factor=2, image_token_id=ids["<image>"]
    )
    return hf.SmolVLMForConditionalGeneration(config)


def _idefics3(ids: Mapping[str, int], size: int) -> Any:
    config = hf.Idefics3Config(
        vision_config=VISION, text_config=_text(size, ids), scale_factor=2, image_token_id=ids["<image>"]
    )
    return hf.Idefics3ForConditionalGeneration(config)


def _idefics2(ids: Mapping[str, int], size: int) -> Any:
    perceiver = {
        "resampler_n_latents": 3,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }
    config = hf.Idefics2Config(
        vision_config=VISION, perceiver_config=perceiver, text_config=_text(size, ids, "mistral", sliding_window=None),
        image_token_id=ids["<image>"],
    )  # fmt: skip
    return hf.Idefics2ForConditionalGeneration(config)


def _paligemma(ids: Mapping[str, int], size: int) -> Any:
    vision = {**SIGLIP, "projection_dim": WIDTH}
    text = _text(size + 1200, ids, "gemma", head_dim=8)  # its processor adds a thousand tokens for places
    config = hf.PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=WIDTH,
        image_token_index=ids["<image>"],
        image_token_id=ids["<image>"],
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def _gemma3(ids: Mapping[str, int], size: int) -> Any:
    text = _text(
        size, ids, "gemma3_text", head_dim=8, layer_types=["sliding_attention", "full_attention"], sliding_window=16,
    )  # fmt: skip
    config = hf.Gemma3Config(
        vision_config=SIGLIP, text_config=text, mm_tokens_per_image=4, image_token_index=ids["<image_soft_token>"],
        image_token_id=ids["<image_soft_token>"], boi_token_index=ids["<start_of_image>"], eoi_token_index=ids["<end_of_image>"],
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config)


def _mllama(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4,
        "image_size": 28, "patch_size": 14, "max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        "intermediate_layers_indices": [0], "vision_output_dim": 2 * WIDTH,
    }  # fmt: skip
    text = _text(size, ids, "mllama_text_model", cross_attention_layers=[1], num_hidden_layers=3)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    config = hf.MllamaConfig(
        vision_config=vision, text_config=text, image_token_index=ids["<|image|>"], image_token_id=ids["<|image|>"]
    )
    model = hf.MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 1.0)  # closed at the start, as they are made
    return model


def _pixtral(ids: Mapping[str, int], size: int) -> Any:
    vision = {"model_type": "pixtral", **VISION, "head_dim": 8}
    config = hf.LlavaConfig(
        vision_config=vision, text_config=_text(size, ids, "mistral", sliding_window=None, head_dim=8), image_token_index=ids["[IMG]"],
        image_token_id=ids["[IMG]"], vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config)


def _mistral3(ids: Mapping[str, int], size: int) -> Any:
    vision = {"model_type": "pixtral", **VISION, "head_dim": 8, "image_size": 56}
    config = hf.Mistral3Config(
        vision_config=vision, text_config=_text(size, ids, "mistral", sliding_window=None, head_dim=8),
        image_token_index=ids["[IMG]"], image_token_id=ids["[IMG]"], spatial_merge_size=2,
    )  # fmt: skip
    return hf.Mistral3ForConditionalGeneration(config)


def _glm4v(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        "depth": 2, "hidden_size": WIDTH, "num_heads": 4, "out_hidden_size": WIDTH, "intermediate_size": 64, "image_size": 56,
        "patch_size": 14,
    }  # fmt: skip
    text = _text(size, ids, "glm4v_text", head_dim=8)
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


def _ovis2(ids: Mapping[str, int], size: int) -> Any:
    vision = {
        **VISION,
        "vocab_size": 32,
        "num_visual_indicator_tokens": 5,
        "hidden_stride": 1,
        "backbone_kwargs": {},
        "qkv_bias": False,
    }
    config = hf.Ovis2Config(
        vision_config=vision, text_config=_text(size, ids, "qwen2"), image_token_id=ids["<IMG_ATOM>"], hidden_size=WIDTH,
        visual_indicator_token_ids=[ids[token] for token in OVIS[2:]], vocab_size=size,
    )  # fmt: skip
    return hf.Ovis2ForConditionalGeneration(config)


def _deepseek_vl(ids: Mapping[str, int], size: int) -> Any:
    config = hf.DeepseekVLConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION}, text_config=_text(size, ids),
        image_token_id=ids["<image_placeholder>"],
    )  # fmt: skip
    return hf.DeepseekVLForConditionalGeneration(config)


def _lfm2_vl(ids: Mapping[str, int], size: int) -> Any:
    vision = {"model_type": "siglip2_vision_model", **VISION, "num_patches": 16, "vision_use_head": False}
    text = _text(
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

FAMILIES: dict[str, Family] = {
    "llava": Family(
        "LlavaProcessor", _clip_images, _llava, template=ROLES, pieces=True,
        settings={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_next": Family(
        "LlavaNextProcessor", lambda: hf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]]
        ), _llava_next, template=ROLES, pieces=True,
        settings={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_onevision": Family(
        "LlavaOnevisionProcessor", lambda: hf.LlavaOnevisionImageProcessorPil(
            size=SQUARE, image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]]
        ), _onevision, special=("<image>", "<video>"),
        settings={"num_image_tokens": 4, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"},
    ),
    "qwen2_vl": Family(
        "Qwen2VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=PIXELS), _qwen2_vl, special=QWEN_SPECIAL, image=QWEN_IMAGE,
    ),
    "qwen2_5_vl": Family(
        "Qwen2_5_VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=PIXELS), _qwen25_vl, special=QWEN_SPECIAL, image=QWEN_IMAGE,
    ),
    "qwen3_vl": Family(
        "Qwen3VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=PIXELS), _qwen3_vl, special=QWEN_SPECIAL, image=QWEN_IMAGE,
    ),
    "qwen3_5": Family(
        "Qwen3VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=PIXELS), _qwen35, special=QWEN_SPECIAL, image=QWEN_IMAGE,
    ),
    "internvl": Family(
        "InternVLProcessor", lambda: hf.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3),
        _internvl, special=INTERN, named=INTERN_NAMED, image="<IMG_CONTEXT>", settings={"image_seq_length": 1},
    ),
    "smolvlm": Family(
        "SmolVLMProcessor", lambda: hf.SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        _smolvlm, special=SMOL, settings={"image_seq_len": 1},
    ),
    "idefics3": Family(
        "Idefics3Processor", lambda: hf.Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        _idefics3, special=SMOL, settings={"image_seq_len": 1},
    ),
    "idefics2": Family(
        "Idefics2Processor", lambda: hf.Idefics2ImageProcessorPil(size={"shortest_edge": 14, "longest_edge": 28}), _idefics2,
        special=SMOL[:3], settings={"image_seq_len": 3}, pieces=True,
    ),
    "paligemma": Family(
        "PaliGemmaProcessor", lambda: hf.SiglipImageProcessorPil(size=SQUARE, image_seq_length=4), _paligemma, template=None, pieces=True,
    ),
    "gemma3": Family(
        "Gemma3Processor", lambda: hf.Gemma3ImageProcessorPil(size=SQUARE), _gemma3, template=ROLES, pieces=True,
        special=("<image_soft_token>", "<start_of_image>", "<end_of_image>"), named=GEMMA_NAMED, image="<start_of_image>",
        settings={"image_seq_length": 4},
    ),
    "mllama": Family(
        "MllamaProcessor", lambda: hf.MllamaImageProcessorPil(size=SQUARE, max_image_tiles=2), _mllama, template=ROLES,
        special=("<|image|>", "<|python_tag|>"), image="<|image|>",
    ),
    "pixtral": Family(
        "PixtralProcessor", lambda: hf.PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
        _pixtral, special=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), image="[IMG]", settings={"patch_size": 14}, template=ROLES,
    ),
    "mistral3": Family(
        "PixtralProcessor", lambda: hf.PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
        _mistral3, special=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), image="[IMG]",
        settings={"patch_size": 14, "spatial_merge_size": 2}, template=ROLES,
    ),
    "glm4v": Family(
        "Glm4vProcessor", lambda: hf.Glm4vImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 2 * 84 * 84}), _glm4v,
        special=GLM, image="<|begin_of_image|><|image|><|end_of_image|>",
    ),
    "ovis2": Family(
        "Ovis2Processor", lambda: hf.Ovis2ImageProcessorPil(size=SQUARE, max_patches=2), _ovis2, special=OVIS,
        settings={"image_seq_length": 4},
    ),
    "deepseek_vl": Family(
        "DeepseekVLProcessor", lambda: hf.DeepseekVLImageProcessorPil(size=SQUARE), _deepseek_vl, special=("<image_placeholder>",),
        named={"image_token": "<image_placeholder>"}, image="<image_placeholder>", settings={"num_image_tokens": 4},
    ),
    "lfm2_vl": Family(
        "Lfm2VlProcessor", lambda: {
            "image_processor_type": "Lfm2VlImageProcessorFast", "tile_size": 28, "min_tiles": 2, "max_tiles": 4, "use_thumbnail": True,
            "min_image_tokens": 1, "max_image_tokens": 4, "encoder_patch_size": 14, "downsample_factor": 2, "do_image_splitting": True,
        }, _lfm2_vl, special=("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *(
            f"<|img_row_{row}_col_{column}|>" for row in (1, 2, 3, 4) for column in (1, 2, 3, 4)
        )),
    ),
}  # fmt: skip
