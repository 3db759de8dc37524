"""Pack the decoder of a state dict, or loose matrices, into one file. Needs numpy; torch for weights.

The file is written aside and renamed; nothing of the source is changed. Directories are packed by `models.packing`, which
loads them as transformers does: what is packed is what runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from owled_ros.errors import OwledError
from owled_ros.files import fsync_path
from owled_ros.sparse import architecture
from owled_ros.sparse.format import GROUP, Format, PackedTensor, Role, Shape, Writer
from owled_ros.sparse.quantise import pack_matrix, pack_vector

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
PACKED_NAME = "packed.owled"
FEW = ("int3", "int2", "ternary")  # whose matrices must lie on their grid already
NARROW = ("int4", *FEW)
ENDS_ON_GRID = "int4"  # of embedding and head, unless told otherwise, where the rest has at most as many bits
Fetch = Callable[[str], np.ndarray]  # tensor by name, float32


@dataclass(frozen=True)
class PackFacts:
    """What was written."""

    path: Path
    file_bytes: int
    dense_bf16_bytes: int  # the same tensors as dense bf16, embeddings included
    weights: int  # entries of all matrices, zeros included
    nonzeros: int  # entries kept; values that round to zero are left out too
    precision: str
    formats: Mapping[str, int]  # matrices per format


@dataclass(frozen=True)
class WeightSource:
    """A checkpoint: names, tensors by name, and the language model's config."""

    names: frozenset[str]
    fetch: Fetch
    config: Mapping[str, Any]


@dataclass(frozen=True)
class _How:
    """In which form the matrices are packed; `ends` are embedding and head."""

    precision: str
    group: int
    scales: Mapping[str, np.ndarray]
    ends: str | None
    dense_below: float | None
    ends_grid: str = ENDS_ON_GRID
    ends_group: int | None = None

    def end(self, name: str) -> str:
        """Choose the precision of embedding or head: rounding to nearest with 4 bits or fewer loses much there."""
        if self.ends or self.precision not in NARROW:
            return self.ends or self.precision
        return self.ends_grid if name in self.scales else "int8"

    def grid_of(self, name: str, role: Role, precision: str) -> tuple[int, np.ndarray | None]:
        """Return how many columns share a scale, and the scales of a matrix that lies on a grid of that precision."""
        ends = role in (Role.EMBEDDING, Role.HEAD) and self.precision in NARROW
        scales = self.scales.get(name) if precision == (self.ends_grid if ends else self.precision) else None
        return self.ends_group if ends and scales is not None and self.ends_group else self.group, scales


def pack_model(
    state: Mapping[str, torch.Tensor],
    out_file: Path,
    precision: str = "int8",
    *,
    config: Mapping[str, Any],
    extra: Mapping[str, tuple[np.ndarray, np.ndarray | None]] | None = None,
    dense_below: float | None = None,
    group: int = GROUP,
    scales: Mapping[str, np.ndarray] | None = None,
    ends: str | None = None,
    ends_grid: str = ENDS_ON_GRID,
    ends_group: int | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackFacts:
    """Pack the language model inside a state dict.

    Args:
        state: Every tensor by its name in the transformers model; one that is given twice (a tied head) is packed once.
        out_file: Where the packed model goes.
        precision: "int8", "int4", "int3", "int2", "ternary" (scales per row and group of columns) or "bf16".
        config: The model's configuration with all its values (`model.config.to_dict()`).
        extra: Further matrices by name with their biases, for `SparseLinear`.
        dense_below: Share of zeros below which a matrix is stored dense; None: the usual break-even.
        group: Columns that share a scale.
        scales: (rows, groups) of matrices that lie on their grid already, by name; packing them loses nothing.
        ends: Precision of embedding and head; None: that of their grid, else the same, but int8 where that has fewer bits.
        ends_grid: Precision of the grid that embedding and head lie on, where they have scales.
        ends_group: Columns that share one of those scales; None: as `group`.
        meta: JSON kept in the file.
        progress: Called with (matrices done, matrices in all).

    Raises:
        OwledError: Not a model of the LLaMA family, tensors missing or more than the kernels compute with, NaN in the
            weights, or nowhere to write.
    """
    checkpoint = _state_source(state, config)
    shape = architecture.shape_of(checkpoint.config)
    total = shape.layers * len(architecture.MATRICES) + 2 + len(extra or {})
    how = _How(precision, group, scales or {}, ends, dense_below, ends_grid, ends_group)
    tensors = _decoder_tensors(checkpoint, shape, how)
    loose = _loose_tensors(extra or {}, how, "int8" if precision in FEW else precision)
    return _write(out_file, shape, (*(tensors,), loose), precision, meta or {}, progress, total)


def pack_matrices(
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    out_file: Path,
    precision: str = "int8",
    dense_below: float | None = None,
    group: int = GROUP,
    scales: Mapping[str, np.ndarray] | None = None,
) -> PackFacts:
    """Pack single matrices (weight, bias or None) by name, without a decoder."""
    loose = _loose_tensors(matrices, _How(precision, group, scales or {}, None, dense_below), precision)
    return _write(out_file, None, (loose,), precision, {}, None, len(matrices))


def _write(
    out_file: Path,
    shape: Shape | None,
    parts: tuple[Iterator[PackedTensor], ...],
    precision: str,
    meta: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
    total: int,
) -> PackFacts:
    aside = out_file.with_name(f".{out_file.name}.aside-{os.getpid()}")
    weights = nonzeros = dense_bytes = done = 0
    formats: dict[str, int] = {}
    try:
        with open(aside, "w+b") as stream:
            writer = Writer(stream)
            for part in parts:
                for tensor in part:
                    writer.add(tensor)
                    dense_bytes += 2 * tensor.rows * tensor.columns
                    if tensor.format is Format.VECTOR:
                        continue
                    weights += tensor.rows * tensor.columns
                    nonzeros += tensor.nonzeros
                    formats[tensor.format.name.lower()] = formats.get(tensor.format.name.lower(), 0) + 1
                    done += 1
                    if progress is not None:
                        progress(done, total)
            size = writer.finish(shape, {"precision": precision, **meta})
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, out_file)
    except OSError as err:
        aside.unlink(missing_ok=True)
        raise OwledError(f"{out_file}: cannot write the packed model: {err}") from err
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_path(out_file.parent)
    logger.info("packed %d matrices, %.1f MB", done, size / 1e6)
    return PackFacts(out_file, size, dense_bytes, weights, nonzeros, precision, formats)


