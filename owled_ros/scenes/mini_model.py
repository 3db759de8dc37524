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
from owled_ros.driving.navigation import CommandKind
from owled_ros.driving.profile import PROFILE_NAME, DrivingProfile, profile_text
from owled_ros.driving.profile_parts import Call, Camera, Command, Number
from owled_ros.errors import OwledError
from owled_ros.files import replace_directory, write_atomic
from owled_ros.scenes import mini_tokens as tokens

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

IMAGE_SIDE = 192  # [px], the camera image is squashed to a square
PATCH = 16  # [px]
GRID = IMAGE_SIDE // PATCH
IMAGE_TOKENS = GRID * GRID
IMAGE_MEAN, IMAGE_STD = 0.4627, 0.25
ACTION_TOKENS, SCENE_TOKENS, PATH_TOKENS = 8, 48, 16  # at most
WIDTH, HEADS, MLP = 256, 4, 768
VISION_LAYERS, TEXT_LAYERS = 6, 4


def build_model(seed: int, paths: bool = False) -> LlavaForConditionalGeneration:
    """Make the model with random weights; positions start as 2-D sinusoids, numbers as Fourier features of their value.

    With `paths` it has the tokens of commands and places too.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=VISION_LAYERS, num_attention_heads=HEADS,
        image_size=IMAGE_SIDE, patch_size=PATCH, projection_dim=WIDTH,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokens.vocabulary(paths)), hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=TEXT_LAYERS,
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
    _start_smooth(model, paths)
    return model


@torch.no_grad()
def take_up(model: LlavaForConditionalGeneration, directory: Path) -> None:
    """Copy the weights of a trained model of this architecture; tokens that it did not have keep their start, at its scale.

    Raises:
        OwledError: the directory holds no such model.
    """
    from transformers import LlavaForConditionalGeneration

    try:
        known = dict(LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).named_parameters())
    except (OSError, ValueError) as error:
        raise OwledError(f"{directory} cannot be taken up ({error}); give a directory of the bundled model") from error
    for name, parameter in model.named_parameters():
        old = known.get(name)
        if old is None or old.shape[1:] != parameter.shape[1:] or len(old) > len(parameter):
            raise OwledError(
                f"{directory} is of another architecture: {name} does not fit; give one of the bundled model"
            )
        new = parameter[len(old) :]
        new *= old.std() / new.std() if new.numel() else 1.0
        parameter[: len(old)] = old


def build_profile(
    max_action_tokens: int = ACTION_TOKENS,
    max_scene_tokens: int = SCENE_TOKENS,
    confidence: Calibration | None = None,
    paths: bool = False,
) -> DrivingProfile:
    """Return how the bundled model is asked: for an action, or with `paths` for a trajectory, telling it the command."""
    prefix = "{images}{ego}{command}" if paths else "{images}{ego}"
    action = Call(user=prefix + tokens.ACTION_QUESTION, max_tokens=max_action_tokens)
    path = Call(user=prefix + tokens.PATH_QUESTION, max_tokens=PATH_TOKENS)
    return DrivingProfile(
        cameras=(Camera(size=(IMAGE_SIDE, IMAGE_SIDE)),),
        numbers={
            "speed": Number(step=tokens.SPEED_STEP, min=0.0, max=tokens.MAX_SPEED),
            "yaw_rate": Number(step=tokens.YAW_RATE_STEP, min=-tokens.MAX_YAW_RATE, max=tokens.MAX_YAW_RATE),
        },
        ego=tokens.EGO_TEMPLATE,
        command=_command() if paths else None,
        calls=(path if paths else action,),
        scene=Call(name="scene", user=prefix + tokens.SCENE_QUESTION, max_tokens=max_scene_tokens),
        question=Call(name="question", user=prefix + "{question}", max_tokens=128),
        answer=tokens.PATH_SPEC if paths else LineSpec(),
        confidence=confidence or Calibration(),
    )


def _command() -> Command:
    words = {kind.name.lower(): word for kind, word in tokens.COMMAND_WORDS.items()}
    return Command(words=words, required=False, missing=tokens.COMMAND_WORDS[CommandKind.FOLLOW_LANE])


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
    tokenizer = tokens.build_tokenizer(tokens.knows_paths(len(model.get_output_embeddings().get_parameter("weight"))))
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
def _start_smooth(model: LlavaForConditionalGeneration, paths: bool) -> None:
    named = dict(model.named_parameters())
    quarter = WIDTH // 4
    frequency = 1 / 50 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")

    def waves(position: torch.Tensor) -> torch.Tensor:
        angle = position.reshape(-1, 1) * 2.0 * frequency  # (GRID * GRID, C / 4)
        return torch.cat([angle.sin(), angle.cos()], 1)

    positions = next(p for name, p in named.items() if "vision" in name and "position_embedding.weight" in name)
    positions[1:] = torch.cat([waves(rows.float()), waves(columns.float())], 1) * 0.7
    numbers = torch.from_numpy(tokens.ordinal_features(WIDTH, paths))  # (V, C)
    for name, parameter in named.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            parameter.add_(numbers * parameter.std() * (2.0 if "embed" in name else 1.0))
