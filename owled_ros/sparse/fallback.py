"""The decoder in plain torch, for machines where the native kernels are neither installed nor buildable. Needs torch.

Expands the packed weights to dense float32 once, when it is opened: same answers, no saving in memory or time.
Shape letters: T tokens, C hidden size, H heads, G key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from owled_ros.errors import OwledError
from owled_ros.sparse.format import Format, PackedTensor, Role, Shape, read_packed
from owled_ros.sparse.protocol import Cache, DecoderFacts, Generation, checked_positions
from owled_ros.sparse.quantise import unpack_matrix


@dataclass(frozen=True)
class _Tensor:
    weight: torch.Tensor
    bias: torch.Tensor | None


class TorchCache:
    """Keys and values, (G, T, D) per layer."""

    def __init__(self, shape: Shape, max_tokens: int) -> None:
        if not 1 <= max_tokens <= shape.max_positions:
            raise OwledError(f"a cache holds 1 to {shape.max_positions} positions with this model, not {max_tokens}")
        size = (shape.layers, shape.kv_heads, max_tokens, shape.head_dim)
        self.keys, self.values = torch.zeros(size), torch.zeros(size)
        self._shape, self._max_tokens, self._length = shape, max_tokens, 0
        self.shift = 0  # rotary position of the next token minus length

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._length

    @property
    def max_tokens(self) -> int:
        """Positions that fit."""
        return self._max_tokens

    def append(self, count: int) -> None:
        """Count positions that were stored."""
        self._length += count

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        if not 0 <= length <= self._length:
            raise OwledError(f"the cache holds {self._length} positions and cannot be cut to {length}")
        self._length = length
        self.shift = self.shift if length else 0

    def fork(self) -> TorchCache:
        """Copy the positions into a cache of its own."""
        copy = TorchCache(self._shape, self._max_tokens)
        copy.keys.copy_(self.keys)
        copy.values.copy_(self.values)
        copy._length, copy.shift = self._length, self.shift
        return copy

    def close(self) -> None:
        """Free the memory."""
        self.keys = self.values = torch.zeros(0)


class TorchDecoder:
    """`owled_ros.sparse.protocol.Decoder` without native kernels."""

    def __init__(self, path: Path, threads: int = 1, verify: bool = True) -> None:
        del verify  # the reader always checks
        packed = read_packed(path)
        if packed.shape is None:
            raise OwledError(f"{path}: holds single matrices, no decoder")
        self._shape = packed.shape
        self._tensors: dict[tuple[Role, int], _Tensor] = {
            (t.role, t.layer): _dense(t) for t in packed.tensors if t.role != Role.OTHER
        }
        self._lock = threading.Lock()
        matrices = [t for t in packed.tensors if t.format is not Format.VECTOR]
        self._facts = DecoderFacts(
            kernel="torch",
            threads=threads,
            hidden=packed.shape.hidden,
            layers=packed.shape.layers,
            vocabulary=packed.shape.vocabulary,
            max_positions=packed.shape.max_positions,
            file_bytes=packed.file_bytes,
            step_bytes=4 * sum(t.rows * t.columns for t in matrices if t.role is not Role.EMBEDDING),
            weights=sum(t.rows * t.columns for t in matrices),
            nonzeros=sum(t.nonzeros for t in matrices),
        )

    @property
    def facts(self) -> DecoderFacts:
        """Sizes and kernel."""
        return self._facts

    def embed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Look up token embeddings: (T, C) float32."""
        tokens = torch.as_tensor(np.asarray(ids, np.int64).reshape(-1))
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._shape.vocabulary:
            raise OwledError(f"a token is outside the vocabulary of {self._shape.vocabulary}")
        return self._tensors[Role.EMBEDDING, -1].weight[tokens].numpy()

    def new_cache(self, max_tokens: int) -> TorchCache:
        """Make an empty cache."""
        return TorchCache(self._shape, max_tokens)

    def prefill(self, cache: Cache, embeddings: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Append T tokens; logits (V,) of the last."""
        own = _own(cache)
        x = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))  # (T, C)
        if x.ndim != 2 or x.shape[1] != self._shape.hidden or len(x) == 0:
            raise OwledError(f"embeddings of shape {tuple(x.shape)}, expected (T, {self._shape.hidden}) with T >= 1")
        if not torch.isfinite(x).all():
            raise OwledError("the embeddings hold NaN or infinity")
        if own.length + len(x) > own.max_tokens:
            raise OwledError(
                f"the cache is full: {own.length} of {own.max_tokens} positions used, {len(x)} more asked for"
            )
        places, following = checked_positions(positions, len(x), self._shape.head_dim // 2)
        with self._lock, torch.inference_mode():
            cosine, sine = self._rotation(own.length + own.shift, len(x), places)
            for layer in range(self._shape.layers):
                x = x + self._attention(own, layer, x, cosine, sine)
                normed = self._norm(x, Role.MLP_NORM, layer)
                gated = silu(self._project(normed, Role.GATE, layer)) * self._project(normed, Role.UP, layer)
                x = x + self._project(gated, Role.DOWN, layer)
            own.append(len(x))
            own.shift = own.shift if places is None else following - own.length
            head = Role.HEAD if (Role.HEAD, -1) in self._tensors else Role.EMBEDDING
            logits = self._project(self._norm(x[-1:], Role.FINAL_NORM, -1), head, -1)[0]
        if not torch.isfinite(logits).all():
            raise OwledError("the logits hold NaN or infinity")
        return logits.numpy()

    def step(self, cache: Cache, token: int) -> np.ndarray:
        """Append one token; logits (V,) of the next."""
        return self.prefill(cache, self.embed([token]))

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
        random = np.random.default_rng(seed)
        logits = np.asarray(first_logits, np.float64)
        tokens: list[int] = []
        log_probabilities: list[float] = []
        while len(tokens) < max_tokens:
            if cancelled is not None and cancelled():
                return Generation(tokens, log_probabilities, "cancelled")
            if tokens:
                if cache.length >= cache.max_tokens:
                    break
                logits = self.step(cache, tokens[-1]).astype(np.float64)
            normal = logits - np.logaddexp.reduce(logits)
            token = int(logits.argmax())
            if temperature > 0:
                scaled = np.exp((logits - logits.max()) / temperature)
                token = int(random.choice(len(scaled), p=scaled / scaled.sum()))
            tokens.append(token)
            log_probabilities.append(float(normal[token]))
            if on_token is not None and on_token(token, log_probabilities[-1]):
                return Generation(tokens, log_probabilities, "callback")
            if token in stop_ids:
                return Generation(tokens, log_probabilities, "stop")
        return Generation(tokens, log_probabilities, "length")

    def close(self) -> None:
        """Free everything."""
        self._tensors = {}

    def _attention(
        self, cache: TorchCache, layer: int, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
    ) -> torch.Tensor:
        shape, count, start = self._shape, len(x), cache.length
        end = start + count
        normed = self._norm(x, Role.ATTENTION_NORM, layer)
        query = self._heads(normed, Role.QUERY, layer, shape.heads)  # (H, T, D)
        key = self._heads(normed, Role.KEY, layer, shape.kv_heads)
        if (Role.QUERY_NORM, layer) in self._tensors:
            query, key = self._norm(query, Role.QUERY_NORM, layer), self._norm(key, Role.KEY_NORM, layer)
        cache.keys[layer, :, start:end] = _rotate(key, cosine, sine)
        cache.values[layer, :, start:end] = self._heads(normed, Role.VALUE, layer, shape.kv_heads)
        seen, own = torch.arange(end)[None, :], torch.arange(start, end)[:, None]
        mask = seen <= own
        if shape.window:
            mask &= seen > own - shape.window
        mixed = scaled_dot_product_attention(
            _rotate(query, cosine, sine)[None],
            cache.keys[layer, :, :end][None],
            cache.values[layer, :, :end][None],
            attn_mask=mask,
            enable_gqa=True,
        )[0]
        return self._project(mixed.transpose(0, 1).reshape(count, -1), Role.OUTPUT, layer)

    def _rotation(self, start: int, count: int, places: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        frequencies = self._tensors[Role.ROTARY, -1].weight  # (D / 2)
        positions = torch.arange(start, start + count, dtype=torch.float32)[:, None]
        if places is not None:
            positions = torch.from_numpy(places)
        angles = (positions * frequencies).repeat(1, 2)  # (T, D)
        return angles.cos() * self._shape.rotary_scale, angles.sin() * self._shape.rotary_scale

    def _heads(self, x: torch.Tensor, role: Role, layer: int, heads: int) -> torch.Tensor:
        return self._project(x, role, layer).view(len(x), heads, self._shape.head_dim).transpose(0, 1)

    def _project(self, x: torch.Tensor, role: Role, layer: int) -> torch.Tensor:
        tensor = self._tensors[role, layer]
        return linear(x, tensor.weight, tensor.bias)

    def _norm(self, x: torch.Tensor, role: Role, layer: int) -> torch.Tensor:
        return rms_norm(x, x.shape[-1:], self._tensors[role, layer].weight, self._shape.norm_epsilon)


def _dense(tensor: PackedTensor) -> _Tensor:
    bias = None if tensor.bias is None else torch.from_numpy(np.array(tensor.bias[: tensor.rows], np.float32))
    return _Tensor(torch.from_numpy(np.ascontiguousarray(unpack_matrix(tensor), np.float32)), bias)


def _own(cache: Cache) -> TorchCache:
    if not isinstance(cache, TorchCache):
        raise OwledError("this cache belongs to another decoder; make one with new_cache")
    return cache


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-high, low], dim=-1) * sine
