"""LlmDriver models before training: a tiny host from scratch, or any causal LM of a directory. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.driving.answers.pedals import PedalsSpec
from owled_ros.driving.profile import PROFILE_NAME, DrivingProfile, profile_text
from owled_ros.driving.profile_parts import Call, Vectors
from owled_ros.driving.vector_words import ACT
from owled_ros.driving.vectors import VectorScene
from owled_ros.errors import OwledError
from owled_ros.files import replace_directory, write_atomic
from owled_ros.llm_driver import tokens
from owled_ros.llm_driver.examples import TRAINING_SEEDS, world_scene
from owled_ros.models.llm_driver import (
    LlmDriverConfig,
    LlmDriverForConditionalGeneration,
    register,
)
from owled_ros.models.llm_driver_processor import LlmDriverProcessor, with_vector_token
from owled_ros.models.vector_encoder import VectorConfig, start
from owled_ros.scenes.vector_random import random_scene

TINY = "tiny"
WIDTH, HEADS, MLP, LAYERS, POSITIONS = 128, 4, 384, 3, 512
ACTION_TOKENS, SCENE_TOKENS = 24, 400
LOUD = 10.0  # how much larger the tiny host's words are than a Llama's at first
MEASURED = (64, 256)  # scenes of our own world and of chance from which the encoder takes what features are like
NOTICED = 2.0  # size of the adapter's output at first: with 0.5 the host learns much later that scenes differ


def build_tiny(
    seed: int, encoder: VectorConfig | None = None, scenes: Sequence[VectorScene] = ()
) -> tuple[Any, LlmDriverProcessor]:
    """Make the tiny host with an encoder, all from random numbers; number tokens begin as waves of their value.

    The encoder is begun with `scenes` beside those of our own world.
    """
    from transformers import LlamaConfig

    register()
    torch.manual_seed(seed)
    vectors = encoder or VectorConfig()
    text = LlamaConfig(
        vocab_size=len(tokens.vocabulary()), hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=POSITIONS, tie_word_embeddings=False,
        bos_token_id=tokens.BOS, eos_token_id=tokens.EOS, pad_token_id=tokens.PAD,
    )  # fmt: skip
    config = LlmDriverConfig(vector_config=vectors, text_config=text, vector_token_id=tokens.VECTORS)
    model = LlmDriverForConditionalGeneration(config)
    features = torch.from_numpy(tokens.number_features(WIDTH))
    with torch.no_grad():
        for name, weight in model.model.language_model.layers.named_parameters():
            if weight.ndim == 2:
                ends = name.endswith(("o_proj.weight", "down_proj.weight"))  # they are added up, two of every layer
                weight.normal_(std=weight.shape[1] ** -0.5 * ((2 * LAYERS) ** -0.5 if ends else 1.0))
        for table in (model.get_input_embeddings(), model.lm_head):
            weight = table.get_parameter("weight")
            weight.add_(features * weight.std())
        model.get_input_embeddings().get_parameter("weight").mul_(LOUD)
    _settle(model, tokens.EOS, tokens.PAD, scenes)
    return model, LlmDriverProcessor(tokens.build_tokenizer(), vectors.num_latents)


def build_on(
    host: Path, seed: int, encoder: VectorConfig | None = None, scenes: Sequence[VectorScene] = ()
) -> tuple[Any, LlmDriverProcessor]:
    """Put an untrained encoder and adapter before the causal LM of a directory or GGUF file.

    Raises:
        OwledError: there is no causal LM that can be read, or its tokenizer has neither pad nor end token.
    """
    from owled_ros.models.load import is_vision_language, load_model
    from owled_ros.models.processor import load_processor

    register()
    lm = load_model(host)
    if is_vision_language(lm.config):
        raise OwledError(
            f"{host} holds a {lm.config.model_type} model; a host is a causal language model without images"
        )
    tokenizer = with_vector_token(load_processor(host))
    torch.manual_seed(seed)
    lm.resize_token_embeddings(max(len(tokenizer), len(lm.get_input_embeddings().get_parameter("weight"))))
    vectors = encoder or VectorConfig(hidden_size=256, num_latents=32, num_hidden_layers=4, intermediate_size=768)
    config = LlmDriverConfig(
        vector_config=vectors, text_config=lm.config, tie_word_embeddings=bool(lm.config.tie_word_embeddings),
        vector_token_id=tokenizer.convert_tokens_to_ids(LlmDriverProcessor.image_token),
    )  # fmt: skip
    model = LlmDriverForConditionalGeneration(config)
    model.model.language_model = lm.base_model
    model.lm_head = lm.get_output_embeddings()
    _settle(model, tokenizer.eos_token_id, tokenizer.pad_token_id, scenes)
    return model, LlmDriverProcessor(tokenizer, vectors.num_latents)


def build_profile() -> DrivingProfile:
    """Return how an LlmDriver is asked by the node: vectors in, pedals out."""
    return DrivingProfile(
        vectors=Vectors(), calls=(Call(user="{vectors}" + ACT, max_tokens=ACTION_TOKENS),), answer=PedalsSpec(),
        question=Call(name="question", user="{vectors}{question}", max_tokens=SCENE_TOKENS),
    )  # fmt: skip


def save(model: Any, processor: LlmDriverProcessor, directory: Path, card: str) -> None:
    """Write a Hugging Face directory (safetensors, tokenizer, driving.json, README) in one step."""
    with replace_directory(directory) as aside:
        model.save_pretrained(aside)
        processor.save_pretrained(aside)
        write_atomic(aside / "README.md", card)
        write_atomic(aside / PROFILE_NAME, profile_text(build_profile()))


@torch.no_grad()
def _settle(model: Any, end: int, pad: int, scenes: Sequence[VectorScene]) -> None:
    """Say where answers end, and begin with an encoder that tells scenes apart and an adapter that is noticed beside words."""
    shown = np.stack([*_own_scenes(), *(scene.packed() for scene in scenes)])
    model.model.vector_encoder.begin(torch.from_numpy(shown))
    adapter = model.model.adapter
    start(adapter.fc1)
    start(adapter.fc2, NOTICED)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = pad


@lru_cache(maxsize=1)
def _own_scenes() -> tuple[np.ndarray, ...]:
    own = [world_scene(TRAINING_SEEDS + number).scene for number in range(MEASURED[0])]
    chance = [random_scene(np.random.default_rng([TRAINING_SEEDS, number])) for number in range(MEASURED[1])]
    return tuple(scene.packed() for scene in (*own, *chance))
