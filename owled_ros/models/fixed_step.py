"""One decoded token over buffers of fixed size: what a GPU can capture once as a graph and replay. Needs torch, transformers.

A language model of billions of weights launches a thousand small kernels for every token; launching them from Python takes three
times as long as running them. Captured, the step is one launch. For that nothing in it may depend on the host: keys and values
lie in buffers with room to spare, the place of the next token, its position and its id are numbers on the device, and the token
after it is chosen there. Cutting the cache back is setting a length.

Shape letters: H heads, R room of the cache, D head size, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from owled_ros import devices
from owled_ros.devices import is_out_of_memory
from owled_ros.errors import OwledError
from owled_ros.models.choice import Chooser, DeviceLogits

ROOM_STEP = 128  # the cache's room is a multiple of it
WARM_UPS = 2  # runs before a capture: libraries set themselves up
CAPTURE_LIMIT_S = 20.0  # a first run that takes longer is not worth waiting for
NOT_RUN = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError)
HOST_NEEDED = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
)  # operations a graph cannot hold


class Slots:
    """Where the next token goes, for all layers."""

    def __init__(self, room: int, device: torch.device) -> None:
        self.room = room
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.stepping = False  # a step writes at `place` and reads everything; else layers grow like any other


class FixedLayer(DynamicLayer):
    """Keys and values (1, H, R, D) of one layer, of which the first `length` tokens count."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots, self.length = slots, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Reserve the room."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.all_keys, self.all_values = self._reserved(key_states), self._reserved(value_states)
        self.is_initialized = True
        self.cut(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens and return what is attended to: in a step the whole room, of which a mask shows the filled part."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.slots.stepping:
            self.all_keys.index_copy_(2, self.slots.place, key_states)
            self.all_values.index_copy_(2, self.slots.place, value_states)
            return self.all_keys, self.all_values
        end = self.length + key_states.shape[-2]
        if end > self.all_keys.shape[2]:
            self.slots.room = max(self.slots.room, rounded(end))
            self.widen()
        self.all_keys[:, :, self.length : end] = key_states
        self.all_values[:, :, self.length : end] = value_states
        self.cut(end)
        return self.all_keys[:, :, :end], self.all_values[:, :, :end]

    def get_seq_length(self) -> int:
        """Return how many tokens count."""
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, given as a negative number."""
        self.cut(self.length - abs(tokens_to_remove))

    def cut(self, length: int) -> None:
        """Let so many tokens count."""
        self.length = length
        if self.is_initialized:
            self.keys, self.values = self.all_keys[:, :, :length], self.all_values[:, :, :length]

    def widen(self) -> None:
        """Move to buffers of the present room."""
        if self.is_initialized and self.all_keys.shape[2] < self.slots.room:
            for name in ("all_keys", "all_values"):
                narrow = getattr(self, name)
                wide = self._reserved(narrow)
                wide[:, :, : narrow.shape[2]] = narrow
                setattr(self, name, wide)
            self.cut(self.length)

    def clear(self, keep: int) -> None:
        """Forget the values behind the first `keep` tokens: not-a-number would spread from behind the mask."""
        if self.is_initialized:
            self.all_keys[:, :, keep:] = 0.0
            self.all_values[:, :, keep:] = 0.0

    def _reserved(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((*like.shape[:2], self.slots.room, like.shape[-1]))


class FixedCache(DynamicCache):
    """The cache that `generate` makes, with room in every layer."""

    def __init__(self, config: Any, room: int, device: torch.device) -> None:
        super().__init__(config=config)
        self.slots = Slots(rounded(room), device)
        self.layers = [FixedLayer(self.slots) for _ in self.layers]

    @property
    def fixed(self) -> list[FixedLayer]:
        """The layers, as what they are."""
        return cast(list[FixedLayer], self.layers)

    def settle(self, length: int) -> None:
        """Let so many tokens count in every layer: after steps, which do not count, and to cut back."""
        for layer in self.fixed:
            layer.cut(length)

    def reserve(self, room: int) -> None:
        """See that there is room for so many tokens; a step over smaller buffers is then no longer of use."""
        if room > self.slots.room:
            self.slots.room = rounded(room)
            for layer in self.fixed:
                layer.widen()

    def clear(self, keep: int) -> None:
        """Forget what stands behind the first `keep` tokens, as a broken run leaves it."""
        for layer in self.fixed:
            layer.clear(keep)


def refusal(model: Any) -> str:
    """Say why a model cannot decode in fixed buffers; empty where it may."""
    if not model._supports_default_dynamic_cache():
        return "its cache is of a kind of its own"
    config = model.config.get_text_config(decoder=True)
    kinds = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {"DynamicLayer"}
    if kinds:
        return f"its cache has layers of another kind ({', '.join(sorted(kinds))})"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention is {config._attn_implementation}"
    return ""


def rounded(room: int) -> int:
    """Round up to whole steps."""
    return -(-room // ROOM_STEP) * ROOM_STEP


class FixedStep:
    """The step of one model over one cache."""

    def __init__(
        self,
        model: Any,
        cache: FixedCache,
        chooser: Chooser,
        prepared: dict[str, Any],
        hidden: Callable[[], Any] | None,
    ) -> None:
        """Take what the model's own hooks prepare for a token; `hidden` gives the last hidden state (1, C) after a run."""
        device = cache.slots.place.device
        self._model, self._cache, self._chooser, self._hidden = model, cache, chooser, hidden
        self._token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self._position = prepared["position_ids"][..., -1:].clone()
        self._constant = {name: _kept(value) for name, value in _constants(prepared).items()}
        self._columns = torch.arange(cache.slots.room, device=device)  # (R,)
        self._floats = model.config.get_text_config(decoder=True)._attn_implementation == "eager"
        self._graph: Any = None
        self._logits: torch.Tensor | None = None  # (V,)
        self._chosen: torch.Tensor | None = None  # (3,)
        self.state: torch.Tensor | None = None  # (1, C)

    @property
    def room(self) -> int:
        """The room of the cache that the step was made for."""
        return len(self._columns)

    @property
    def captured(self) -> bool:
        """Whether the step is a graph."""
        return self._graph is not None

    def begin(self, prepared: dict[str, Any], length: int, beyond: int = 0) -> str:
        """Go on behind `length` tokens, `beyond` tokens after the one that was prepared; says why not, if not."""
        constants = _constants(prepared)
        if prepared.get("attention_mask") is not None:
            return "its prompt has tokens that are masked"
        if constants.keys() != self._constant.keys():
            return "it is given other inputs than before"
        for name, value in constants.items():
            kept = self._constant[name]
            if isinstance(kept, torch.Tensor) and isinstance(value, torch.Tensor) and kept.shape == value.shape:
                kept.copy_(value)
            elif isinstance(kept, torch.Tensor) or isinstance(value, torch.Tensor) or kept != value:
                return f"{name} changes"
        self._position.copy_(prepared["position_ids"][..., -1:]).add_(beyond)
        self._cache.slots.place.fill_(length)
        return ""

    def run(self, token: int) -> DeviceLogits:
        """Read one token."""
        self._token.fill_(token)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._compute()
        assert self._logits is not None
        return DeviceLogits(self._logits, self._chooser, self._chosen)

    def try_out(self) -> None:
        """Run once, watching; raises OwledError where it cannot be run, or a value would have to come to the host."""
        try:
            with _NoHostReads():
                self._compute()
        except NOT_RUN as err:
            if is_out_of_memory(err):
                raise
            raise OwledError(f"it cannot be run ({type(err).__name__}: {str(err).partition(chr(10))[0]})") from err

    def capture(self, length: int) -> float:
        """Capture the step as a CUDA graph behind `length` tokens; returns the seconds it took.

        Raises OwledError with the reason where it cannot be captured or takes too long. `begin` must follow.
        """
        device, started = self._token.device, time.monotonic()
        current = torch.cuda.current_stream(device)
        stream = torch.cuda.Stream(device, priority=devices.DRIVING_PRIORITY)  # the graph's kernels keep it
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._cache.slots.place.fill_(length)
                    self._compute()
                    torch.cuda.synchronize(device)
                    if time.monotonic() - started > CAPTURE_LIMIT_S:
                        raise OwledError(f"its first run took more than {CAPTURE_LIMIT_S:g} s")
                self._cache.slots.place.fill_(length)
                graph = torch.cuda.CUDAGraph()
                with _recording(graph):
                    self._compute()
                self._graph = graph
        except NOT_RUN as err:
            raise OwledError(f"it cannot be captured ({type(err).__name__}: {str(err).partition(chr(10))[0]})") from err
        finally:
            current.wait_stream(stream)
        return time.monotonic() - started

    def _compute(self) -> None:
        """Everything of a token: no value leaves the device, every result lands in the same memory."""
        slots = self._cache.slots
        mask: torch.Tensor = (self._columns <= slots.place)[None, None, None]  # (1, 1, 1, R)
        if self._floats:
            mask = torch.where(mask, 0.0, torch.finfo(self._model.dtype).min).to(self._model.dtype)
        slots.stepping = True
        try:
            output = self._model(
                input_ids=self._token, attention_mask=mask, position_ids=self._position, past_key_values=self._cache,
                **self._constant, return_dict=True,
            )  # fmt: skip
        finally:
            slots.stepping = False
        logits = output.logits[0, -1].float()
        self._logits = _landed(self._logits, logits)
        self._chosen = _landed(self._chosen, self._chooser(logits))
        if self._hidden is not None:
            self.state = _landed(self.state, self._hidden())
        slots.place.add_(1)
        self._position.add_(1)


class _NoHostReads(TorchDispatchMode):
    """Refuses operations whose result the host must know."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        chosen = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(isinstance(item, torch.Tensor) and item.dtype == torch.bool for item in chosen)
        if name in HOST_NEEDED or by_mask:
            raise OwledError(f"every token needs a value on the host ({name})")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _recording(graph: Any) -> Iterator[None]:
    graph.capture_begin(capture_error_mode="thread_local")  # another model may be driving in another thread
    try:
        yield
    except BaseException:
        with contextlib.suppress(RuntimeError):
            graph.capture_end()
        raise
    graph.capture_end()


def _constants(prepared: dict[str, Any]) -> dict[str, Any]:
    moving = ("input_ids", "position_ids", "attention_mask", "past_key_values", "return_dict")
    return {name: value for name, value in prepared.items() if name not in moving and value is not None}


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _landed(memory: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    return value.clone() if memory is None else memory.copy_(value)
