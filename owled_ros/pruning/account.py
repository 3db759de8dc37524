"""What a finished run says of itself: zeros as they were written, and whether the target was met. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Matrix, Structure, find_structure
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.plan import SparsityPlan, budget_pools

TOLERANCE = 0.001  # of a pool's weights: small weights that the stored type rounds to zero


def block_entries(written: nn.Module, structure: Structure, plan: SparsityPlan) -> list[dict[str, Any]]:
    """Count the zeros of every block in the model as it was loaded back."""
    matrices = stored_matrices(written)
    entries = []
    for block in structure.blocks:
        zeros = sum(count_stored_zeros(matrices[matrix.name]) for matrix in block.matrices)
        kinds: dict[str, tuple[int, int]] = {}
        for matrix in block.matrices:
            have, size = kinds.get(matrix.kind, (0, 0))
            kinds[matrix.kind] = (have + plan.zeros[matrix.name], size + matrix.size)
        entries.append(
            {
                "name": block.name,
                "component": block.component,
                "parameters": block.size,
                "zeros": zeros,
                "sparsity": zeros / block.size,
                "lod_percent": plan.lod.get(block.name),
                "matrices": {kind: have / size for kind, (have, size) in kinds.items()},
            }
        )
    return entries


def check_target(written: nn.Module, structure: Structure, plan: SparsityPlan, config: PruneConfig) -> None:
    """Raise OwledError when the zeros that were written are not those of the plan."""
    matrices = stored_matrices(written)
    for members, target in budget_pools(structure, config):
        part = [matrix for block in structure.blocks if block.component in members for matrix in block.matrices]
        off = {matrix.name: count_stored_zeros(matrices[matrix.name]) - plan.zeros[matrix.name] for matrix in part}
        size = sum(matrix.size for matrix in part)
        beyond = sum(off.values())
        if config.bits is not None:
            beyond = min(beyond, 0)  # rounding makes zeros of its own
        if abs(beyond) > max(TOLERANCE * size, 1):
            worst = max(off, key=lambda name: abs(off[name]))
            raise OwledError(
                f"the target was not met: {' and '.join(members)} should have {target:.2%} zeros and the plan is off by "
                f"{beyond:+} of {size} weights, most in {worst} ({off[worst]:+}). Nothing was written"
            )


def fallback_entries(fallbacks: Mapping[str, str], structure: Structure) -> dict[str, str]:
    """Return the fallbacks in the order of the model."""
    names = [matrix.name for block in structure.blocks for matrix in block.matrices]
    return {name: fallbacks[name] for name in names if name in fallbacks}


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn tuples and mappings into what JSON gives back, so that a manifest reads as it was written."""
    return {
        key: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }


def stored_matrices(model: nn.Module) -> dict[str, Matrix]:
    """Return all prunable matrices of a model by name."""
    return {matrix.name: matrix for block in find_structure(model).blocks for matrix in block.matrices}


def count_stored_zeros(matrix: Matrix) -> int:
    """Count the zeros of one matrix."""
    return int((matrix.stored() == 0).sum())
