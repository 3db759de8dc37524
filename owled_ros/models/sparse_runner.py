"""A text runner on packed weights: torch sees the picture, the sparse decoder does the rest. Needs torch and owled_ros.sparse.

Shape letters: T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.errors import OwledError
from owled_ros.models.runners import TEXT_INPUTS
from owled_ros.sparse.decoder import Cache, DecoderFacts, SparseDecoder


class SparseRunner:
    """Vision tower and projector in torch, the language model in the sparse decoder with one cache."""

    def __init__(self, model: Any, packed: Path, dtype: torch.dtype, threads: int, kernel: str = "auto") -> None:
        self._decoder = SparseDecoder.open(packed, threads=threads, kernel=kernel)
        self._capture = _Capture(model.model.language_model)
        hidden = self._capture.embed_tokens.weight.shape[1]
        if hidden != self._decoder.facts.hidden:
            raise OwledError(
                f"{packed} has hidden size {self._decoder.facts.hidden}, the model {hidden}; pack the model again"
            )
        model.model.language_model = self._capture  # frees the dense language model
        self._seeing, self._dtype = model.model.eval(), dtype
        self._cache: Cache = self._decoder.new_cache(self._decoder.facts.max_positions)
        self._prefix_tokens = 0

    @property
    def facts(self) -> DecoderFacts:
        """Sizes and kernel of the decoder."""
        return self._decoder.facts

    def prefill(self, inputs: Mapping[str, Any], suffix: list[int]) -> np.ndarray:
        """Read picture, prefix and suffix in one pass."""
        pictures = {
            name: value.to(self._dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for name, value in inputs.items()
            if name not in TEXT_INPUTS
        }
        with torch.inference_mode():
            self._seeing(input_ids=inputs["input_ids"], **pictures, use_cache=False)
        prefix = self._capture.embeddings[0].float().numpy()  # (T, C)
        self._prefix_tokens = len(prefix)
        self._cache.truncate(0)
        return self._decoder.prefill(self._cache, np.concatenate([prefix, self._decoder.embed(suffix)]))

    def rewind(self) -> None:
        """Cut the cache back to the prefix."""
        self._cache.truncate(min(self._prefix_tokens, self._cache.length))

    def extend(self, ids: list[int]) -> np.ndarray:
        """Read further tokens."""
        if len(ids) == 1:
            return self._decoder.step(self._cache, ids[0])
        return self._decoder.prefill(self._cache, self._decoder.embed(ids))

    def close(self) -> None:
        """Free decoder and tower."""
        self._decoder.close()
        self._seeing = torch.nn.Identity()


class _Capture(torch.nn.Module):
    """Stands where the language model stood and keeps the embeddings it would have read."""

    def __init__(self, language_model: Any) -> None:
        super().__init__()
        self.embed_tokens = language_model.get_input_embeddings()
        self.config = language_model.config
        self.embeddings = torch.empty(0)

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the table that transformers looks tokens up in."""
        return self.embed_tokens

    def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> Any:
        """Keep (1, T, C)."""
        from transformers.modeling_outputs import BaseModelOutputWithPast

        self.embeddings = inputs_embeds
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)
