"""The file of a searched plan: what to prune with, and the zeros of every matrix. Needs files only.

`owled search-plan` writes it, `owled prune --plan` takes it: the sparsities by matrix, shifted to the sparsity that is asked for, and the
settings they were found with, each of which an option that is given goes before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.files import read_small_file, write_json

FORMAT = "owled_plan"
FORMAT_VERSION = 1
MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class PlanSettings:
    """What shapes the loss besides the plan; None: prune's own default."""

    score: str | None = None
    metric: str | None = None  # with score metric: an expression
    refine: int | None = None
    damping: float | None = None
    general_share: float | None = None  # of general text among the calibration samples
    bits: float | None = None
    group_size: int | None = None


@dataclass(frozen=True)
class PlanFile:
    """Sparsity in all, by matrix, and the settings."""

    name: str
    sparsity: float
    plan: Mapping[str, float]
    settings: PlanSettings


def write_plan(path: Path, found: PlanFile, facts: Mapping[str, Any]) -> None:
    """Write a plan for `owled prune --plan`; `facts` tells how it was found. The same search writes the same bytes."""
    settings = {key: value for key, value in asdict(found.settings).items() if value is not None}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "name": found.name, "sparsity": found.sparsity}
    write_json(path, {**content, "settings": settings, **facts, "plan": dict(found.plan)})


def read_plan(path: Path) -> PlanFile:
    """Read what `write_plan` wrote.

    Raises:
        OwledError: when it is no such file, of another format version, or holds values that are none.
    """
    raw = read_small_file(path, MOST_BYTES)
    if raw is None:
        raise OwledError(f"there is no plan {path}: give a file of `owled search-plan`")
    try:
        content: Any = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise OwledError(f"{path} cannot be read as a plan: {err}; give a file of `owled search-plan`") from err
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise OwledError(f"{path} is no plan: expected a file of `owled search-plan` (format {FORMAT})")
    if content.get("format_version") != FORMAT_VERSION:
        raise OwledError(
            f"{path} has format {content.get('format_version')}, this release reads {FORMAT_VERSION}: update owled_ros"
        )
    plan, settings = content.get("plan"), content.get("settings", {})
    if not isinstance(plan, dict) or not plan or not all(_is_share(value) for value in plan.values()):
        raise OwledError(f"{path}: plan must hold a share of zeros in [0, 1] by the name of every matrix")
    if not _is_share(content.get("sparsity")):
        raise OwledError(f"{path}: sparsity is {content.get('sparsity')!r}, expected the share of zeros in all")
    return PlanFile(str(content.get("name") or path.stem), float(content["sparsity"]), plan, _settings(path, settings))


def _settings(path: Path, given: Any) -> PlanSettings:
    known = {
        "score": str, "metric": str, "refine": int, "damping": float, "general_share": float, "bits": int, "group_size": int,
    }  # fmt: skip
    if not isinstance(given, dict):
        raise OwledError(f"{path}: settings must be an object with some of {', '.join(known)}")
    for name, value in given.items():
        if name not in known:
            raise OwledError(f"{path}: unknown setting {name!r}; known: {', '.join(known)}")
        right = isinstance(value, (int, float) if known[name] is float else known[name]) and not isinstance(value, bool)
        if not right or (isinstance(value, float) and not math.isfinite(value)):
            raise OwledError(f"{path}: {name} is {value!r}, expected {known[name].__name__}")
    return PlanSettings(**given)


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value <= 1.0
