"""Answers of the bundled model for many images at once: for calibration, benchmarks and pruning studies. Needs torch.

The node and the evaluation of bags use models.engine, one frame at a time; here the same greedy decoding runs in
batches, which is possible because every prefix of the bundled model has the same length.

Shape letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from owled_ros.driving.confidence import Calibration, number_neighbours
from owled_ros.driving.familiarity import Familiarity
from owled_ros.driving.frame import EgoState
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.prediction import Generation
from owled_ros.errors import OwledError
from owled_ros.progress import track
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.mini_data import prefix_ids
from owled_ros.scenes.mini_model import (
    ACTION_TOKENS,
    IMAGE_MEAN,
    IMAGE_STD,
    PATH_TOKENS,
    SCENE_TOKENS,
)

BATCH = 50
Trust = Callable[[float], float]


@torch.inference_mode()
def answer_images(
    model: Any,
    images: Sequence[np.ndarray],
    egos: Sequence[EgoState],
    calibration: Calibration | None = None,
    familiarity: Familiarity | None = None,
    scene: bool = True,
) -> list[tuple[Generation, Generation | None]]:
    """Answer both questions about images (H, W, 3) uint8 of the model's size; returns (action, scene) per image.

    A model that is told a command is told to follow the lane.
    """
    questions = ((tokens.ACTION_QUESTION, ACTION_TOKENS), (tokens.SCENE_QUESTION, SCENE_TOKENS))[: 1 + scene]
    commands = [NavigationCommand(CommandKind.FOLLOW_LANE)] * len(images)
    told = commands if tokens.knows_paths(model.config.text_config.vocab_size) else [None] * len(images)
    found = _answered(model, images, egos, told, questions, calibration, familiarity)
    return [(row[0], row[1] if scene else None) for row in found]


@torch.inference_mode()
def answer_paths(
    model: Any,
    images: Sequence[np.ndarray],
    egos: Sequence[EgoState],
    commands: Sequence[NavigationCommand],
    calibration: Calibration | None = None,
    familiarity: Familiarity | None = None,
) -> list[Generation]:
    """Answer for a trajectory; the model must be one that was trained with paths."""
    if not tokens.knows_paths(model.config.text_config.vocab_size):
        raise OwledError("the model was trained without paths; expected one of `owled train-mini --paths`")
    question = ((tokens.PATH_QUESTION, PATH_TOKENS),)
    return [row[0] for row in _answered(model, images, egos, commands, question, calibration, familiarity)]


def _answered(
    model: Any,
    images: Sequence[np.ndarray],
    egos: Sequence[EgoState],
    commands: Sequence[NavigationCommand | None],
    questions: Sequence[tuple[str, int]],
    calibration: Calibration | None,
    familiarity: Familiarity | None,
) -> list[tuple[Generation, ...]]:
    calibration = calibration or Calibration()
    answers: list[tuple[Generation, ...]] = []
    for first in track(range(0, len(images), BATCH), "answer images"):
        part = slice(first, first + BATCH)
        ids = torch.tensor(
            [prefix_ids(ego, command) for ego, command in zip(egos[part], commands[part], strict=True)],
            device=model.device,
        )  # (B, T)
        pixels = torch.from_numpy(np.stack(images[part])).permute(0, 3, 1, 2).float()
        pixels = (pixels / 255 - IMAGE_MEAN) / IMAGE_STD
        cache = model(
            input_ids=ids, pixel_values=pixels.to(model.device, model.dtype), use_cache=True, logits_to_keep=1
        ).past_key_values
        trust = [calibrate_with(calibration, familiarity, image) for image in images[part]]
        columns = []
        for number, (question, limit) in enumerate(questions):
            if number:
                cache.crop(ids.shape[1] - cache.get_seq_length())
            columns.append(_decode(model, cache, ids.shape, question, limit, trust))
        answers += list(zip(*columns, strict=True))
    return answers


def _decode(
    model: Any, cache: Any, shape: torch.Size, question: str, limit: int, trust: Sequence[Trust]
) -> list[Generation]:
    size, seen = shape
    paths = tokens.knows_paths(model.config.text_config.vocab_size)
    vocabulary = tokens.vocabulary(paths)
    near = torch.eye(len(vocabulary))  # (V, V)
    for token, ids in number_neighbours(vocabulary).items():
        near[token, ids] = 1.0
    near = near.to(model.device)
    step = torch.full((size, 1), vocabulary[question], device=model.device)
    chosen, scores = [], torch.zeros(size, device=model.device)
    running = torch.ones(size, dtype=torch.bool, device=model.device)
    for _ in range(limit):
        seen += 1
        mask = torch.ones(size, seen, dtype=torch.long, device=model.device)
        output = model(input_ids=step, attention_mask=mask, past_key_values=cache, use_cache=True)
        probabilities = output.logits[:, -1].float().softmax(-1)  # (B, V)
        best = probabilities.argmax(-1)
        mass = (probabilities * near[best]).sum(-1)
        scores += torch.where(running, mass.clamp(min=1e-12).log(), 0.0)
        best = torch.where(running, best, tokens.PAD)
        chosen.append(best)
        running &= best != tokens.EOS
        if not running.any():
            break
        step = best[:, None]
    rows = torch.stack(chosen, 1).tolist()
    return [
        _generation(row, score, judge, paths) for row, score, judge in zip(rows, scores.tolist(), trust, strict=True)
    ]


def calibrate_with(calibration: Calibration, familiarity: Familiarity | None, image: np.ndarray) -> Trust:
    """Return the map from a raw score to the confidence for answers about one image."""
    known = 1.0 if familiarity is None else familiarity.of(image)
    return lambda raw: calibration.apply(raw) * known


def _generation(row: list[int], score: float, trust: Trust, paths: bool) -> Generation:
    complete = tokens.EOS in row
    ids = row[: row.index(tokens.EOS)] if complete else row
    text = str(tokens.build_tokenizer(paths).decode(ids, skip_special_tokens=True)).strip()
    return Generation(text, complete, trust(float(np.exp(score))), len(ids), 0.0)
