"""How much pruning each component alone costs, and a budget that follows from it. Needs torch and a loaded model.

The OWLed paper (arXiv 2411.07711) finds the vision encoder more sensitive than the language model; this measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from owled_ros.models.components import Structure
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.plan import budget_pools, count_zeros
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.quality import measure

LEVELS = (0.3, 0.5, 0.6, 0.7)
MAX_BUDGET = 0.9
GRID_STEP = 0.01  # step of the sparsities that the budget search tries


@dataclass(frozen=True)
class Sensitivity:
    """Loss [nat per token] of the dense model and of each component pruned alone, by component and sparsity."""

    dense: float
    losses: dict[str, dict[float, float]]
    sizes: dict[str, int]  # prunable parameters per component

    def increase(self, component: str) -> dict[float, float]:
        """Return what pruning one component adds to the loss, by sparsity."""
        return {level: loss - self.dense for level, loss in self.losses[component].items()}


def measure_sensitivity(
    model: nn.Module,
    structure: Structure,
    calibration: Sequence[Batch],
    held_out: Sequence[Batch],
    config: PruneConfig,
    levels: Sequence[float] = LEVELS,
    report: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Sensitivity:
    """Prune each component alone (evenly, with the config's score) at each level, measure, and put the weights back."""
    dense = measure(model, held_out).loss
    sizes = structure.component_sizes()
    losses: dict[str, dict[float, float]] = {name: {} for name in sizes}
    done, total = 0, len(sizes) * len(levels)
    for component in sizes:
        part = structure.only((component,))
        matrices = [matrix for block in part.blocks for matrix in block.matrices]
        saved = {matrix.name: matrix.weight().clone() for matrix in matrices}
        for level in levels:
            one = replace(config, sparsity=level, components=(component,), budgets={}, allocation="uniform")
            zeros = count_zeros(part, {matrix.name: level for matrix in matrices}, budget_pools(part, one))
            try:
                prune_blocks(model, part, calibration, zeros, one)
                losses[component][level] = measure(model, held_out).loss
            finally:
                for matrix in matrices:
                    matrix.weight().copy_(saved[matrix.name])
            done += 1
            report(done, total, f"{component} at {level:.0%}: loss {losses[component][level]:.3f}, dense {dense:.3f}")
    return Sensitivity(dense, losses, sizes)


def propose_budget(found: Sensitivity, sparsity: float) -> dict[str, float]:
    """Split an overall sparsity over the components so that the sum of their measured losses is least.

    Losses are joined by straight lines in the log of the increase and made convex from below; then the classical exchange
    applies: always prune the component whose next step costs least per weight. Exact to one step of the smallest component.
    """
    curves = {name: _convex(_curve(found.increase(name))) for name in found.sizes}
    total = sum(found.sizes.values())
    levels = dict.fromkeys(found.sizes, 0)
    removed = 0.0
    while removed < sparsity * total - 1e-9:
        slopes = {
            name: (curves[name][level + 1] - curves[name][level]) / found.sizes[name]
            for name, level in levels.items()
            if level + 1 < len(curves[name])
        }
        if not slopes:
            break
        cheapest = min(slopes, key=lambda name: (slopes[name], name))
        levels[cheapest] += 1
        removed += GRID_STEP * found.sizes[cheapest]
        last = cheapest
    budget = {name: level * GRID_STEP for name, level in levels.items()}
    if removed > sparsity * total:
        budget[last] -= (removed - sparsity * total) / found.sizes[last]
    return budget


def plot(found: Sensitivity, budget: Mapping[str, float], file: Path) -> None:
    """Draw the loss over the sparsity of each component, the proposed budget marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for component, losses in found.losses.items():
        levels = [0.0, *sorted(losses)]
        values = [found.dense, *(losses[level] for level in sorted(losses))]
        (line,) = axes.plot(levels, values, marker="o", label=f"{component} ({found.sizes[component] / 1e6:.2f} M)")
        axes.axvline(budget[component], color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(xlabel="sparsity of this component alone (dotted: proposed budget)", ylabel="held-out loss [nat/token]")
    axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _curve(increase: Mapping[float, float]) -> np.ndarray:
    """Interpolate the increase on the grid 0, 0.01, .. MAX_BUDGET; beyond the measured levels it continues as steeply."""
    levels = sorted(increase)
    logs = np.log(np.maximum.accumulate([max(increase[level], 1e-5) for level in levels]))
    grid = np.arange(0.0, MAX_BUDGET + GRID_STEP / 2, GRID_STEP)
    inner = np.interp(grid, levels, logs)
    if len(levels) > 1:
        steep = max((logs[-1] - logs[-2]) / (levels[-1] - levels[-2]), 1.0)
        inner = np.where(grid > levels[-1], logs[-1] + steep * (grid - levels[-1]), inner)
    values = np.exp(inner)
    return np.where(grid < levels[0], values * grid / levels[0], values)


def _convex(values: np.ndarray) -> np.ndarray:
    """Return the largest convex curve below the values, so that slopes only grow."""
    hull: list[int] = []
    for place in range(len(values)):
        while len(hull) >= 2:
            before, last = hull[-2], hull[-1]
            if (values[last] - values[before]) * (place - last) <= (values[place] - values[last]) * (last - before):
                break
            hull.pop()
        hull.append(place)
    return np.interp(np.arange(len(values)), hull, values[hull])
