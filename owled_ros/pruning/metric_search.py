"""Search a pruning metric for a model: every tree is worth the held-out loss of the model pruned by it. Needs torch and a loaded model.

Weights, input norms and gradients are taken once, of the dense model; a trial masks all matrices, measures and puts the weights back.
What is known is appended to a file tree by tree, so a search that is killed at any moment goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.files import write_json
from owled_ros.models.components import Matrix, Structure
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.evolution import KNOWN, SearchSettings, Tried, evolve
from owled_ros.pruning.gradients import dense_gradients
from owled_ros.pruning.known_losses import remembering
from owled_ros.pruning.metric import FORMAT, FORMAT_VERSION, Tree, fault_of, parse_metric, score_of
from owled_ros.pruning.metric_rules import simplify
from owled_ros.pruning.plan import budget_pools, count_zeros, dense_statistics
from owled_ros.pruning.scores import magnitude, mask_rows
from owled_ros.pruning.state import hash_batches
from owled_ros.pruning.trials import Trials

RATE = 2e10  # products a second of the machine that minutes are counted on
MASKING = 1000  # what masking a weight costs there, in products


def evaluations_in(minutes: float, weights: int, tokens: int) -> int:
    """Turn minutes into evaluations: those of a machine of 2e10 products a second, so that the same command is the same search anywhere.

    Args:
        weights: prunable parameters. tokens: held-out tokens of one evaluation.
    """
    if not (math.isfinite(minutes) and minutes > 0.0):
        raise OwledError(f"{minutes:g} minutes are no time for a search: give a positive number")
    return int(60.0 * minutes * RATE / (weights * (2.0 * tokens + MASKING)))


class PrunedLoss:
    """What a tree is worth: the loss of the model pruned by it, evenly and in one shot; infinite where it ranks nothing."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        calibration: Sequence[Batch],
        held_out: Sequence[Batch],
        config: PruneConfig,
    ) -> None:
        self.trials = 0  # so far
        self._on = Trials(model, structure, held_out)
        self.dense = self._on.dense
        self._zeros = count_zeros(
            structure, {matrix.name: config.sparsity for matrix in self._on.matrices}, budget_pools(structure, config)
        )
        seen = dense_statistics(model, structure, calibration)
        self._squares = {name: found.squares for name, found in seen.items()}
        self._gradients = dense_gradients(model, structure, calibration)

    def __call__(self, tree: Tree) -> float:
        """Prune, measure, and put the weights back."""
        self.trials += 1
        with self._on.put_back():
            for matrix in self._on.matrices:
                mask = self._mask(matrix, tree)
                if mask is None:
                    return math.inf
                matrix.weight().masked_fill_(mask, 0.0)
            return self._on.loss()

    def _mask(self, matrix: Matrix, tree: Tree) -> torch.Tensor | None:
        """Return what the tree prunes of a matrix; None where it ranks nothing. What is damaged or never runs goes by magnitude."""
        weight, squares, gradient = (
            self._on.weights[matrix.name], self._squares[matrix.name], self._gradients[matrix.name],
        )  # fmt: skip
        score = magnitude(weight)
        if bool(squares.any()) and bool(gradient.any()) and fault_of(score) is None:
            score = score_of(tree, weight, squares, gradient)
            if fault_of(score) is not None:
                return None
        gone = weight == 0
        return mask_rows(score.masked_fill(gone, torch.finfo(score.dtype).min), self._zeros[matrix.name], gone.sum(1))


@dataclass
class Found:
    """The best tree so far, what the known metrics are worth, and how many trees were tried."""

    best: Tried
    known: dict[str, float] = field(default_factory=dict)
    tried: int = 0


def search(loss_of: Callable[[Tree], float], settings: SearchSettings, state: Path, name: str) -> Iterator[Found]:
    """Yield what is found after every tree; trees that the state knows are not tried again.

    Args:
        state: file of the losses known so far; that of another search, by `name`, is begun afresh.
    """
    with remembering(loss_of, state, name, lambda text: str(parse_metric(text))) as remembered:
        by_tree = {simplify(tree): known for known, tree in KNOWN.items()}
        found: Found | None = None
        for tried in evolve(remembered, settings):
            found = found or Found(tried)
            found.best = min(found.best, tried, key=lambda one: one.rank)
            found.tried = tried.place
            if tried.tree in by_tree:
                found.known[by_tree[tried.tree]] = tried.loss
            yield found


def search_name(
    config: PruneConfig, settings: SearchSettings, model_sha256: str, batches: Sequence[Sequence[Batch]]
) -> str:
    """Name a search by everything that decides its course; not by how far it is to go."""
    parts = {key: value for key, value in asdict(settings).items() if key != "evaluations"}
    parts |= {"sparsity": config.sparsity, "components": config.components, "budgets": dict(config.budgets)}
    content = json.dumps([parts, model_sha256, [hash_batches(some) for some in batches]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def write_metric(path: Path, name: str, found: Found, facts: dict[str, Any]) -> None:
    """Write a metric for `owled prune --metric`; the same search writes the same bytes."""
    if not math.isfinite(found.best.loss):
        raise OwledError("no tree of the search ranks this model's weights: check its weights and the calibration")
    known = {name: loss if math.isfinite(loss) else None for name, loss in found.known.items()}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "name": name, "metric": str(found.best.tree)}
    write_json(path, {**content, "loss": found.best.loss, "known": known, "evaluations": found.tried, **facts})
