"""The bundled model: a stock LLaVA (CLIP tower + Llama) small enough for two CPU cores. Needs torch and transformers.

Shape letters: B batch, T tokens, V vocabulary, C width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.confidence import Calibration
from owled_ros.driving.familiarity import Familiarity, write_familiarity
from owled_ros.driving.profile import PROFILE_NAME, DrivingProfile, profile_text
from owled_ros.driving.profile_parts import Call, Camera, Number
from owled_ros.files import replace_directory, write_atomic
from owled_ros.scenes import mini_tokens as tokens

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

IMAGE_SIDE = 192  # [px], the camera image is squashed to a square
PATCH = 16  # [px]
GRID = IMAGE_SIDE // PATCH
IMAGE_TOKENS = GRID * GRID
IMAGE_MEAN, IMAGE_STD = 0.4627, 0.25
ACTION_TOKENS, SCENE_TOKENS = 8, 48  # at most
WIDTH, HEADS, MLP = 256, 4, 768
VISION_LAYERS, TEXT_LAYERS = 6, 4


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """Make the model with random weights; positions start as 2-D sinusoids, numbers as Fourier features of their value."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=VISION_LAYERS, num_attention_heads=HEADS,
        image_size=IMAGE_SIDE, patch_size=PATCH, projection_dim=WIDTH,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokens.vocabulary()), hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=tokens.BOS, eos_token_id=tokens.EOS, pad_token_id=tokens.PAD,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokens.IMAGE, vision_feature_layer=-1,
        vision_feature_select_strategy="default", image_seq_length=IMAGE_TOKENS, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokens.EOS
    model.generation_config.pad_token_id = tokens.PAD
    _start_smooth(model)
    return model


def build_profile(
    max_action_tokens: int = ACTION_TOKENS, max_scene_tokens: int = SCENE_TOKENS, confidence: Calibration | None = None
) -> DrivingProfile:
    """Return how the bundled model is asked."""
    return DrivingProfile(
        cameras=(Camera(size=(IMAGE_SIDE, IMAGE_SIDE)),),
        numbers={
            "speed": Number(step=tokens.SPEED_STEP, min=0.0, max=tokens.MAX_SPEED),
            "yaw_rate": Number(step=tokens.YAW_RATE_STEP, min=-tokens.MAX_YAW_RATE, max=tokens.MAX_YAW_RATE),
        },
        ego=tokens.EGO_TEMPLATE,
        calls=(Call(user="{images}{ego}" + tokens.ACTION_QUESTION, max_tokens=max_action_tokens),),
        scene=Call(name="scene", user="{images}{ego}" + tokens.SCENE_QUESTION, max_tokens=max_scene_tokens),
        question=Call(name="question", user="{images}{ego}{question}", max_tokens=128),
        answer=LineSpec(),
        confidence=confidence or Calibration(),
    )


def save_model(
    model: LlavaForConditionalGeneration,
    directory: Path,
    profile: DrivingProfile,
    card: str,
    dtype: torch.dtype = torch.float16,
    familiarity: Familiarity | None = None,
) -> None:
    """Write a Hugging Face directory (safetensors, processor, driving.json, README) in one step."""
    import copy

    from transformers import CLIPImageProcessorPil, LlavaProcessor

    images = CLIPImageProcessorPil(
        do_resize=True, size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}, do_center_crop=False, do_convert_rgb=False,
        image_mean=[IMAGE_MEAN] * 3, image_std=[IMAGE_STD] * 3,
    )  # fmt: skip
    tokenizer = tokens.build_tokenizer()
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template, num_additional_image_tokens=1,
    )  # fmt: skip
    with replace_directory(directory) as aside:
        stored = copy.deepcopy(model)
        torch.nn.Module.to(stored, dtype)
        stored.save_pretrained(aside)
        processor.save_pretrained(aside)
        write_atomic(aside / PROFILE_NAME, profile_text(profile))
        write_atomic(aside / "README.md", card)
        if familiarity is not None:
            write_familiarity(aside, familiarity)


@torch.no_grad()
def _start_smooth(model: LlavaForConditionalGeneration) -> None:
    named = dict(model.named_parameters())
    quarter = WIDTH // 4
    frequency = 1 / 50 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")

    def waves(position: torch.Tensor) -> torch.Tensor:
        angle = position.reshape(-1, 1) * 2.0 * frequency  # (GRID * GRID, C / 4)
        return torch.cat([angle.sin(), angle.cos()], 1)

    positions = next(p for name, p in named.items() if "vision" in name and "position_embedding.weight" in name)
    positions[1:] = torch.cat([waves(rows.float()), waves(columns.float())], 1) * 0.7
    numbers = torch.from_numpy(tokens.ordinal_features(WIDTH))  # (V, C)
    for name, parameter in named.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            parameter.add_(numbers * parameter.std() * (2.0 if "embed" in name else 1.0))
