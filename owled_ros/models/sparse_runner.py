"""A text runner on packed weights: the sparse decoder generates, torch encodes the images, with packed layers where the file has them.

Needs torch and owled_ros.sparse.

Shape letters: T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.errors import OwledError
from owled_ros.models.components import component_of
from owled_ros.sparse.architecture import position_sections
from owled_ros.sparse.decoder import SparseDecoder
from owled_ros.sparse.linear import put_linears
from owled_ros.sparse.native import NativeDecoder
from owled_ros.sparse.protocol import Cache, DecoderFacts

LANGUAGE_PARTS = ("language_model", "text_model")
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # what the decoder does not need
CACHE_STEP = 1024  # tokens that the cache grows by


class SparseRunner:
    """Vision tower and projector in torch, the language model in the sparse decoder with one cache."""

    packed_layers = 0  # Linear layers outside the language model that multiply with packed weights

    def __init__(self, model: Any, packed: Path, dtype: torch.dtype, threads: int, kernel: str = "auto") -> None:
        self._decoder = SparseDecoder.open(packed, threads=threads, kernel=kernel)
        part = next((name for name in LANGUAGE_PARTS if hasattr(model.model, name)), None)
        if part is None:
            raise OwledError(
                f"no language model found inside {type(model).__name__}; expected one named {' or '.join(LANGUAGE_PARTS)}"
            )
        self._capture = _Capture(getattr(model.model, part))
        self._sections = position_sections(self._capture.config.to_dict())
        hidden = self._capture.embed_tokens.weight.shape[1]
        if hidden != self._decoder.facts.hidden:
            raise OwledError(
                f"{packed} has hidden size {self._decoder.facts.hidden}, the model {hidden}; pack the model again"
            )
        setattr(model.model, part, self._capture)  # frees the dense language model
        self._seeing, self._dtype = model.model.eval(), dtype
        if isinstance(self._decoder, NativeDecoder):
            self.packed_layers = put_linears(model, self._decoder.model, _in_vision_tower)
        self._cache: Cache | None = None

    @property
    def facts(self) -> DecoderFacts:
        """Sizes and kernel of the decoder."""
        return self._decoder.facts

    @property
    def torch_parameters(self) -> int:
        """Count the weights that torch keeps beside the packed ones."""
        return sum(parameter.numel() for parameter in self._seeing.parameters())

    @property
    def cache_tokens(self) -> int:
        """Positions that memory is reserved for."""
        return 0 if self._cache is None else self._cache.max_tokens

    def can_keep(self, length: int) -> bool:
        """Tell whether the cache holds so many tokens; it can be cut anywhere."""
        return self._cache is not None and length <= self._cache.length

    def read(self, inputs: Mapping[str, Any], keep: int = 0, room: int = 0) -> np.ndarray:
        """Read a whole prompt of which the first `keep` tokens are in the cache."""
        ids = inputs["input_ids"][0]
        cache = self._cache
        tokens = min(len(ids) + room, self._decoder.facts.max_positions)
        if keep and cache is not None and tokens <= cache.max_tokens:
            cache.truncate(keep)
            return self._decoder.prefill(cache, self._decoder.embed(ids[keep:].tolist()))
        images = {
            name: value.to(self._dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in inputs.items()
            if name not in TEXT_INPUTS
        }
        with torch.inference_mode():
            self._seeing(input_ids=inputs["input_ids"], **images, use_cache=False)
        embeddings = self._capture.embeddings[0].float().numpy()  # (T, C)
        cache = self._emptied(tokens)
        return self._decoder.prefill(cache, embeddings, pair_positions(self._capture.positions, self._sections))

    def extend(self, token: int) -> np.ndarray:
        """Read one more token."""
        assert self._cache is not None
        return self._decoder.step(self._cache, token)

    def keep_hidden(self) -> None:
        """Refuse: the decoder gives logits only."""
        raise OwledError("the packed decoder keeps no hidden states, which a trajectory head needs; use runtime torch")

    def hidden(self) -> np.ndarray:
        """Refuse, as keep_hidden does."""
        raise OwledError("the packed decoder keeps no hidden states; use runtime torch")

    def _emptied(self, tokens: int) -> Cache:
        """Give an empty cache with room for so many tokens, and no more than a step beyond."""
        if self._cache is None or tokens > self._cache.max_tokens:
            if self._cache is not None:
                self._cache.close()
            steps = -(-tokens // CACHE_STEP)
            self._cache = self._decoder.new_cache(min(steps * CACHE_STEP, self._decoder.facts.max_positions))
        self._cache.truncate(0)
        return self._cache

    def close(self) -> None:
        """Free decoder and tower."""
        self._decoder.close()
        self._seeing = torch.nn.Identity()


def pair_positions(positions: torch.Tensor | None, sections: tuple[int, ...]) -> np.ndarray | None:
    """Spread three positions per token over the rotary pairs.

    Args:
        positions: (3, 1, T) for time, height and width, or (4, 1, T) with the plain position before them; else None.
        sections: Pairs that turn by each (Wang et al., arXiv 2409.12191, section 2.1); empty: plain positions.

    Returns:
        (T, D / 2) float32; None where the tokens simply follow each other.
    """
    if positions is None or positions.ndim != 3 or not sections:
        return None
    grid = positions[-3:, 0].float()  # (3, T)
    axes = torch.repeat_interleave(torch.arange(len(sections)) % 3, torch.tensor(sections))  # (D / 2)
    return grid[axes].T.contiguous().numpy()


def _in_vision_tower(name: str) -> bool:
    return component_of(name) == "vision"


class _Capture(torch.nn.Module):
    """Stands where the language model stood and keeps the embeddings and positions it would have read."""

    def __init__(self, language_model: Any) -> None:
        super().__init__()
        self.embed_tokens = language_model.get_input_embeddings()
        self.config = language_model.config
        self.embeddings = torch.empty(0)
        self.positions: torch.Tensor | None = None

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the table that transformers looks tokens up in."""
        return self.embed_tokens

    def forward(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor | None = None, **_: Any) -> Any:
        """Keep (1, T, C) and the positions."""
        from transformers.modeling_outputs import BaseModelOutputWithPast

        self.embeddings, self.positions = inputs_embeds, position_ids
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)