def _decoder_tensors(source: WeightSource, shape: Shape, how: _How) -> Iterator[PackedTensor]:
    prefix = architecture.find_prefix(source.names)
    head = _own_head(source, f"{prefix}embed_tokens.weight")
    unknown = architecture.unknown_tensors(source.names, prefix, shape.layers)
    if unknown:
        raise OwledError(
            f"the packed decoder cannot run this model: it does not compute with {unknown[0]} ({len(unknown)} such tensors); "
            "it runs with torch as before"
        )

    def matrix(
        name: str, role: Role, layer: int, rows: int, columns: int, precision: str, below: float | None
    ) -> PackedTensor:
        weight = source.fetch(f"{name}.weight")
        if weight.shape != (rows, columns):
            raise OwledError(f"{name}: shape {weight.shape}, the config says ({rows}, {columns})")
        bias = source.fetch(f"{name}.bias") if f"{name}.bias" in source.names else None
        return pack_matrix(name, role, layer, weight, bias, precision, below, *how.grid_of(name, role, precision))

    ends = (shape.vocabulary, shape.hidden)
    name = f"{prefix}embed_tokens"
    yield matrix(name, Role.EMBEDDING, -1, *ends, how.end(name), 2.0)
    if head is not None:
        name = head.removesuffix(".weight")
        yield matrix(name, Role.HEAD, -1, *ends, how.end(name), how.dense_below)
    yield pack_vector(f"{prefix}norm", Role.FINAL_NORM, -1, source.fetch(f"{prefix}norm.weight"))
    yield pack_vector("rotary", Role.ROTARY, -1, architecture.rotary_frequencies(source.config, shape))
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        Role.QUERY: (queries, shape.hidden),
        Role.KEY: (keys, shape.hidden),
        Role.VALUE: (keys, shape.hidden),
        Role.OUTPUT: (shape.hidden, queries),
        Role.GATE: (shape.intermediate, shape.hidden),
        Role.UP: (shape.intermediate, shape.hidden),
        Role.DOWN: (shape.hidden, shape.intermediate),
    }
    for layer in range(shape.layers):
        base = f"{prefix}layers.{layer}."
        for role, name in architecture.NORMS.items():
            yield pack_vector(base + name, role, layer, source.fetch(f"{base}{name}.weight"))
        for role, name in architecture.HEAD_NORMS.items():
            if f"{base}{name}.weight" in source.names:
                yield pack_vector(base + name, role, layer, source.fetch(f"{base}{name}.weight"))
        for role, name in architecture.MATRICES.items():
            yield matrix(base + name, role, layer, *sizes[role], how.precision, how.dense_below)


def _own_head(source: WeightSource, embedding: str) -> str | None:
    """Name the output matrix; None where it is the embedding itself, whatever the config says of the two."""
    head = architecture.find_head(source.names)
    if head is None:
        if not source.config.get("tie_word_embeddings"):
            raise OwledError(
                "the checkpoint has no output matrix (lm_head), and its config does not tie it to the embedding"
            )
        return None
    bias = f"{head.removesuffix('.weight')}.bias" in source.names
    return None if not bias and np.array_equal(source.fetch(head), source.fetch(embedding)) else head


def _loose_tensors(
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray | None]], how: _How, off_grid: str
) -> Iterator[PackedTensor]:
    """Pack matrices; those that lie on no grid with the precision `off_grid`."""
    for name, (weight, bias) in matrices.items():
        scales = how.scales.get(name)
        precision = off_grid if scales is None else how.precision
        yield pack_matrix(name, Role.OTHER, -1, weight, bias, precision, how.dense_below, how.group, scales)


def _state_source(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> WeightSource:
    def fetch(name: str) -> np.ndarray:
        if name not in state:
            raise OwledError(f"the checkpoint lacks {name}")
        return state[name].detach().to("cpu").float().numpy()

    text = dict(architecture.text_config(config))
    text["tie_word_embeddings"] = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return WeightSource(frozenset(state), fetch, text)
