"""Text runners: a Hugging Face model behind the engine's small interface. Needs torch and transformers.

Shape letters: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class TorchRunner:
    """The stock transformers model with its dynamic cache."""

    def __init__(self, model: torch.nn.Module, device: str, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model.eval(), torch.device(device), dtype
        self._cache: Any = None
        self._prefix_tokens = self._tokens = 0

    def prefill(self, inputs: Mapping[str, Any], suffix: list[int]) -> np.ndarray:
        """Read image, prefix and suffix in one pass."""
        self._cache = None
        ids = torch.cat([inputs["input_ids"], torch.tensor([suffix])], dim=1)  # (1, T)
        self._prefix_tokens, self._tokens = inputs["input_ids"].shape[1], ids.shape[1]
        kinds = {name: _padded(inputs[name], ids.shape[1]) for name in TEXT_INPUTS[2:] if name in inputs}
        images = {name: self._moved(value) for name, value in inputs.items() if name not in TEXT_INPUTS}
        with torch.inference_mode():
            return self._forward(input_ids=ids.to(self._device), **kinds, **images)

    def rewind(self) -> None:
        """Cut the cache back to the prefix."""
        if self._tokens > self._prefix_tokens:
            self._cache.crop(self._prefix_tokens - self._tokens)  # a negative count: so many tokens less
            self._tokens = self._prefix_tokens

    def extend(self, ids: list[int]) -> np.ndarray:
        """Read further tokens."""
        self._tokens += len(ids)
        with torch.inference_mode():
            return self._forward(input_ids=torch.tensor([ids], device=self._device))

    def close(self) -> None:
        """Free model and cache."""
        self._cache = None
        self._model = torch.nn.Identity()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, **inputs: Any) -> np.ndarray:
        mask = torch.ones(1, self._tokens, dtype=torch.long, device=self._device)
        output = self._model(
            **inputs, attention_mask=mask, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._cache = output.past_key_values
        return output.logits[0, -1].float().cpu().numpy()  # (V,)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self._device, self._dtype if value.is_floating_point() else None)


def _padded(kinds: torch.Tensor, length: int) -> torch.Tensor:
    """Extend per-token kinds by zeros (= text)."""
    return torch.nn.functional.pad(kinds, (0, length - kinds.shape[1]))
