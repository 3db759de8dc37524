"""What one recalibration is asked to do, as JSON for the child process and back. Needs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError

PATHS = ("model", "running", "gate", "work")
COMPONENT_NAMES = {
    "vision_tower": "vision",
    "vision": "vision",
    "projector": "projector",
    "language_model": "language",
    "language": "language",
}


@dataclass(frozen=True)
class JobRequest:
    """Everything that decides the result of a job."""

    bags: tuple[Path, ...]
    model: Path  # dense model that is pruned
    work: Path  # empty directory on the store's file system
    gate: Path  # rules
    running: Path | None = None  # what drives now; None: the dense model
    drives: str = ""  # its short hash as the driving node says it; the gate refuses to compare with anything else
    sparsity: float = 0.5
    score: str = "sparsegpt"
    allocation: str = "block0"
    budgets: Mapping[str, float] = field(default_factory=dict)  # component -> share of zeros
    recovery_steps: int = 0
    seed: int = 0
    calibration_frames: int = 48
    gate_frames: int = 120
    gate_share: float = 0.3  # of the images, in whole drives
    cut_single_drive: bool = False  # True: a lone drive is cut in two, with a guard between, instead of refused
    image_topic: str = ""
    ego_topic: str = ""
    ego_from: str = ""  # bags.reading.ReadOptions
    pack: bool = True
    device: str = "cpu"
    threads: int = 1

    def check(self) -> None:
        """Raise OwledError on a value that cannot work; the pruning checks its own values."""
        if not self.bags:
            raise OwledError("no bag to recalibrate on; give at least one rosbag2 directory or .mcap/.db3 file")
        if not 0.0 < self.sparsity < 1.0:
            raise OwledError(f"sparsity is {self.sparsity:g}; it is a share of zeros and must lie inside (0, 1)")
        if not 0.0 < self.gate_share < 1.0:
            raise OwledError(f"gate_share is {self.gate_share:g}; it is a share of the images inside (0, 1)")
        if min(self.calibration_frames, self.gate_frames) < 2 or self.threads < 1:
            raise OwledError("calibration_frames and gate_frames must be at least 2, threads at least 1")
        for bag in self.bags:
            if not bag.exists():
                raise OwledError(f"bag {bag} does not exist; give a rosbag2 directory or a .mcap or .db3 file")

    def to_json(self) -> str:
        """Write for the child."""
        values = {**asdict(self), "budgets": dict(self.budgets)}
        return json.dumps(values, default=str)


def read_request(text: str) -> JobRequest:
    """Read what `to_json` wrote."""
    try:
        values: dict[str, Any] = json.loads(text)
        unknown = set(values) - {entry.name for entry in fields(JobRequest)}
        if unknown:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        paths = {name: None if values[name] is None else Path(values[name]) for name in PATHS}
        return JobRequest(**{**values, **paths, "bags": tuple(Path(bag) for bag in values["bags"])})
    except (ValueError, KeyError, TypeError) as error:
        raise OwledError(f"the request of the job cannot be read ({error})") from error


def budgets_of(names: list[str], shares: list[float]) -> dict[str, float]:
    """Pair components with their shares of zeros; raises OwledError for unknown names or lists of different length."""
    if len(names) != len(shares):
        raise OwledError(f"{len(names)} budget components but {len(shares)} sparsities; give one for each")
    unknown = [name for name in names if name not in COMPONENT_NAMES]
    if unknown:
        raise OwledError(f"component {unknown[0]!r} is not known; expected one of {', '.join(COMPONENT_NAMES)}")
    return {COMPONENT_NAMES[name]: float(share) for name, share in zip(names, shares, strict=True)}
