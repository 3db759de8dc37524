"""Text runners: a Hugging Face model behind the engine's small interface. Needs torch and transformers.

Inputs, positions and masks are prepared by the same hooks that the model's own `generate` calls, so that what a family does
there (three-dimensional positions, cross-attention masks, token kinds) holds here. Shape letters: T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from owled_ros.errors import OwledError


class TorchRunner:
    """The stock transformers model with its dynamic cache."""

    def __init__(self, model: Any, device: str, dtype: torch.dtype) -> None:
        self._model, self._device, self._dtype = model.eval(), torch.device(device), dtype
        accepted = inspect.signature(model.forward).parameters
        self._constant = {"use_cache": True, **({"logits_to_keep": 1} if "logits_to_keep" in accepted else {})}
        self._takes_positions = "position_ids" in accepted
        self._cache: Any = None
        self._length = self._floor = 0  # tokens in the cache; it can be cut back to so many
        self._croppable = False
        self._ids = torch.empty(1, 0, dtype=torch.long)
        self._state: dict[str, Any] = {}  # what `generate` calls model_kwargs
        self._output: Any = None
        self._hidden: list[torch.Tensor] | None = None  # (t, C) of the tokens read at one go; None: not kept

    def can_keep(self, length: int) -> bool:
        """Tell whether the cache can be cut back to its first tokens."""
        return length == self._length or (self._croppable and self._floor <= length < self._length)

    def read(self, inputs: Mapping[str, Any], keep: int = 0, room: int = 0) -> np.ndarray:
        """Read a whole prompt of which the first `keep` tokens are in the cache."""
        del room  # the cache grows by itself
        state = {name: self._moved(value) for name, value in inputs.items() if name != "input_ids"}
        mask = state.pop("attention_mask", None)
        self._ids = inputs["input_ids"].to(self._device)
        if mask is None:
            mask = torch.ones_like(self._ids)
        if keep == 0:
            self._cache = self._new_cache()
        elif keep < self._length:
            self._cache.crop(keep - self._length)  # a negative count: so many tokens less
            self._floor = 0 if self._all_kept() else keep
        if self._hidden is not None:
            self._hidden = [torch.cat(self._hidden)[:keep]] if keep else []
        with torch.inference_mode():
            if self._takes_positions and state.get("position_ids") is None:
                state["position_ids"] = self._model._prepare_position_ids_for_generation(
                    self._ids, {**state, "attention_mask": mask}
                )
            state |= {"attention_mask": None if bool((mask == 1).all()) else mask, **self._constant}
            more = {} if keep == 0 else {"next_sequence_length": self._ids.shape[1] - keep}
            logits = self._forward(state, is_first_iteration=keep == 0, **more)
        self._length = self._ids.shape[1]
        if keep == 0:
            self._croppable, self._floor = self._can_crop(), 0
        return logits

    def extend(self, token: int) -> np.ndarray:
        """Read one more token."""
        self._ids = torch.cat([self._ids, torch.tensor([[token]], device=self._device)], dim=1)
        with torch.inference_mode():
            state = self._model._update_model_kwargs_for_generation(self._output, self._state, is_encoder_decoder=False)
            logits = self._forward(state, next_sequence_length=1)
        self._length += 1
        return logits

    def keep_hidden(self) -> None:
        """Keep the last hidden states of every token that is read."""
        self._hidden = []
        self._model.get_decoder().register_forward_hook(self._take_hidden)

    def hidden(self) -> np.ndarray:
        """Give the last hidden states (T, C) float32 of all that is in the cache."""
        if self._hidden is None:
            raise OwledError("hidden states were not kept; call keep_hidden when the model is loaded")
        return np.asarray(torch.cat(self._hidden).float().cpu().numpy())

    def _take_hidden(self, module: Any, given: Any, output: Any) -> None:
        assert self._hidden is not None
        self._hidden.append(output[0][0])  # (t, C), of the tokens read now

    def close(self) -> None:
        """Free model and cache."""
        self._cache = self._output = self._hidden = None
        self._state = {}
        self._model = torch.nn.Identity()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, state: dict[str, Any], **how: Any) -> np.ndarray:
        prepared = self._model.prepare_inputs_for_generation(
            self._ids, past_key_values=self._cache, **how, **{k: v for k, v in state.items() if k != "past_key_values"}
        )
        output = self._model(**prepared, return_dict=True)
        self._state, self._output = state, output
        self._cache = getattr(output, "past_key_values", None)
        return np.asarray(output.logits[0, -1].float().cpu().numpy())  # (V,)

    def _new_cache(self) -> Any:
        """Make the cache that `generate` makes, one that can be cut back although its layers have windows."""
        if not self._model._supports_default_dynamic_cache():
            return None
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        cache.activate_past_recording()
        return cache

    def _can_crop(self) -> bool:
        """Tell whether every layer holds one entry per token and gives them back; cross-attention and recurrence do not."""
        layers = getattr(self._cache, "layers", None)
        if not layers or not getattr(self._cache, "is_croppable", True):
            return False
        holding = [layer for layer in layers if getattr(layer, "is_initialized", False) and hasattr(layer, "keys")]
        return all(layer.get_seq_length() == self._length for layer in holding)

    def _all_kept(self) -> bool:
        return not any(hasattr(layer, "activate_past_recording") for layer in self._cache.layers)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._moved(item) for item in value)
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self._device, self._dtype if value.is_floating_point() else None)
