"""Vision-language models of known shapes with random weights, made on the device itself, behind the node's own engine.

Needs the package, and of test/ the tokenizers that are trained on the spot; nothing is downloaded.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tiny_tokenizers import SPECIAL, piece_tokenizer
from tiny_vlms import CHATML, ROLES

from owled_ros.driving.prediction import ModelIdentity
from owled_ros.driving.presets import preset
from owled_ros.models.chat import Chat
from owled_ros.models.decoding import Decoding
from owled_ros.models.engine import VlmEngine
from owled_ros.models.processor import load_processor
from owled_ros.models.prompt import Prompter
from owled_ros.models.runners import TorchRunner

ANSWER_TOKENS = 12
TINY_VOCABULARY = 2048
QUESTION = "{images}Where to?"
QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def llava_7b(ids: dict[str, int], tiny: bool) -> tuple[Any, dict[str, Any], dict[str, Any], str]:
    """LLaVA-1.5-7B: config, settings of the image processor and of the processor, chat template."""
    side = 28 if tiny else 336
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    if tiny:
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        text = dict(vision)
    vocabulary = TINY_VOCABULARY if tiny else 32064
    text |= {
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "num_key_value_heads": text["num_attention_heads"],
    }
    config = hf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": side, "patch_size": 14, **vision},
        text_config={"model_type": "llama", **text},
        image_token_index=ids["<image>"],
    )
    square = {"height": side, "width": side}
    images = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}, "crop_size": square}
    known = {"vision_feature_select_strategy": "default", "patch_size": 14, "num_additional_image_tokens": 1}
    return config, images, {"processor_class": "LlavaProcessor", **known}, ROLES.replace("IMAGE", "<image>")


def qwen_3b(ids: dict[str, int], tiny: bool) -> tuple[Any, dict[str, Any], dict[str, Any], str]:
    """Qwen2.5-VL-3B, shown 336 x 336 pixels."""
    side = 28 if tiny else 336
    vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048}
    vision |= {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    text: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
    text |= {"num_attention_heads": 16, "num_key_value_heads": 2}
    sections = [16, 24, 24]
    if tiny:
        vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 32}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        sections = [1, 1, 2]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}
    names = {"image_token_id": QWEN[2], "video_token_id": QWEN[3], "vision_start_token_id": QWEN[0]}
    config = hf.Qwen2_5_VLConfig(
        vision_config={"patch_size": 14, **vision},
        text_config={
            **text,
            "vocab_size": TINY_VOCABULARY if tiny else 151936,
            "max_position_embeddings": 4096,
            "rope_parameters": rope,
        },
        tie_word_embeddings=True,
        vision_end_token_id=ids[QWEN[1]],
        **{name: ids[token] for name, token in names.items()},
    )
    pixels = {"shortest_edge": side * side, "longest_edge": side * side}
    images = {"image_processor_type": "Qwen2VLImageProcessor", "size": pixels}
    return (
        config,
        images,
        {"processor_class": "Qwen2_5_VLProcessor"},
        CHATML.replace("IMAGE", QWEN[0] + QWEN[2] + QWEN[1]),
    )


SHAPES = {"llava_7b": llava_7b, "qwen_3b": qwen_3b}


def make(name: str, device: str, dtype: torch.dtype, tiny: bool) -> tuple[Any, Any]:
    """Return a model with random weights on the device, and its processor."""
    special = (*SPECIAL, "<image>", *QWEN)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=piece_tokenizer(special),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    config, images, settings, template = SHAPES[name](ids, tiny)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        config.save_pretrained(place)
        tokenizer.save_pretrained(place)
        (place / "preprocessor_config.json").write_text(json.dumps(images))
        (place / "processor_config.json").write_text(json.dumps(settings))
        (place / "chat_template.jinja").write_text(template)
        processor = load_processor(place)
    torch.manual_seed(0)
    with torch.device(device):
        model = hf.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = ids["</s>"]
    model.generation_config.pad_token_id = ids["<pad>"]
    return model.eval(), processor


def make_engine(
    model: Any, processor: Any, device: str, dtype: torch.dtype, decoding: str = "auto", tokens: int = ANSWER_TOKENS
) -> VlmEngine:
    """Put the node's engine around a model: one image, twelve tokens or as many as are told."""
    profile = preset("points")
    call = profile.calls[0].model_copy(update={"user": QUESTION, "max_tokens": tokens})
    profile = profile.model_copy(update={"calls": (call,)})
    runner = TorchRunner(model, device, dtype, None, decoding)
    chat = Chat(
        runner, Prompter(processor, model.config), Decoding(model.config, model.generation_config, processor.tokenizer)
    )
    return VlmEngine(chat, profile, profile.kind(Path()), ModelIdentity("random"), {"device": device})


def step_bytes(model: Any) -> int:
    """Count the bytes of weights that a token reads: the language model's layers and the output matrix."""
    parts = (model.get_decoder().layers, model.get_output_embeddings())
    weights = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in weights)
