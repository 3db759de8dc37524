"""Pruning metrics as symbolic trees over weights, input norms and gradients (Pruner-Zero, arXiv 2406.02924, section 3.2). Needs torch.

A metric is written as one expression, for example Wanda's `mul(abs(W), X)`. Leaves: W the weight, X the norm of each input, G the summed
absolute loss gradient. The lowest values of a row are pruned. Letters: R outputs, K inputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from owled_ros.errors import OwledError
from owled_ros.files import read_small_file

FORMAT, FORMAT_VERSION = "owled_metric", 1
LEAVES = ("W", "X", "G")
MOST_NODES = 64  # of a tree that is read
MOST_BYTES = 1 << 20  # of a file
SMALL = 1e-6  # of the mean size of a divisor or logarithm's argument: what is added so that zero has a value


@dataclass(frozen=True)
class Tree:
    """A leaf, or an operation and what it is done to."""

    name: str
    parts: tuple[Tree, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parts))})" if self.parts else self.name

    @property
    def size(self) -> int:
        """Count the nodes."""
        return 1 + sum(part.size for part in self.parts)

    def nodes(self) -> Iterator[Tree]:
        """Yield the tree and all trees in it, in the order in which they are written."""
        yield self
        for part in self.parts:
            yield from part.nodes()

    def uses(self, leaf: str) -> bool:
        """Tell whether a leaf is in it."""
        return any(node.name == leaf for node in self.nodes())


@dataclass(frozen=True)
class Metric:
    """A tree and what it is called."""

    name: str
    tree: Tree


def _small(x: torch.Tensor) -> torch.Tensor:
    return x.abs().mean() * SMALL + torch.finfo(x.dtype).tiny


def _logarithm(x: torch.Tensor) -> torch.Tensor:
    return (x.abs() + _small(x)).log()


def _scaled(x: torch.Tensor) -> torch.Tensor:
    low, high = x.min(), x.max()
    return (x - low) / (high - low) if high > low else torch.ones_like(x)


def _standardised(x: torch.Tensor) -> torch.Tensor:
    spread = x.std(correction=0)
    return (x - x.mean()) / spread if spread > 0 else torch.zeros_like(x)


def _divided(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x / torch.where(y < 0, y - _small(y), y + _small(y))


UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs, "neg": torch.neg, "sqr": torch.square, "sqrt": lambda x: x.abs().sqrt(), "log": _logarithm,
    "exp": torch.exp, "tanh": torch.tanh, "mms": _scaled, "zsn": _standardised,
}  # fmt: skip
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": _divided,
}  # fmt: skip
OPERATIONS = {**dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2)}  # name: how many parts


def parse_metric(text: str) -> Tree:
    """Read an expression such as `mul(abs(W), X)`.

    Raises:
        OwledError: when it is none, or has more than 64 nodes.
    """
    words = re.findall(r"[A-Za-z]+|\S", text)
    if len(words) > 4 * MOST_NODES:
        raise OwledError(f"the metric has more than {MOST_NODES} nodes: {text[:60]!r} …")

    def expect(marks: tuple[str, ...], place: int) -> str:
        """Return the word at a place, which must be one of some."""
        word = words[place] if place < len(words) else "the end"
        if word not in marks:
            raise OwledError(f"metric {text!r}: expected {' or '.join(marks)}, not {word}")
        return word

    def read(place: int) -> tuple[Tree, int]:
        """Return the tree that begins at a place, and the place after it."""
        name = expect((*LEAVES, *OPERATIONS), place)
        place, parts = place + 1, []
        for mark in ("(", ",")[: OPERATIONS.get(name, 0)]:
            expect((mark,), place)
            part, place = read(place + 1)
            parts.append(part)
        if parts:
            expect((")",), place)
            place += 1
        return Tree(name, tuple(parts)), place

    tree, end = read(0)
    if end != len(words):
        raise OwledError(f"metric {text!r}: expected the end, not {words[end]}")
    if tree.size > MOST_NODES:
        raise OwledError(f"the metric has {tree.size} nodes, more than {MOST_NODES}")
    return tree


def read_metric(given: str) -> Metric:
    """Return the metric of a file that `owled search-metric` wrote, or of an expression, which is its own name.

    Raises:
        OwledError: when it is neither.
    """
    path = Path(given)
    if path.suffix != ".json":
        tree = parse_metric(given)
        return Metric(str(tree), tree)
    raw = read_small_file(path, MOST_BYTES)
    if raw is None:
        raise OwledError(f"there is no metric {path}: give a file of `owled search-metric`, or an expression")
    try:
        content: Any = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise OwledError(f"{path} cannot be read as a metric: {err}; give a file of `owled search-metric`") from err
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("metric"), str):
        raise OwledError(f"{path} is no metric: expected a file of `owled search-metric` (format {FORMAT})")
    if content.get("format_version") != FORMAT_VERSION:
        raise OwledError(
            f"{path} has format {content.get('format_version')}, this release reads {FORMAT_VERSION}: update owled_ros"
        )
    tree = parse_metric(content["metric"])
    return Metric(str(content.get("name") or tree), tree)


def score_of(
    tree: Tree, weight: torch.Tensor, squares: torch.Tensor, gradient: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the score (R, K) of a matrix; `squares` (K,) holds the squared norms of its inputs, `gradient` (R, K) is needed for G."""
    leaves = {"W": weight.float(), "X": squares.float().sqrt()[None, :]}
    if gradient is not None:
        leaves["G"] = gradient.float().abs()

    def value(node: Tree) -> torch.Tensor:
        if not node.parts:
            if node.name not in leaves:
                raise OwledError(f"the metric {tree} needs the gradients of every matrix")
            return leaves[node.name]
        if len(node.parts) == 1:
            return UNARY[node.name](value(node.parts[0]))
        return BINARY[node.name](value(node.parts[0]), value(node.parts[1]))

    return value(tree).expand(weight.shape)


def fault_of(score: torch.Tensor) -> str | None:
    """Say why a score ranks nothing: NaN or infinite somewhere, or the same all over every row; None where it does."""
    if not bool(score.isfinite().all()):
        return "is NaN or infinite"
    if bool((score.amax(1) == score.amin(1)).all()):
        return "is the same for all weights of a row"
    return None
