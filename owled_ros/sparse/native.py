"""The decoder on the native kernels (csrc/). Needs numpy and the library of `owled_ros.sparse.library`."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.errors import OwledError
from owled_ros.sparse import library
from owled_ros.sparse.protocol import Cache, DecoderFacts, Generation, checked_positions

FINISH = ("stop", "length", "cancelled", "callback")
SPIN_US = 50  # an idle worker sleeps after this


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _native(cache: Cache) -> NativeCache:
    if not isinstance(cache, NativeCache):
        raise OwledError("this cache belongs to another decoder; make one with new_cache")
    return cache


class NativeModel:
    """A packed file opened by the library: its matrices, and what both decoder and layers need. Closed once."""

    def __init__(
        self, path: Path, threads: int, kernel: str, copy: bool = False, verify: bool = True, cpus: Sequence[int] = ()
    ) -> None:
        self.library = library.load()
        if cpus and len(cpus) != threads:
            raise OwledError(f"{len(cpus)} cores named for {threads} threads; name one per thread or none")
        options = library.Options(kernel.encode(), threads, int(copy), int(verify), SPIN_US, None)
        if cpus:
            options.cpus = (ctypes.c_int32 * threads)(*cpus)
        self.handle = ctypes.c_void_p()
        status = self.library.owled_open(str(path).encode(), ctypes.byref(options), ctypes.byref(self.handle))
        library.check(status)
        self._lock = threading.Lock()

    def facts(self) -> library.Facts:
        """Read the sizes."""
        facts = library.Facts()
        library.check(self.library.owled_model_facts(self.open_handle(), ctypes.byref(facts)))
        return facts

    def matrix_facts(self) -> list[library.MatrixFacts]:
        """Describe every tensor of the file."""
        entries = []
        for index in range(self.facts().matrices):
            entry = library.MatrixFacts()
            library.check(self.library.owled_matrix_facts_at(self.open_handle(), index, ctypes.byref(entry)))
            entries.append(entry)
        return entries

    def multiply(self, index: int, x: np.ndarray, rows: int) -> np.ndarray:
        """Multiply (count, columns) with a matrix of the file: (count, rows)."""
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty((len(x), rows), np.float32)
        library.check(self.library.owled_multiply(self.open_handle(), index, _address(x), len(x), _address(y)))
        return y

    def open_handle(self) -> ctypes.c_void_p:
        """Give the handle, or refuse when closed."""
        if not self.handle:
            raise OwledError("this packed model is closed; open it again")
        return self.handle

    def close(self) -> None:
        """Free it; may be called again."""
        with self._lock:
            handle, self.handle = self.handle, ctypes.c_void_p()
        if handle:
            self.library.owled_close(handle)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.close()


class NativeCache:
    """Keys and values of the positions seen so far, in the library's memory."""

    def __init__(self, model: NativeModel, max_tokens: int, handle: ctypes.c_void_p) -> None:
        self._model, self._handle, self._max_tokens = model, handle, max_tokens

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return int(self._model.library.owled_cache_length(self.open_handle()))

    @property
    def max_tokens(self) -> int:
        """Positions that fit."""
        return self._max_tokens

    @property
    def reserved_bytes(self) -> int:
        """Address space reserved; memory is taken as positions are filled."""
        return int(self._model.library.owled_cache_bytes(self.open_handle()))

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        library.check(self._model.library.owled_cache_truncate(self.open_handle(), length))

    def fork(self) -> NativeCache:
        """Copy the positions into a cache of its own."""
        handle = ctypes.c_void_p()
        model = self._model.open_handle()
        library.check(self._model.library.owled_cache_copy(model, self.open_handle(), ctypes.byref(handle)))
        return NativeCache(self._model, self._max_tokens, handle)

    def open_handle(self) -> ctypes.c_void_p:
        """Give the handle, or refuse when closed."""
        if not self._handle:
            raise OwledError("this cache is closed")
        return self._handle

    def close(self) -> None:
        """Free the memory; may be called again."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._model.library.owled_cache_free(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


class NativeDecoder:
    """`owled_ros.sparse.protocol.Decoder` on the native kernels."""

    def __init__(self, path: Path, **options: Any) -> None:
        self._model = NativeModel(path, **options)
        facts = self._model.facts()
        if not facts.has_decoder:
            self._model.close()
            raise OwledError(f"{path}: holds single matrices, no decoder; open it with owled_ros.sparse.linear")
        self._hidden, self._vocabulary, self._half_head = facts.hidden, facts.vocabulary, facts.head_dim // 2
        self._caches: weakref.WeakSet[NativeCache] = weakref.WeakSet()
        self._facts = DecoderFacts(
            kernel=facts.kernel.decode(),
            threads=facts.threads,
            hidden=facts.hidden,
            layers=facts.layers,
            vocabulary=facts.vocabulary,
            max_positions=facts.max_positions,
            file_bytes=facts.file_bytes,
            step_bytes=facts.step_bytes,
            weights=facts.weights,
            nonzeros=facts.nonzeros,
        )

    @property
    def facts(self) -> DecoderFacts:
        """Sizes and kernel."""
        return self._facts

    @property
    def model(self) -> NativeModel:
        """The open file, for its single matrices."""
        return self._model

    def embed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Look up token embeddings: (T, C) float32."""
        tokens = np.ascontiguousarray(ids, np.int32).reshape(-1)
        out = np.empty((len(tokens), self._hidden), np.float32)  # (T, C)
        status = self._model.library.owled_embed(
            self._model.open_handle(), _address(tokens), len(tokens), _address(out)
        )
        library.check(status)
        return out

    def new_cache(self, max_tokens: int) -> NativeCache:
        """Make an empty cache."""
        handle = ctypes.c_void_p()
        library.check(self._model.library.owled_cache_new(self._model.open_handle(), max_tokens, ctypes.byref(handle)))
        cache = NativeCache(self._model, max_tokens, handle)
        self._caches.add(cache)
        return cache

    def prefill(self, cache: Cache, embeddings: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Append T tokens; logits (V,) of the last."""
        x = np.ascontiguousarray(embeddings, np.float32)  # (T, C)
        if x.ndim != 2 or x.shape[1] != self._hidden:
            raise OwledError(f"embeddings of shape {x.shape}, expected (T, {self._hidden})")
        logits = np.empty(self._vocabulary, np.float32)
        places, following = checked_positions(positions, len(x), self._half_head)
        native, model, handle = self._model.library, self._model.open_handle(), _native(cache).open_handle()
        address = None if places is None else _address(places)
        status = native.owled_prefill_at(model, handle, _address(x), address, following, len(x), _address(logits))
        library.check(status)
        return logits

    def step(self, cache: Cache, token: int) -> np.ndarray:
        """Append one token; logits (V,) of the next."""
        logits = np.empty(self._vocabulary, np.float32)
        native, model = self._model.library, self._model.open_handle()
        library.check(native.owled_step(model, _native(cache).open_handle(), int(token), _address(logits)))
        return logits

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
        """Decode from the logits of the last position; see `Decoder.generate`."""
        logits = np.ascontiguousarray(first_logits, np.float32)
        if logits.shape != (self._vocabulary,):
            raise OwledError(f"logits of shape {logits.shape}, expected ({self._vocabulary},)")
        if max_tokens < 1 or (cancelled is not None and cancelled()):
            return Generation([], [], "length" if max_tokens < 1 else "cancelled")
        stops = np.ascontiguousarray(list(stop_ids), np.int32)
        tokens, log_probabilities = np.empty(max_tokens, np.int32), np.empty(max_tokens, np.float32)
        produced, finish = ctypes.c_int32(), ctypes.c_int32()
        watch = _Watch(cancelled, on_token)
        callback = library.OnToken(watch) if watch.needed else library.OnToken()
        status = self._model.library.owled_generate(
            self._model.open_handle(), _native(cache).open_handle(), _address(logits), max_tokens, _address(stops), len(stops),
            temperature, seed % 2**64, None, callback, None, _address(tokens), _address(log_probabilities),
            ctypes.byref(produced), ctypes.byref(finish),
        )  # fmt: skip
        if watch.failure is not None:
            raise watch.failure
        library.check(status)
        ended = "cancelled" if watch.was_cancelled else FINISH[finish.value]
        return Generation(tokens[: produced.value].tolist(), log_probabilities[: produced.value].tolist(), ended)

    def close(self) -> None:
        """Free the model and every cache of it."""
        for cache in list(self._caches):
            cache.close()
        self._model.close()


class _Watch:
    """The callback between two tokens: asks `cancelled`, tells `on_token`, and keeps what they raise."""

    def __init__(
        self, cancelled: Callable[[], bool] | None, on_token: Callable[[int, float], bool | None] | None
    ) -> None:
        self._cancelled, self._on_token = cancelled, on_token
        self.was_cancelled = False
        self.failure: BaseException | None = None
        self.needed = cancelled is not None or on_token is not None

    def __call__(self, token: int, log_probability: float, _: object) -> int:
        try:
            if self._on_token is not None and self._on_token(token, log_probability):
                return 1
            if self._cancelled is not None and self._cancelled():
                self.was_cancelled = True
                return 1
        except BaseException as err:  # carried over the C frames and raised again behind them
            self.failure = err
            return 1
        return 0
