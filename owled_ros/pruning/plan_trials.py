"""What a trial of `plan_search` is worth: the held-out loss of the model pruned by it. Needs torch and a loaded model.

A trial prunes as `owled prune` does, with its statistics and corrections, and puts the weights back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Structure
from owled_ros.pruning.config import GROUP_SIZES, METRIC, Batch, PruneConfig
from owled_ros.pruning.plan import SparsityPlan, budget_pools, count_zeros, learn_plan, make_plan, within_budgets
from owled_ros.pruning.plan_file import PlanSettings
from owled_ros.pruning.plan_search import PlanSearchSettings, Space, Trial
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.state import hash_batches
from owled_ros.pruning.trials import Trials

DEPTHS = ("first", "early", "middle", "late")  # knobs along the depth of a component: its first block, and its thirds
SCALE_BITS = 16  # of a stored scale
logger = logging.getLogger(__name__)


class PlanLoss:
    """The loss after pruning by a trial; infinite where it cannot be pruned so."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        mixes: Mapping[float, Sequence[Batch]],
        held_out: Sequence[Batch],
        config: PruneConfig,
    ) -> None:
        """Measure the dense model; `mixes` are calibration batches by their share of general text, `config` what no trial changes."""
        self._model, self._structure, self._mixes, self._config = model, structure, mixes, config
        self._learned: dict[float, dict[str, float]] = {}  # by share of general text
        self._base: tuple[Trial, SparsityPlan] | None = None
        self.trials = 0  # so far
        sparsity = {matrix.name: config.sparsity for block in structure.blocks for matrix in block.matrices}
        count_zeros(structure, sparsity, budget_pools(structure, config))  # a model that has more zeros says so at once
        self._on = Trials(model, structure, held_out)
        self.dense = self._on.dense

    def __call__(self, trial: Trial) -> float:
        """Prune, measure, and put the weights back."""
        self.trials += 1
        try:
            plan, config = self.plan_of(trial), self.config_of(trial)
            with self._on.put_back():
                prune_blocks(self._model, self._structure, self._mixes[trial.general_share], plan.zeros, config)
                return self._on.loss()
        except OwledError as error:
            logger.warning("a trial is worth nothing: %s (%s)", error, trial)
            return math.inf

    def config_of(self, trial: Trial) -> PruneConfig:
        """Return what a trial is pruned with; another group of scales changes the sparsity, so that the packed bytes stay."""
        config = replace(
            self._config, score=trial.score, metric=self._config.metric if trial.score == METRIC else None,
            allocation=trial.allocation, owl_lambda=trial.spread, lod_threshold=trial.threshold, damping=trial.damping,
            refine_steps=trial.refine, group_size=trial.group_size,
        )  # fmt: skip
        if config.bits is not None and trial.group_size is not None:
            config = replace(config, sparsity=sparsity_at_equal_bytes(config.sparsity, config.bits, trial.group_size))
        config.check()
        return config

    def plan_of(self, trial: Trial) -> SparsityPlan:
        """Return the zeros of every matrix; the weights must be the dense ones."""
        base, config = replace(trial, moves={}), self.config_of(trial)
        if self._base is None or self._base[0] != base:
            self._base = (base, self._made(base, config))
        plan = self._base[1]
        if not trial.moves:
            return plan
        offsets = self._offsets(trial.moves)
        pools = budget_pools(self._structure, config)
        moved = within_budgets(
            self._structure, {name: value + offsets[name] for name, value in plan.sparsity.items()}, pools
        )
        return SparsityPlan(moved, count_zeros(self._structure, moved, pools))

    def _made(self, trial: Trial, config: PruneConfig) -> SparsityPlan:
        batches, share = self._mixes[trial.general_share], trial.general_share
        if trial.allocation == "learned" and share not in self._learned:
            self._learned[share] = learn_plan(self._model, self._structure, batches, config, lambda *_: None)
        learned = None
        if trial.allocation == "learned":
            pools = budget_pools(self._structure, config)
            learned = within_budgets(self._structure, self._learned[share], pools)  # of another sparsity: shifted
        return make_plan(self._model, self._structure, batches, config, lambda *_: None, learned)

    def _offsets(self, moves: Mapping[str, float]) -> dict[str, float]:
        """Return what is added to the sparsity of every matrix: by the place of its block, and by its kind."""
        knobs = _knobs_by_matrix(self._structure)
        return {name: sum(moves.get(knob, 0.0) for knob in of_matrix) for name, of_matrix in knobs.items()}


def sparsity_at_equal_bytes(sparsity: float, bits: float, group_size: int) -> float:
    """Return the sparsity whose packed bytes with scales per `group_size` inputs are those of `sparsity` with the usual groups."""
    saved = SCALE_BITS / GROUP_SIZES[bits] - SCALE_BITS / group_size  # bits a weight
    return sparsity - saved / bits


def knobs_of(structure: Structure) -> tuple[str, ...]:
    """Name what the second stage may move: places along the depth and kinds of matrices, of every component."""
    return tuple(dict.fromkeys(knob for knobs in _knobs_by_matrix(structure).values() for knob in knobs))


def settings_of(trial: Trial, config: PruneConfig, mixed: bool) -> PlanSettings:
    """Return what the file of a plan keeps of a trial; the share of general text only where it was a choice."""
    return PlanSettings(
        trial.score, config.metric if trial.score == METRIC else None, trial.refine, trial.damping,
        trial.general_share if mixed else None, config.bits, trial.group_size,
    )  # fmt: skip


def plan_search_name(
    config: PruneConfig,
    settings: PlanSearchSettings,
    space: Space,
    model_sha256: str,
    batches: Sequence[Sequence[Batch]],
) -> str:
    """Name a search by everything that decides its course: also by how far it is to go, which its stages share."""
    fixed = {"sparsity": config.sparsity, "components": config.components, "metric": config.metric, "bits": config.bits}
    content = json.dumps(
        [dataclasses.asdict(settings), dataclasses.asdict(space), fixed, model_sha256, [hash_batches(some) for some in batches]], sort_keys=True
    )  # fmt: skip
    return hashlib.sha256(content.encode()).hexdigest()


def _knobs_by_matrix(structure: Structure) -> dict[str, tuple[str, str]]:
    """Return the two knobs of every matrix: of its place along the depth, and of its kind."""
    found: dict[str, tuple[str, str]] = {}
    for component in structure.component_sizes():
        blocks = [block for block in structure.blocks if block.component == component]
        for place, block in enumerate(blocks):
            depth = DEPTHS[0] if place == 0 else DEPTHS[1 + 3 * place // len(blocks)]
            found |= {matrix.name: (f"{component} {depth}", f"{component} {matrix.kind}") for matrix in block.matrices}
    return found
