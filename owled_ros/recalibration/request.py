"""What one recalibration is asked to do, as JSON for the child process and back. Needs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.recalibration.parameters import JobParameters
from owled_ros.settings import from_mapping

PATHS = ("model", "running", "work")


@dataclass(frozen=True)
class JobRequest:
    """Where a job works, and what it was told."""

    bags: tuple[Path, ...]
    model: Path  # dense model that is pruned
    parameters: JobParameters = field(default_factory=JobParameters)
    work: Path = Path()  # empty directory on the store's file system
    running: Path | None = None  # what drives now; None: the dense model
    drives: str = ""  # its short hash as the driving node says it; the gate refuses to compare with anything else

    def check(self) -> None:
        """Raise OwledError on a value that cannot work; the pruning checks its own values."""
        if not self.bags:
            raise OwledError("no bag to recalibrate on; give at least one rosbag2 directory or .mcap/.db3 file")
        self.parameters.check()
        for bag in self.bags:
            if not bag.exists():
                raise OwledError(f"bag {bag} does not exist; give a rosbag2 directory or a .mcap or .db3 file")

    def to_json(self) -> str:
        """Write for the child."""
        return json.dumps(asdict(self), default=_plain)


def read_request(text: str) -> JobRequest:
    """Read what `to_json` wrote."""
    try:
        values: dict[str, Any] = json.loads(text)
        unknown = set(values) - {entry.name for entry in fields(JobRequest)}
        if unknown:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        paths = {name: None if values[name] is None else Path(values[name]) for name in PATHS}
        told = from_mapping(JobParameters, values["parameters"], "parameters")
        bags = tuple(Path(bag) for bag in values["bags"])
        return JobRequest(**{**values, **paths, "bags": bags, "parameters": told})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OwledError(f"the request of the job cannot be read ({error})") from error


def _plain(value: object) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
