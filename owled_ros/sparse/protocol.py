"""What a decoder is: its operations, its cache, its facts, and what it decoded; implemented by native and fallback. Needs numpy.

Shape letters: T tokens, C hidden size, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from owled_ros.errors import OwledError


@dataclass(frozen=True)
class DecoderFacts:
    """What a report or `owled doctor` says about an open decoder."""

    kernel: str  # "avx512bf16", "avx512", "avx2", "neon", "scalar" or "torch"
    threads: int
    hidden: int  # C
    layers: int
    vocabulary: int  # V
    max_positions: int
    file_bytes: int  # size on disk
    step_bytes: int  # weights read per decoded token [bytes]
    weights: int  # entries of all matrices, zeros included
    nonzeros: int


@dataclass(frozen=True)
class Generation:
    """Decoded tokens; a stop token is included, the last token is not in the cache."""

    tokens: list[int]
    log_probabilities: list[float]  # natural logarithm, under the model at temperature 1
    finish: str  # "stop", "length", "cancelled" or "callback"


class Cache(Protocol):
    """Keys and values of the positions seen so far."""

    @property
    def length(self) -> int:
        """Positions in the cache."""

    @property
    def max_tokens(self) -> int:
        """Positions that fit."""

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` positions; they are decoded from again at no cost."""

    def fork(self) -> Cache:
        """Copy the positions into a cache of its own."""

    def close(self) -> None:
        """Free the memory."""


class Decoder(Protocol):
    """A decoder on packed weights. Calls from several threads are serialised; two decoders run side by side."""

    @property
    def facts(self) -> DecoderFacts:
        """Sizes and kernel."""

    def embed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Look up token embeddings: (T, C) float32."""

    def new_cache(self, max_tokens: int) -> Cache:
        """Make an empty cache; memory is taken as it fills."""

    def prefill(self, cache: Cache, embeddings: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Append T tokens from their embeddings (T, C), image tokens among them; logits (V,) of the last.

        Args:
            cache: They are appended to it.
            embeddings: (T, C).
            positions: (T, D / 2) for head size D, the rotary position of every pair, for models that place images in
                three dimensions; whatever follows goes on behind the largest. None: one after the other.
        """

    def step(self, cache: Cache, token: int) -> np.ndarray:
        """Append one token; logits (V,) float32 of the next."""

    def generate(
        self,
        cache: Cache,
        first_logits: np.ndarray,
        max_tokens: int,
        stop_ids: Sequence[int] = (),
        temperature: float = 0.0,
        cancelled: Callable[[], bool] | None = None,
        on_token: Callable[[int, float], bool | None] | None = None,
        seed: int = 0,
    ) -> Generation:
        """Decode from the logits of the last position in the cache; temperature 0 is greedy.

        Args:
            cache: Holds the prefix; the tokens decoded are appended to it, except the last one.
            first_logits: (V,), from `prefill` or `step`.
            max_tokens: At most so many; decoding also ends when the cache is full.
            stop_ids: Tokens that end the answer; the one found is the last token returned.
            temperature: Above 0 samples with `seed`.
            cancelled: Asked before every token.
            on_token: Gets every token with its log probability; returning True ends the answer (stop strings).
            seed: Of the sampler.
        """

    def close(self) -> None:
        """Free everything; caches are closed with it."""


def checked_positions(positions: np.ndarray | None, tokens: int, pairs: int) -> tuple[np.ndarray | None, int]:
    """Give rotary positions (T, D / 2) as float32 and the position behind them; raises OwledError when they do not fit."""
    if positions is None:
        return None, 0
    places = np.ascontiguousarray(positions, np.float32)
    if places.shape != (tokens, pairs) or not np.isfinite(places).all() or places.min(initial=0) < 0:
        raise OwledError(
            f"rotary positions of shape {places.shape}, expected ({tokens}, {pairs}) with none below zero or not finite"
        )
    return places, int(places.max(initial=-1)) + 1
