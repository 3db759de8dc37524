"""What a pruning run is told and what it says while it runs. Needs nothing but the standard library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.errors import OwledError

if TYPE_CHECKING:
    from owled_ros.pruning.binarise import Binary
    from owled_ros.pruning.metric import Tree
    from owled_ros.pruning.rounding import Grid

COMPONENTS = ("vision", "projector", "language")
COMPONENTS_BY_DEFAULT = ("vision", "language")  # of these, whichever a model has
SCORES = ("magnitude", "wanda", "sparsegpt", "admm", "pruner-zero")
DEFAULT_SCORE = "admm"  # better than sparsegpt in every draw measured, for twice the time (docs/pruning.md)
CORRECTING = ("sparsegpt", "admm")  # of these: the weights that stay make up for the zeros
METRIC = "metric"  # the score of `PruneConfig.metric`
STBLLM = "stbllm"  # the score that binarises what stays
PLAN = "plan"  # the allocation of `PruneConfig.plan`
ALLOCATIONS = ("uniform", "owl", "owl-reference", "block0", "learned", "alpha-pruning", "dlp", "atp", "norm")
ROWS = ("even", "trim")
STATISTICS = ("fused", "block", "oneshot")
REFINE_STEPS = 10
PATTERNS = ("unstructured", "2:4", "4:8", "2:8", "3:8", "6:8", "7:8", "8:16", "10:16", "12:16")
GROUP_SIZES: dict[float, int] = {1.6: 64, 2: 64, 3: 64, 4: 32, 8: 32}  # inputs that share a scale, by bits
DENSE_BITS = 3  # as many or fewer are packed with their zeros, which then save nothing
ENDS_BITS = 4  # embedding and output matrix are rounded where the rest has at most as many
FEW_ENDS_GROUP = 32  # inputs that share one of their scales where they have fewer: more lose far more than they save (docs/pruning.md)

Batch = Mapping[str, Any]  # what the model's forward takes by keyword: tensors with a leading batch axis


@dataclass(frozen=True)
class PruneConfig:
    """Everything that decides the bits of an artifact, apart from the calibration batches.

    `sparsity` is the share of zeros over all pruned matrices, in (0, 1); with `bits` it may be 0. `budgets` fixes the sparsity of single
    components; the others then all get `sparsity`. `lod_threshold` is OWL's M and `owl_lambda` its lambda; of the other allocations that
    spread zeros over blocks it is their own parameter (docs/pruning.md).

    `statistics`: "fused" prunes every matrix on inputs that already passed the pruned matrices before it, "block"
    collects the statistics of a whole block on the pruned blocks before it, "oneshot" takes those of the dense model.
    """

    model: Path  # Hugging Face directory, *.gguf file, or an artifact
    output: Path  # the artifact's directory; replaced in one step when all is written
    sparsity: float = 0.6
    score: str = DEFAULT_SCORE  # of SCORES, or "metric"
    allocation: str = (
        "uniform"  # nothing measured better where drift is corrected (docs/pruning.md); "learned" where it is not
    )
    statistics: str = "fused"
    pattern: str = "unstructured"
    components: tuple[str, ...] = COMPONENTS_BY_DEFAULT
    budgets: Mapping[str, float] = field(default_factory=dict)
    lod_threshold: float = 5.0
    owl_lambda: float | None = None  # half the range of block sparsities; None: what `allocation.SPREADS` says
    rows: str = "even"  # zeros of a matrix's rows: all the same, or as TRIM finds (scores that rank row by row)
    metric: str | None = None  # with score metric: an expression over W, X and G (docs/pruning.md)
    plan: Mapping[str, float] | None = None  # with allocation plan: sparsity by matrix, shifted to the budgets
    lod_samples: int = 8  # sequences that measure outliers and medians; owl-reference takes all
    learn_steps: int = 40  # steps of the learned allocation
    recovery_steps: int = 0  # masked distillation after pruning, with bits of scales and gains alone; 0 is off
    reconstruct_steps: int | None = None  # Adam's steps on the kept weights of every attention and MLP; None or 0: none
    refine_steps: int | None = None  # least-squares steps on the kept weights; None: 10 with sparsegpt and admm, else 0
    correct_drift: bool | None = (
        None  # aim at what the dense model gives (`drift`); None: with sparsegpt and admm on fused statistics
    )
    bits: float | None = None  # 1.6, 2, 3, 4 or 8: what stays is rounded in the same sweep
    regions: int = 3  # with score stbllm: levels of a row and block besides those of salient inputs; 1: neither
    group_size: int | None = None  # inputs that share a scale: 32, 64 or 128; None: 32, with 3 bits and fewer 64
    round_ends: bool = True  # with at most 4 bits embedding and output matrix are rounded too (`ends.round_ends`)
    ends_bits: float = ENDS_BITS  # to so many
    ends_group: int | None = None  # inputs that share their scales; None: group_size, below 4 bits FEW_ENDS_GROUP
    damping: float = 0.01  # of the Hessian (SparseGPT, refine): share of the mean of the Hessian's diagonal added to it
    seed: int = 0
    dtype: str = "auto"  # of the products in forward passes: float32, bfloat16, or auto: bfloat16 where it is fast
    device: str = "cpu"
    threads: int | None = None  # None leaves torch's choice
    state: Path | None = None  # where the resumable state lives; None: beside the output

    @property
    def group(self) -> tuple[int, int] | None:
        """(N, M) of an N:M pattern, None for unstructured."""
        if self.pattern == "unstructured":
            return None
        zeros, group = self.pattern.split(":")
        return int(zeros), int(group)

    @property
    def spread(self) -> float:
        """How far the sparsities of blocks lie apart: OWL's lambda, DLP's alpha, AlphaPruning's tau."""
        from owled_ros.pruning.allocation import SPREADS

        return SPREADS.get(self.allocation, SPREADS["owl"]) if self.owl_lambda is None else self.owl_lambda

    @property
    def refinement(self) -> int:
        """Steps of `sparsegpt.refine`: by default only where the score corrects the kept weights anyway."""
        if self.refine_steps is None:
            return REFINE_STEPS if self.score in CORRECTING else 0
        return self.refine_steps

    @property
    def corrects(self) -> bool:
        """Whether the kept weights change too, which repairs part of what the zeros cost."""
        return self.score in (*CORRECTING, STBLLM) or self.refinement > 0 or bool(self.reconstruct_steps)

    @property
    def corrects_drift(self) -> bool:
        """Whether every matrix also makes up for what those before it have changed."""
        if self.correct_drift is None:
            return self.score in CORRECTING and self.statistics == "fused"
        return self.correct_drift

    @property
    def tree(self) -> Tree | None:
        """The metric that scores the weights, where one was given."""
        if self.metric is None:
            return None
        from owled_ros.pruning.metric import parse_metric

        return parse_metric(self.metric)

    @property
    def binary(self) -> Binary | None:
        """How the weights that stay are binarised."""
        if self.score != STBLLM:
            return None
        from owled_ros.pruning.binarise import SALIENT, Binary

        return Binary(self.regions, SALIENT[-1] if self.regions > 1 else 0)

    @property
    def grid(self) -> Grid | None:
        """What the weights that stay are rounded to."""
        if self.bits is None:
            return None
        from owled_ros.pruning.rounding import Grid

        return Grid(self.bits, self.group_size or GROUP_SIZES.get(self.bits, GROUP_SIZES[4]))

    @property
    def grid_of_ends(self) -> Grid | None:
        """What embedding and output matrix are rounded to."""
        grid = self.grid
        if not grid or not self.round_ends or grid.bits > ENDS_BITS:
            return None
        usual = grid.group if self.ends_bits == ENDS_BITS else FEW_ENDS_GROUP
        return replace(grid, bits=self.ends_bits, group=self.ends_group or usual)

    def check(self) -> None:
        """Raise OwledError on a value that cannot work."""
        _one_of("score", self.score, (*SCORES, METRIC, STBLLM))
        _one_of("allocation", self.allocation, (*ALLOCATIONS, PLAN))
        _one_of("statistics", self.statistics, STATISTICS)
        _one_of("pattern", self.pattern, PATTERNS)
        _one_of("rows", self.rows, ROWS)
        _one_of("dtype", self.dtype, ("auto", "float32", "bfloat16"))
        for component in (*self.components, *self.budgets):
            _one_of("component", component, COMPONENTS)
        if not self.components:
            raise OwledError(f"no component to prune; give at least one of {', '.join(COMPONENTS)}")
        for name, value in (("", self.sparsity), *self.budgets.items()):
            if not (math.isfinite(value) and (0.0 < value < 1.0 or (value == 0.0 and self.bits is not None))):
                hint = f"; for {value:g} % give {value / 100:g}" if 1.0 < value < 100.0 else ""
                of = f" of {name}" if name else ""
                raise OwledError(
                    f"the sparsity{of} is {value:g}: it is a share of zeros and must lie inside (0, 1){hint}"
                )
        self._check_grid()
        if not (math.isfinite(self.spread) and 0.0 <= self.spread < 0.5):
            raise OwledError(f"lambda is {self.spread}; it must lie in [0, 0.5)")
        if not (math.isfinite(self.lod_threshold) and self.lod_threshold > 0.0):
            raise OwledError(f"the outlier threshold M is {self.lod_threshold}; it must be a positive number")
        if (
            self.learn_steps < 1
            or min(self.recovery_steps, self.refinement, self.reconstruct_steps or 0) < 0
            or self.lod_samples < 1
            or self.damping <= 0.0
        ):
            raise OwledError(
                "learn_steps, lod_samples and damping must be positive, recovery_steps, reconstruct_steps and refine_steps not negative"
            )
        self._check_allocation()
        self._check_scoring()

    def _check_allocation(self) -> None:
        if (self.allocation == PLAN) != (self.plan is not None):
            raise OwledError("allocation plan and a plan go together: give both (--plan FILE), or neither")
        if self.allocation == "owl-reference" and self.budgets:
            raise OwledError("owl-reference knows no budgets, as the reference code: use owl with budgets")
        if self.group is not None:
            share = self.group[0] / self.group[1]
            if not math.isclose(self.sparsity, share) or self.budgets:
                raise OwledError(
                    f"pattern {self.pattern} always zeroes {share:.0%}: set the sparsity to that, without budgets"
                )
            if self.allocation == "owl-reference":
                raise OwledError("owl-reference knows no patterns, as the reference code: use owl with a pattern")

    def _check_scoring(self) -> None:
        if (self.score == METRIC) != (self.metric is not None):
            raise OwledError("score metric and a metric go together: give both (--metric FILE), or neither")
        _ = self.tree  # refuses what is no metric
        if self.correct_drift and not (self.statistics == "fused" and self.corrects and self.score != STBLLM):
            raise OwledError(
                "drift is corrected by the weights that stay, on fused statistics: use sparsegpt, admm or refine steps, and fused"
            )
        if self.reconstruct_steps and self.statistics == "oneshot":
            raise OwledError(
                "oneshot never sees the pruned model, which reconstruction starts from: use fused or block"
            )
        if self.score == STBLLM:
            self._check_binary()
        if self.rows == "even":
            return
        if self.score == STBLLM:
            raise OwledError("stbllm gives every row the same zeros, by its pattern: leave out rows trim")
        if self.score in CORRECTING:
            raise OwledError(
                f"{self.score} chooses its zeros over all rows at once: rows trim is for scores that rank row by row"
            )
        if self.group is not None or self.allocation == "owl-reference":
            raise OwledError(
                f"{'owl-reference' if self.group is None else f'pattern {self.pattern}'} gives every row the same zeros: "
                "leave out rows trim"
            )

    def _check_binary(self) -> None:
        _ = self.binary  # refuses what is not known
        if self.group is None:
            raise OwledError("score stbllm needs a pattern: 4:8, 3:8 and 2:8 are its paper's 0.55, 0.7 and 0.8 bits")
        if self.bits or self.refinement or self.reconstruct_steps or self.recovery_steps:
            raise OwledError(
                "score stbllm leaves every weight on one of its levels: bits, refine, reconstruct and recovery would move it off"
            )

    def _check_grid(self) -> None:
        of_ends = self.ends_bits != ENDS_BITS or self.ends_group is not None
        if of_ends and not (self.round_ends and self.bits and self.bits <= ENDS_BITS):
            raise OwledError(
                f"bits or groups of embedding and output matrix are given, which are rounded with {ENDS_BITS} bits or fewer only"
            )
        if self.bits is None:
            if self.group_size is not None:
                raise OwledError("a group size is given without bits: it is that of the scales of rounded weights")
            return
        grid = self.grid  # refuses what is not known
        assert grid is not None
        if self.ends_bits > ENDS_BITS:
            raise OwledError(
                f"embedding and output matrix are rounded to {ENDS_BITS} bits or fewer, not {self.ends_bits}"
            )
        _ = self.grid_of_ends  # refuses what is not known
        if self.sparsity == 0.0 and not self.budgets and self.allocation != "uniform":
            raise OwledError("a sparsity of 0 leaves nothing to allocate: use allocation uniform")


@dataclass(frozen=True)
class PruneProgress:
    """One step of a running job: `done` of `total` within the stage load, plan, prune, ends, recover, measure or write."""

    stage: str
    done: int
    total: int
    detail: str = ""


ProgressCallback = Callable[[PruneProgress], None]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OwledError(f"unknown {name} {value!r}; known: {', '.join(known)}")
