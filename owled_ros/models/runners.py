"""Text runners: a Hugging Face model behind the engine's small interface. Needs torch and transformers.

On a GPU a token is one captured graph over a cache with room to spare (models.fixed_step) where the family allows it; everywhere
else the cache grows and every token is launched anew. Inputs, positions and masks are prepared by the same hooks that the
model's own `generate` calls, so that what a family does there (three-dimensional positions, cross-attention masks, token kinds)
holds here. Shape letters: T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from owled_ros.devices import give_back_memory, on_device
from owled_ros.errors import OwledError
from owled_ros.models.choice import Chooser, DeviceLogits
from owled_ros.models.fixed_step import FixedCache, FixedStep, refusal

DECODINGS = ("auto", "growing", "fixed")
NEARNESS = {torch.float32: 1e-3}  # largest difference of logits, in spans of the logits
COARSE_NEARNESS = 5e-2  # at lower precision
Logits = np.ndarray | DeviceLogits
logger = logging.getLogger(__name__)


class TorchRunner:
    """The stock transformers model with a cache that can be cut back."""

    def __init__(
        self,
        model: Any,
        device: str,
        dtype: torch.dtype,
        neighbours: Mapping[int, np.ndarray] | None = None,
        decoding: str = "auto",
    ) -> None:
        """Take the model; `decoding`: one of DECODINGS, "auto" is fixed on CUDA and growing elsewhere."""
        self._model, self._device, self._dtype = model.eval(), torch.device(device), dtype
        accepted = inspect.signature(model.forward).parameters
        self._constant = {"use_cache": True, **({"logits_to_keep": 1} if "logits_to_keep" in accepted else {})}
        self._takes_positions = "position_ids" in accepted
        self._chooser = Chooser(neighbours, self._device)
        self._on_host = self._device.type == "cpu" and decoding != "fixed"
        self._cache: Any = None
        self._length = self._floor = 0  # tokens in the cache; it can be cut back to so many
        self._croppable = False
        self._ids = torch.empty(1, 0, dtype=torch.long)
        self._state: dict[str, Any] = {}  # what `generate` calls model_kwargs
        self._output: Any = None
        self._hidden: list[torch.Tensor] | None = None  # (t, C) of the tokens read at one go; None: not kept
        self._taken = torch.empty(0)  # (t, C) of the last run
        wanted = decoding == "fixed" or (decoding == "auto" and self._device.type == "cuda")
        self._why_growing = refusal(model) if wanted else "not asked for"
        self._step: FixedStep | None = None
        self._prepared: tuple[dict[str, Any], int] | None = None  # of the first token behind `read`; tokens then
        self._proven = False  # the step answers like the model
        self._latest = torch.empty(0)  # (V,) the last logits

    @property
    def decoding(self) -> str:
        """How tokens are decoded, in words."""
        if self._step is None:
            return f"growing cache ({self._why_growing or 'nothing decoded yet'})"
        return "captured graph" if self._step.captured else "fixed step"

    def can_keep(self, length: int) -> bool:
        """Tell whether the cache can be cut back to its first tokens."""
        return length == self._length or (self._croppable and self._floor <= length < self._length)

    def read(self, inputs: Mapping[str, Any], keep: int = 0, room: int = 0) -> Logits:
        """Read a whole prompt of which the first `keep` tokens are in the cache."""
        mask = inputs.get("attention_mask")
        whole = mask is None or bool((mask == 1).all())  # asked before it is on the device
        with torch.inference_mode(), on_device(str(self._device)):
            state = {name: self._moved(value) for name, value in inputs.items() if name != "input_ids"}
            mask = state.pop("attention_mask", None)
            self._ids = inputs["input_ids"].to(self._device)
            if mask is None:
                mask = torch.ones_like(self._ids)
            self._make_room(keep, self._ids.shape[1] + room)
            if self._hidden is not None:
                self._hidden = [torch.cat(self._hidden)[:keep]] if keep else []
            if self._takes_positions and state.get("position_ids") is None:
                state["position_ids"] = self._model._prepare_position_ids_for_generation(
                    self._ids, {**state, "attention_mask": mask}
                )
            state |= {"attention_mask": None if whole else mask, **self._constant}
            more = {} if keep == 0 else {"next_sequence_length": self._ids.shape[1] - keep}
            logits = self._forward(state, is_first_iteration=keep == 0, **more)
        self._length, self._prepared = self._ids.shape[1], None
        if keep == 0:
            self._croppable, self._floor = self._can_crop(), 0
            if not self._croppable and not self._why_growing:
                self._grow("not every layer holds one entry for each token")
        return logits

    def extend(self, token: int) -> Logits:
        """Read one more token."""
        with torch.inference_mode(), on_device(str(self._device)):
            if self._why_growing:
                logits = self._forward(self._next(token), next_sequence_length=1)
            elif self._prepared is None:
                logits = self._extend_first(token)
            else:
                if self._length >= self._cache.slots.room:
                    self._cache.settle(self._length)
                    self._settle_step(*self._prepared)
                logits = self._run(token)
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
        self._taken = output[0][0]  # (t, C), of the tokens read now

    def close(self) -> None:
        """Free model and cache."""
        self._cache = self._output = self._hidden = self._step = self._prepared = None
        self._state, self._taken, self._latest = {}, torch.empty(0), torch.empty(0)
        self._model = torch.nn.Identity()
        give_back_memory()

    def _make_room(self, keep: int, tokens: int) -> None:
        """Cut the cache back to what is kept, or begin a new one."""
        if isinstance(self._cache, FixedCache) and not self._why_growing:
            if bool(self._latest.isnan().any()):
                self._cache.clear(keep)
            self._cache.settle(keep)
            self._cache.reserve(tokens)
        elif keep == 0:
            self._cache = self._new_cache(tokens)
        elif keep < self._length:
            self._cache.crop(keep - self._length)  # a negative count: so many tokens less
            self._floor = 0 if self._all_kept() else keep

    def _extend_first(self, token: int) -> Logits:
        """Read the first token behind a prompt: the model's own hooks tell what a step is given."""
        state = self._next(token)
        prepared = self._prepare(state, next_sequence_length=1)
        self._prepared = prepared, self._length
        try:
            if "position_ids" not in prepared:
                raise OwledError("a token is given no position")
            self._settle_step(*self._prepared, None if self._proven else (token, state))
            return self._run(token)
        except OwledError as err:
            self._grow(str(err))
            self._cache.settle(self._length)
            return self._forward(state, next_sequence_length=1)

    def _grow(self, why: str) -> None:
        """Decode as with a growing cache from now on."""
        self._why_growing, self._step = why, None
        logger.info("every token is launched anew, not captured: %s", why)

    def _settle_step(self, prepared: dict[str, Any], start: int, unproven: tuple[int, Any] | None = None) -> None:
        """Make the step ready to go on here, and make it anew where the cache has become larger.

        Raises OwledError where the family cannot be run like this.
        """
        place = self._length, self._length - start
        self._cache.reserve(self._length + 2)
        known = self._step
        if known is not None and known.room == self._cache.slots.room and not known.begin(prepared, *place):
            return
        hidden = None if self._hidden is None else (lambda: self._taken)
        step = FixedStep(self._model, self._cache, self._chooser, prepared, hidden)
        reason = step.begin(prepared, *place)
        if reason:
            raise OwledError(reason)
        if unproven is not None:
            step.try_out()
        if self._device.type == "cuda":
            step.begin(prepared, *place)
            seconds = step.capture(self._length)
            logger.info("decoding captured as a CUDA graph in %.2f s, room for %d tokens", seconds, step.room)
        if unproven is not None:
            self._prove(step, prepared, *unproven)
            self._proven = True
        step.begin(prepared, *place)
        self._step = step

    def _prove(self, step: FixedStep, prepared: dict[str, Any], token: int, state: dict[str, Any]) -> None:
        """Raise OwledError unless two tokens have the logits that they have from the model with a growing cache."""
        kept = self._ids, self._state, self._output
        wanted = [np.asarray(self._forward(state, next_sequence_length=1))]
        best = int(wanted[0].argmax())
        wanted.append(np.asarray(self._forward(self._next(best), next_sequence_length=1)))
        self._ids, self._state, self._output = kept
        if self._hidden is not None:
            del self._hidden[-2:]
        self._cache.settle(self._length)
        step.begin(prepared, self._length)
        nearness = NEARNESS.get(self._dtype, COARSE_NEARNESS)
        for read, want in zip((token, best), wanted, strict=True):
            found = np.asarray(step.run(read))
            if not float(np.abs(found - want).max()) <= nearness * max(float(np.ptp(want)), 1e-6):
                raise OwledError("its step over fixed buffers answers otherwise")

    def _run(self, token: int) -> Logits:
        assert self._step is not None
        logits = self._step.run(token)
        self._latest = logits.values
        if self._hidden is not None:
            assert self._step.state is not None
            self._hidden.append(self._step.state.clone())
        return logits

    def _forward(self, state: dict[str, Any], **how: Any) -> Logits:
        prepared = self._prepare(state, **how)
        output = self._model(**prepared, return_dict=True)
        self._state, self._output = state, output
        self._cache = getattr(output, "past_key_values", None)
        if self._hidden is not None:
            self._hidden.append(self._taken)
        self._latest = logits = output.logits[0, -1].float()  # (V,)
        return np.asarray(logits.cpu().numpy()) if self._on_host else DeviceLogits(logits, self._chooser)

    def _prepare(self, state: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = self._model.prepare_inputs_for_generation(
            self._ids, past_key_values=self._cache, **how, **{k: v for k, v in state.items() if k != "past_key_values"}
        )
        return prepared

    def _next(self, token: int) -> dict[str, Any]:
        """Add a token to the ids; return what the model's own `generate` would hand on with it."""
        self._ids = torch.cat([self._ids, torch.tensor([[token]], device=self._device)], dim=1)
        state: dict[str, Any] = self._model._update_model_kwargs_for_generation(
            self._output, dict(self._state), is_encoder_decoder=False
        )
        return state

    def _new_cache(self, tokens: int) -> Any:
        """Make the cache that `generate` makes, one that can be cut back although its layers have windows."""
        if not self._model._supports_default_dynamic_cache():
            return None
        if not self._why_growing:
            return FixedCache(self._model.config, tokens, self._device)
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
