"""Search how to prune a model in two stages (the idea of Auto-PICNN, arXiv 2407.06151). Needs optuna; knows nothing of models.

First what shapes the loss: score, allocation and its parameter, OWL's M, damping, least-squares steps, the share of general text, the
inputs that share a scale. Then the architecture of the plan, from the best of the first: zeros moved along the depth and between kinds of
matrices, one knob at a time. The course follows from the seed and the losses alone, so a search that is begun again with what is known goes to the same end.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.errors import OwledError
from owled_ros.pruning.allocation import SPREADS
from owled_ros.pruning.config import CORRECTING, DEFAULT_SCORE, METRIC, REFINE_STEPS
from owled_ros.pruning.known_losses import remembering

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial as Asked

SCORES = (DEFAULT_SCORE, "sparsegpt", "wanda", "magnitude")
ALLOCATIONS = ("uniform", "learned", "block0", "owl", "alpha-pruning", "dlp", "atp")
SPREAD_RANGE = (0.25, 2.5)  # of an allocation's parameter, as a multiple of what its paper has
THRESHOLDS = (3.0, 5.0, 7.0, 10.0)  # OWL's M
REFINES = (0, 10, 20)
DAMPINGS = (0.001, 0.1)
REACH = 0.1  # how far one trial moves a knob
FARTHEST = 0.3  # how far all trials may move it
FIRST_SHARE = 0.5  # of the evaluations, for the first stage
FEWEST = 4
DRAWN = 6  # trials of a stage that are drawn evenly before the others follow from them


@dataclass(frozen=True)
class Trial:
    """What one evaluation prunes with; its text is its name. `moves`: sparsity to add, by knob of the second stage."""

    score: str = DEFAULT_SCORE
    allocation: str = "uniform"
    refine: int = REFINE_STEPS
    damping: float = 0.01
    spread: float | None = None
    threshold: float = 5.0
    general_share: float = 0.0
    group_size: int | None = None
    moves: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def read_trial(text: str) -> str:
    """Return the text of a trial as it is written now; raises ValueError where it is none."""
    try:
        return str(Trial(**json.loads(text)))
    except TypeError as err:
        raise ValueError(str(err)) from err


@dataclass(frozen=True)
class Space:
    """What may be chosen: one entry is no choice. `default` is what prune would do by itself, and is tried first."""

    default: Trial
    scores: Sequence[str] = SCORES
    allocations: Sequence[str] = ALLOCATIONS
    general_shares: Sequence[float] = (0.0,)
    group_sizes: Sequence[int | None] = (None,)
    knobs: Sequence[str] = ()  # of the second stage


@dataclass(frozen=True)
class PlanSearchSettings:
    """`evaluations`: how many plans are tried in all, in both stages."""

    evaluations: int
    seed: int = 0

    def check(self) -> None:
        """Raise OwledError on a value that cannot work."""
        if self.evaluations < FEWEST:
            raise OwledError(f"{self.evaluations} evaluations are too few for two stages: give {FEWEST} or more")

    @property
    def first(self) -> int:
        """Evaluations of the first stage."""
        return math.ceil(self.evaluations * FIRST_SHARE)


@dataclass(frozen=True)
class Found:
    """What is known after an evaluation: the best trial, what prune's own defaults are worth, and the best of the first stage."""

    best: Trial
    loss: float
    default_loss: float
    first_loss: float
    stage: int
    tried: int


def search(
    loss_of: Callable[[Trial], float], space: Space, settings: PlanSearchSettings, state: Path, name: str
) -> Iterator[Found]:
    """Yield what is found after every evaluation; trials that the state knows are not tried again.

    Args:
        state: file of the losses known so far; that of another search, by `name`, is begun afresh.
    """
    settings.check()
    _need_optuna()
    with remembering(loss_of, state, name, read_trial) as remembered:
        found: Found | None = None
        study = _study(settings.seed)
        study.enqueue_trial(_parameters_of(space))
        for place in range(settings.first):
            found = _tried(study, lambda asked: _settings_of(asked, space), remembered, found, 1, place + 1)
            yield found
        assert found is not None
        if not math.isfinite(found.loss):
            raise OwledError(
                "no setting of the first stage prunes this model to a finite loss: check its weights, the calibration and the sparsity"
            )
        study = _study(settings.seed + 1)
        for place in range(settings.first, settings.evaluations if space.knobs else settings.first):
            choose = partial(_moved, best=found.best, knobs=space.knobs)
            found = _tried(study, choose, remembered, found, 2, place + 1)
            yield found


def _tried(
    study: Study,
    choose: Callable[[Asked], Trial],
    loss_of: Callable[[Trial], float],
    before: Found | None,
    stage: int,
    place: int,
) -> Found:
    """Try one more trial of a stage; of equal ones the earlier is better."""
    asked = study.ask()
    trial = choose(asked)
    loss = loss_of(trial)
    loss = loss if math.isfinite(loss) else math.inf
    study.tell(asked, loss)
    if before is None:
        return Found(trial, loss, loss, loss, stage, place)
    better = loss < before.loss
    after = replace(before, stage=stage, tried=place)
    if better:
        after = replace(after, best=trial, loss=loss)
    return replace(after, first_loss=after.loss) if stage == 1 else after


def _settings_of(asked: Asked, space: Space) -> Trial:
    """Choose what shapes the loss; a parameter only where it means something."""
    score = _chosen(asked, "score", space.scores)
    allocation = _chosen(asked, "allocation", space.allocations)
    refine = _chosen(asked, "refine", REFINES)
    spread, threshold, damping = None, space.default.threshold, space.default.damping
    if allocation in SPREADS:
        times = asked.suggest_float(f"{allocation} spread", *SPREAD_RANGE, log=True)
        spread = _short(times * SPREADS[allocation])
    if allocation == "owl":
        threshold = _chosen(asked, "threshold", THRESHOLDS)
    if score in CORRECTING or refine:
        damping = _short(asked.suggest_float("damping", *DAMPINGS, log=True))
    share = _chosen(asked, "general share", space.general_shares)
    size = _chosen(asked, "group size", space.group_sizes)
    return Trial(score, allocation, refine, damping, spread, threshold, share, size)


def _parameters_of(space: Space) -> dict[str, Any]:
    """Return the default trial as the study's parameters."""
    default = space.default
    return {
        "score": default.score, "allocation": default.allocation, "refine": default.refine, "damping": default.damping,
        "general share": default.general_share, "group size": default.group_size, "threshold": default.threshold,
        **{f"{name} spread": 1.0 for name in SPREADS},
    }  # fmt: skip


def _moved(asked: Asked, best: Trial, knobs: Sequence[str]) -> Trial:
    """Move one knob of the best trial so far: many at once are almost never better."""
    knob = _chosen(asked, "knob", knobs)
    step = asked.suggest_float("step", -REACH, REACH)
    moved = min(max(best.moves.get(knob, 0.0) + step, -FARTHEST), FARTHEST)
    return replace(best, moves={**best.moves, knob: round(moved, 4)})


def _chosen(asked: Asked, name: str, values: Sequence[Any]) -> Any:
    return asked.suggest_categorical(name, list(values)) if len(values) > 1 else values[0]


def _short(value: float) -> float:
    """Round to three digits, so that a trial is written as it was tried."""
    return float(f"{value:.3g}")


def _study(seed: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=DRAWN))


def _need_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise OwledError("searching a plan needs the optuna package: pip install optuna")


def scores_with(metric: str | None) -> tuple[str, ...]:
    """Return the scores to choose from; with a metric that is given, that too."""
    return (*SCORES, METRIC) if metric else SCORES
