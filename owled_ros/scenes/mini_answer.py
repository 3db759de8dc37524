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
from owled_ros.driving.prediction import Generation
from owled_ros.progress import track
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.mini_model import (
    ACTION_TOKENS,
    IMAGE_MEAN,
    IMAGE_STD,
    IMAGE_TOKENS,
    SCENE_TOKENS,
    build_profile,
)

BATCH = 50
Trust = Callable[[float], float]
PROFILE = build_profile()


@torch.inference_mode()
def answer_images(
    model: Any,
    images: Sequence[np.ndarray],
    egos: Sequence[EgoState],
    calibration: Calibration | None = None,
    familiarity: Familiarity | None = None,
    scene: bool = True,
) -> list[tuple[Generation, Generation | None]]:
    """Answer both questions about images (H, W, 3) uint8 of the model's size; returns (action, scene) per image."""
    calibration = calibration or Calibration()
    answers: list[tuple[Generation, Generation | None]] = []
    for first in track(range(0, len(images), BATCH), "answer images"):
        batch, motions = images[first : first + BATCH], egos[first : first + BATCH]
        ids = torch.tensor([_prefix(ego) for ego in motions], device=model.device)  # (B, T)
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float()
        pixels = (pixels / 255 - IMAGE_MEAN) / IMAGE_STD
        cache = model(
            input_ids=ids, pixel_values=pixels.to(model.device, model.dtype), use_cache=True, logits_to_keep=1
        ).past_key_values
        trust = [calibrate_with(calibration, familiarity, image) for image in batch]
        actions = _decode(model, cache, ids.shape, tokens.ACTION_QUESTION, ACTION_TOKENS, trust)
        if not scene:
            answers += [(action, None) for action in actions]
            continue
        cache.crop(ids.shape[1] - cache.get_seq_length())
        scenes = _decode(model, cache, ids.shape, tokens.SCENE_QUESTION, SCENE_TOKENS, trust)
        answers += list(zip(actions, scenes, strict=True))
    return answers


def _decode(
    model: Any, cache: Any, shape: torch.Size, question: str, limit: int, trust: Sequence[Trust]
) -> list[Generation]:
    size, seen = shape
    vocabulary = tokens.vocabulary()
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
    return [_generation(row, score, judge) for row, score, judge in zip(rows, scores.tolist(), trust, strict=True)]


def calibrate_with(calibration: Calibration, familiarity: Familiarity | None, image: np.ndarray) -> Trust:
    """Return the map from a raw score to the confidence for answers about one image."""
    known = 1.0 if familiarity is None else familiarity.of(image)
    return lambda raw: calibration.apply(raw) * known


def _generation(row: list[int], score: float, trust: Trust) -> Generation:
    complete = tokens.EOS in row
    ids = row[: row.index(tokens.EOS)] if complete else row
    text = str(tokens.build_tokenizer().decode(ids, skip_special_tokens=True)).strip()
    return Generation(text, complete, trust(float(np.exp(score))), len(ids), 0.0)


def _prefix(ego: EgoState) -> list[int]:
    sentence = tokens.build_tokenizer()(PROFILE.ego_sentence(ego), add_special_tokens=False).input_ids
    return [tokens.BOS] + [tokens.IMAGE] * IMAGE_TOKENS + sentence
