"""Confidence of an answer from its token probabilities, calibrated. Needs numpy and pydantic.

Raw score: the product of the probabilities of the answer's tokens, where a number token counts with its neighbours
(see number_neighbours); calibration: Platt scaling, p = sigmoid(slope * logit(raw) + offset) (Platt 1999), fitted on held-out
frames against "the action is within tolerance".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

EPSILON = 1e-6
NEIGHBOURHOOD = {1: 0.6, 2: 0.03}  # decimals of a number token -> half width that counts as the same answer
_NUMBER_TOKEN = re.compile(r"(?P<before>[ ,(\[]*)(?P<number>(?P<sign>[+-]?)\d+\.(?P<decimals>\d+))(?P<after>[)\]]*)")
MIN_NUMBER_GROUP = 8  # tokens; fewer whole-number tokens of a form are taken as ordinary words


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Calibration:
    """Parameters of the map from raw score to probability of a good answer; the default leaves the score as it is."""

    slope: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    offset: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    acceleration_tolerance: Annotated[float, Field(gt=0, le=100)] = 1.0  # [m/s2], what "good" means
    steering_tolerance: Annotated[float, Field(gt=0, le=10)] = 0.03  # [rad]
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0  # recommended confidence floor of this model
    calibrated: bool = False  # fitted on drives; otherwise the score is what the tokens say, and no probability
    source: Annotated[str, Field(max_length=500)] = ""  # on what it was fitted, for the reader
    displacement_tolerance: Annotated[float, Field(gt=0, le=1000)] = 1.0  # [m], mean over the first 2 s of a trajectory

    def apply(self, raw: float) -> float:
        """Map a raw score in [0, 1] to a probability; NaN gives 0."""
        if not math.isfinite(raw):
            return 0.0
        return _sigmoid(self.slope * _logit(raw) + self.offset)


def fit_calibration(raw: np.ndarray, good: np.ndarray, steps: int = 200) -> tuple[float, float]:
    """Fit slope >= 0 and offset by Newton's method on the log-likelihood; raw (N,) in [0, 1], good (N,) bool."""
    features = np.stack([np.array([_logit(float(value)) for value in raw]), np.ones(len(raw))], axis=1)  # (N, 2)
    targets = np.where(
        good, (good.sum() + 1.0) / (good.sum() + 2.0), 1.0 / ((~good).sum() + 2.0)
    )  # Platt's smoothed targets
    weights = np.array([1.0, 0.0])
    loss = _log_loss(features, targets, weights)
    for _ in range(steps):
        probability = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (probability - targets)
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while np.abs(step).max() > 1e-8 and _log_loss(features, targets, weights - step) > loss:
            step = step / 2
        weights = weights - step
        loss = _log_loss(features, targets, weights)
        if np.abs(step).max() <= 1e-8:
            break
    if weights[0] < 0:  # the score says nothing: every answer gets the share of good ones
        return 0.0, _logit(float(targets.mean()))
    return float(weights[0]), float(weights[1])


def number_neighbours(vocabulary: Mapping[str, int]) -> dict[int, np.ndarray]:
    """Map every token that is a whole number, brackets around it or not, to those of the same form in its neighbourhood.

    Models that spell numbers digit by digit have no such tokens and get an empty map.
    """
    groups: dict[tuple[str, bool, int, str], list[tuple[float, int]]] = {}
    for word, index in vocabulary.items():
        match = _NUMBER_TOKEN.fullmatch(word)
        if match:
            form = match["before"], bool(match["sign"]), len(match["decimals"]), match["after"]
            groups.setdefault(form, []).append((float(match["number"]), index))
    neighbours = {}
    for (_, _, decimals, _), members in groups.items():
        width = NEIGHBOURHOOD.get(decimals)
        if width is None or len(members) < MIN_NUMBER_GROUP:
            continue
        values, ids = (np.array(column) for column in zip(*members, strict=True))
        for value, index in members:
            neighbours[index] = ids[np.abs(values - value) <= width + 1e-9]
    return neighbours


def _log_loss(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    score = features @ weights
    return float((np.logaddexp(0.0, score) - targets * score).sum())


def _logit(probability: float) -> float:
    clipped = min(max(probability, EPSILON), 1.0 - EPSILON)
    return math.log(clipped / (1.0 - clipped))


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(value, -30.0), 30.0)))
