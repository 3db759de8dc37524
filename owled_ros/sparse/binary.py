"""`binary.safetensors`: matrices whose weights are zeros and signs times five levels (docs/packed_format.md). Needs numpy and safetensors.

All indices are in the file: which of every M weights stay, signs, regions, salient inputs, and the levels. Reading gives the very weights again.
Letters: R outputs, K inputs, B blocks of 128 inputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from owled_ros.errors import OwledError
from owled_ros.files import write_atomic
from owled_ros.sparse.rounding import from_bf16, to_bf16

BINARY_NAME = "binary.safetensors"
FORMAT_VERSION = 1
BLOCK = 128
REGIONS = 3
LEVELS = 5
TRITS = 5  # regions that share a byte
PARTS = ("masks", "signs", "salient", "regions", "ends", "levels")


@dataclass(frozen=True)
class BinaryMatrix:
    """A matrix in its parts: bytes, and bf16 levels (R, B, levels that are used)."""

    rows: int
    columns: int
    kept: int  # of every `group` neighbours
    group: int
    parts: Mapping[str, np.ndarray]

    @property
    def bits(self) -> float:
        """Bits a weight of all parts."""
        return 8.0 * sum(part.nbytes for part in self.parts.values()) / (self.rows * self.columns)


def encode(weight: np.ndarray, zeroed: np.ndarray, levels: np.ndarray, group: int) -> BinaryMatrix:
    """Take a matrix (R, K) apart.

    Args:
        zeroed: (R, K), equally many of every `group` neighbours. levels: (R, B, 5) as `binarise` gives them.

    Raises:
        OwledError: when a weight is none of its levels, or the zeros do not follow a pattern.
    """
    rows, columns = weight.shape
    kept = ~zeroed
    counts = kept.reshape(rows, -1, group).sum(2) if columns % group == 0 else np.zeros((1, 1))
    if columns % group or counts.min() != counts.max() or not counts.min():
        raise OwledError(f"the zeros of a matrix of {rows} x {columns} follow no pattern of {group} neighbours")
    spread = np.repeat(levels, BLOCK, axis=1)[:, :columns]  # (R, K, 5)
    same = (np.abs(weight)[..., None] == spread) & kept[..., None]
    if not same.any(2)[kept].all():
        raise OwledError("a weight is none of the levels of its row and block: binarise the matrix again")
    salient = ~(same[..., :REGIONS].any(2) | zeroed).all(0)  # (K,) what the regions cannot say
    if not (same[..., REGIONS:].any(2) | zeroed)[:, salient].all():
        raise OwledError("a weight of a salient input is none of its two levels: binarise the matrix again")
    plain = kept & ~salient
    regions = same[..., :REGIONS].argmax(2)[plain].astype(np.uint8)
    used = [place for place in range(REGIONS) if place == 0 or regions.any()] + [REGIONS, REGIONS + 1] * bool(
        salient.any()
    )
    parts = {
        "masks": _packed_masks(kept, group),
        "signs": np.packbits(weight[kept] < 0),
        "salient": np.packbits(salient),
        "regions": _packed_trits(regions) if regions.any() else np.zeros(0, np.uint8),
        "ends": np.packbits(~same[..., REGIONS][kept & salient]),
        "levels": to_bf16(np.ascontiguousarray(levels[..., used], np.float32)),
    }
    return BinaryMatrix(rows, columns, int(counts.min()), group, parts)


def decode(matrix: BinaryMatrix) -> np.ndarray:
    """Return the weight (R, K) float32."""
    rows, columns, parts = matrix.rows, matrix.columns, matrix.parts
    kept = _unpacked_masks(parts["masks"], rows * columns // matrix.group, matrix.kept, matrix.group).reshape(
        rows, columns
    )
    count = int(kept.sum())
    signs = np.unpackbits(parts["signs"], count=count).astype(bool)
    salient = np.unpackbits(parts["salient"], count=columns).astype(bool)
    levels = from_bf16(parts["levels"])
    plain, strong = kept & ~salient, kept & salient
    index = np.zeros((rows, columns), np.uint8)
    index[plain] = _unpacked_trits(parts["regions"], int(plain.sum())) if parts["regions"].size else 0
    index[strong] = np.unpackbits(parts["ends"], count=int(strong.sum())) + np.uint8(max(levels.shape[2] - 2, 0))
    place = np.repeat(np.arange(levels.shape[1]), BLOCK)[:columns]
    weight = np.where(kept, levels[np.arange(rows)[:, None], place[None, :], index], np.float32(0.0))
    weight[kept] *= np.where(signs, np.float32(-1.0), np.float32(1.0))
    return weight


def write_binary(path: Path, matrices: Mapping[str, BinaryMatrix]) -> None:
    """Write matrices by name, in one step."""
    tensors = {f"{name}.{part}": matrix.parts[part] for name, matrix in matrices.items() for part in PARTS}
    shapes = {name: [matrix.rows, matrix.columns, matrix.kept, matrix.group] for name, matrix in matrices.items()}
    header = json.dumps({"format_version": FORMAT_VERSION, "matrices": shapes}, sort_keys=True)
    write_atomic(path, save(tensors, {"binary": header}))


def read_binary(path: Path) -> Iterator[tuple[str, BinaryMatrix]]:
    """Read one matrix after the other.

    Raises:
        OwledError: when the file is damaged, of another version, or its parts do not fit together.
    """
    try:
        with safe_open(path, framework="numpy") as stream:
            header: Any = json.loads((stream.metadata() or {})["binary"])
            if header["format_version"] != FORMAT_VERSION:
                raise OwledError(
                    f"{path} has format {header['format_version']}, this release reads {FORMAT_VERSION}: update owled_ros"
                )
            for name, shape in header["matrices"].items():
                rows, columns, kept, group = map(int, shape)
                matrix = BinaryMatrix(
                    rows, columns, kept, group, {part: stream.get_tensor(f"{name}.{part}") for part in PARTS}
                )
                _check(path, name, matrix)
                yield name, matrix
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as err:
        raise OwledError(
            f"{path} cannot be read as binarised matrices ({err}): copy the artifact again, or prune again"
        ) from err


def _check(path: Path, name: str, matrix: BinaryMatrix) -> None:
    """Prove that the parts have the sizes that their header promises, so that decoding never reads beyond one."""
    fits = (
        0 < matrix.kept <= matrix.group <= 16
        and matrix.rows > 0
        and matrix.columns > 0
        and matrix.columns % matrix.group == 0
    )
    if fits:
        weights, parts = matrix.rows * matrix.columns, matrix.parts
        kept = weights // matrix.group * matrix.kept
        salient = (
            int(np.unpackbits(parts["salient"], count=matrix.columns).sum())
            if parts["salient"].size == -(-matrix.columns // 8)
            else -1
        )
        blocks = -(-matrix.columns // BLOCK)
        shape = parts["levels"].shape
        fits = (
            salient >= 0
            and all(parts[part].dtype == np.uint8 for part in PARTS[:-1])
            and parts["levels"].dtype == np.uint16
            and parts["masks"].size == -(-(weights // matrix.group) * _rank_bits(matrix.kept, matrix.group) // 8)
            and parts["signs"].size == -(-kept // 8)
            and shape[:2] == (matrix.rows, blocks)
            and shape[2] == (REGIONS if parts["regions"].size else 1) + 2 * (salient > 0)
        )
        if fits:
            masks = _unpacked_masks(parts["masks"], weights // matrix.group, matrix.kept, matrix.group)
            columns = masks.reshape(matrix.rows, matrix.columns)[
                :, np.unpackbits(parts["salient"], count=matrix.columns) > 0
            ]
            strong = int(columns.sum())
            regions = parts["regions"]
            fits = parts["ends"].size == -(-strong // 8) and (
                not regions.size or (regions.size == -(-(kept - strong) // TRITS) and int(regions.max()) < 3**TRITS)
            )
    if not fits:
        raise OwledError(f"{path}: the parts of {name} do not fit together: copy the artifact again, or prune again")


def _rank_bits(kept: int, group: int) -> int:
    """Return the bits of one of the ways in which `kept` of `group` neighbours stay."""
    return math.ceil(math.log2(math.comb(group, kept)))


@cache
def _patterns(kept: int, group: int) -> np.ndarray:
    """Return all ways as masks (ways, group), in the order of their ranks."""
    ways = list(combinations(range(group), kept))
    masks = np.zeros((len(ways), group), bool)
    masks[np.repeat(np.arange(len(ways)), kept), np.array(ways).ravel()] = True
    return masks


def _packed_masks(kept: np.ndarray, group: int) -> np.ndarray:
    groups = kept.reshape(-1, group)
    count = int(groups[0].sum())
    weights = 1 << np.arange(group)
    ranks = np.zeros(1 << group, np.uint16)
    patterns = _patterns(count, group)
    ranks[patterns @ weights] = np.arange(len(patterns))
    return _packed_numbers(ranks[groups @ weights], _rank_bits(count, group))


def _unpacked_masks(packed: np.ndarray, groups: int, kept: int, group: int) -> np.ndarray:
    ranks, patterns = _unpacked_numbers(packed, groups, _rank_bits(kept, group)), _patterns(kept, group)
    if groups and int(ranks.max()) >= len(patterns):
        raise ValueError(f"a mask has rank {int(ranks.max())} of {len(patterns)}")
    return patterns[ranks]


def _packed_numbers(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Write numbers one after another with so many bits each, the highest first."""
    return np.packbits((numbers[:, None] >> np.arange(bits - 1, -1, -1)) & 1)


def _unpacked_numbers(packed: np.ndarray, count: int, bits: int) -> np.ndarray:
    found = np.unpackbits(packed, count=count * bits).reshape(count, bits).astype(np.int64)
    return found @ (1 << np.arange(bits - 1, -1, -1)) if bits else np.zeros(count, np.int64)


def _packed_trits(trits: np.ndarray) -> np.ndarray:
    """Write five numbers below three to a byte, the first one as its lowest digit."""
    filled = np.zeros(-(-len(trits) // TRITS) * TRITS, np.uint8)
    filled[: len(trits)] = trits
    return (filled.reshape(-1, TRITS) @ 3 ** np.arange(TRITS)).astype(np.uint8)


def _unpacked_trits(packed: np.ndarray, count: int) -> np.ndarray:
    digits = packed[:, None].astype(np.int64) // 3 ** np.arange(TRITS) % 3
    return digits.reshape(-1)[:count].astype(np.uint8)
