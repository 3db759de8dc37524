"""A trajectory head: code of an installed package that turns hidden states into a plan. Needs numpy.

The head is a Python entry point of the group `owled_ros.trajectory_heads`: only what an operator has installed runs, never a
file of a model directory. It is a function `make(directory: Path, options: dict) -> head`, and `head(hidden, ego, vehicle)`
gets the hidden states (T, C) float32 of prompt and answer, the ego state and the vehicle, and returns (N, 2) or (N, 3)
places x [m], y [m], heading [rad] in base_link, or (N, 2) accelerations [m/s2] and curvatures [1/m], as `gives` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.lists import check_column
from owled_ros.driving.answers.spec import Count, Seconds, Spec, Word
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.waypoints import from_waypoints
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError

GROUP = "owled_ros.trajectory_heads"
Head = Callable[[np.ndarray, EgoState, VehicleParameters], np.ndarray]
COLUMNS = {
    "places": (("x", 1000.0, "m"), ("y", 1000.0, "m")),
    "poses": (("x", 1000.0, "m"), ("y", 1000.0, "m"), ("heading", 4.0 * math.pi, "rad")),
    "acceleration_curvature": (("acceleration", 20.0, "m/s2"), ("curvature", 1.0, "1/m")),
}


class HeadSpec(Spec):
    """Which head, and what it returns."""

    kind: Literal["head"] = "head"
    name: Word
    """Name of the entry point."""
    count: Count
    step_s: Seconds
    gives: Literal["places", "poses", "acceleration_curvature"] = "poses"
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Handed to the head when it is made."""

    def make(self, directory: Path) -> AnswerKind:
        """Return the kind, with its head."""
        return HeadKind(self, load_head(self.name)(directory, dict(self.options)))


@dataclass(frozen=True)
class HeadKind:
    """See the module."""

    spec: HeadSpec
    head: Head
    needs_hidden: bool = True

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Ask the head and check what it returns; what it raises goes on to the caller."""
        if raw.hidden is None:
            raise AnswerError("the answer has no hidden states; the trajectory head needs them")
        spec, columns = self.spec, COLUMNS[self.spec.gives]
        values = np.asarray(self.head(raw.hidden, ego, vehicle), np.float64)
        if values.shape != (spec.count, len(columns)):
            raise AnswerError(
                f"the head {spec.name!r} returned the shape {values.shape}; expected ({spec.count}, {len(columns)})"
            )
        for column, (name, limit, unit) in zip(values.T, columns, strict=True):
            check_column(f"{name} of point", column, -limit, limit, unit)
        if spec.gives == "acceleration_curvature":
            return Plan(from_acceleration_curvature(values, spec.step_s, ego.speed))
        return Plan(from_waypoints(values, spec.step_s, ego.speed))

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Refuse: a head reads hidden states, not words."""
        raise AnswerError(f"the head {self.spec.name!r} reads hidden states; there are no words for a plan")

    def describe(self) -> str:
        """Say what the head returns."""
        names = ", ".join(f"{name} [{unit}]" for name, _, unit in COLUMNS[self.spec.gives])
        return f"head {self.spec.name!r} on the hidden states: {self.spec.count} times ({names}), one every {self.spec.step_s:g} s"


def load_head(name: str) -> Callable[[Path, dict[str, Any]], Head]:
    """Return the function of an installed entry point; raises OwledError naming what is installed."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise OwledError(
            f"no trajectory head {name!r} is installed (installed: {', '.join(sorted(found)) or 'none'}); "
            f"install the package that has it as an entry point of {GROUP}"
        )
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise OwledError(f"the trajectory head {name!r} cannot be loaded: {error}") from error
