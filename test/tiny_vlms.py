"""Tiny random vision-language models on disk, each with its family's real processor and a tokenizer made here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_vlm_models as made
import torch
import transformers as hf
from tiny_tokenizers import SPECIAL, byte_tokenizer, piece_tokenizer

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
        parameter.copy_(parameter.bfloat16())  # so that packing loses nothing


FAMILIES: dict[str, Family] = {
    "llava": Family(
        "LlavaProcessor", made.clip_images, made.llava, template=ROLES, pieces=True,
        settings={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_next": Family(
        "LlavaNextProcessor", lambda: hf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size=made.SQUARE, image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]]
        ), made.llava_next, template=ROLES, pieces=True,
        settings={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_onevision": Family(
        "LlavaOnevisionProcessor", lambda: hf.LlavaOnevisionImageProcessorPil(
            size=made.SQUARE, image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]]
        ), made.onevision, special=("<image>", "<video>"),
        settings={"num_image_tokens": 4, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"},
    ),
    "qwen2_vl": Family(
        "Qwen2VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=made.PIXELS), made.qwen2_vl, special=made.QWEN_SPECIAL, image=made.QWEN_IMAGE,
    ),
    "qwen2_5_vl": Family(
        "Qwen2_5_VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=made.PIXELS), made.qwen25_vl, special=made.QWEN_SPECIAL, image=made.QWEN_IMAGE,
    ),
    "qwen3_vl": Family(
        "Qwen3VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=made.PIXELS), made.qwen3_vl, special=made.QWEN_SPECIAL, image=made.QWEN_IMAGE,
    ),
    "qwen3_5": Family(
        "Qwen3VLProcessor", lambda: hf.Qwen2VLImageProcessorPil(size=made.PIXELS), made.qwen35, special=made.QWEN_SPECIAL, image=made.QWEN_IMAGE,
    ),
    "internvl": Family(
        "InternVLProcessor", lambda: hf.GotOcr2ImageProcessorPil(size=made.SQUARE, crop_to_patches=True, min_patches=1, max_patches=3),
        made.internvl, special=made.INTERN, named=made.INTERN_NAMED, image="<IMG_CONTEXT>", settings={"image_seq_length": 1},
    ),
    "smolvlm": Family(
        "SmolVLMProcessor", lambda: hf.SmolVLMImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        made.smolvlm, special=made.SMOL, settings={"image_seq_len": 1},
    ),
    "idefics3": Family(
        "Idefics3Processor", lambda: hf.Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        made.idefics3, special=made.SMOL, settings={"image_seq_len": 1},
    ),
    "idefics2": Family(
        "Idefics2Processor", lambda: hf.Idefics2ImageProcessorPil(size={"shortest_edge": 14, "longest_edge": 28}), made.idefics2,
        special=made.SMOL[:3], settings={"image_seq_len": 3}, pieces=True,
    ),
    "paligemma": Family(
        "PaliGemmaProcessor", lambda: hf.SiglipImageProcessorPil(size=made.SQUARE, image_seq_length=4), made.paligemma, template=None, pieces=True,
    ),
    "gemma3": Family(
        "Gemma3Processor", lambda: hf.Gemma3ImageProcessorPil(size=made.SQUARE), made.gemma3, template=ROLES, pieces=True,
        special=("<image_soft_token>", "<start_of_image>", "<end_of_image>"), named=made.GEMMA_NAMED, image="<start_of_image>",
        settings={"image_seq_length": 4},
    ),
    "mllama": Family(
        "MllamaProcessor", lambda: hf.MllamaImageProcessorPil(size=made.SQUARE, max_image_tiles=2), made.mllama, template=ROLES,
        special=("<|image|>", "<|python_tag|>"), image="<|image|>",
    ),
    "pixtral": Family(
        "PixtralProcessor", lambda: hf.PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
        made.pixtral, special=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), image="[IMG]", settings={"patch_size": 14}, template=ROLES,
    ),
    "mistral3": Family(
        "PixtralProcessor", lambda: hf.PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
        made.mistral3, special=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), image="[IMG]",
        settings={"patch_size": 14, "spatial_merge_size": 2}, template=ROLES,
    ),
    "glm4v": Family(
        "Glm4vProcessor", lambda: hf.Glm4vImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 2 * 84 * 84}), made.glm4v,
        special=made.GLM, image="<|begin_of_image|><|image|><|end_of_image|>",
    ),
    "ovis2": Family(
        "Ovis2Processor", lambda: hf.Ovis2ImageProcessorPil(size=made.SQUARE, max_patches=2), made.ovis2, special=made.OVIS,
        settings={"image_seq_length": 4},
    ),
    "deepseek_vl": Family(
        "DeepseekVLProcessor", lambda: hf.DeepseekVLImageProcessorPil(size=made.SQUARE), made.deepseek_vl, special=("<image_placeholder>",),
        named={"image_token": "<image_placeholder>"}, image="<image_placeholder>", settings={"num_image_tokens": 4},
    ),
    "lfm2_vl": Family(
        "Lfm2VlProcessor", lambda: {
            "image_processor_type": "Lfm2VlImageProcessorFast", "tile_size": 28, "min_tiles": 2, "max_tiles": 4, "use_thumbnail": True,
            "min_image_tokens": 1, "max_image_tokens": 4, "encoder_patch_size": 14, "downsample_factor": 2, "do_image_splitting": True,
        }, made.lfm2_vl, special=("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *(
            f"<|img_row_{row}_col_{column}|>" for row in (1, 2, 3, 4) for column in (1, 2, 3, 4)
        )),
    ),
}  # fmt: skip
