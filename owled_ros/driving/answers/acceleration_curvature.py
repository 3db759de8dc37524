"""Accelerations and curvatures in a list, "[(0.4, 0.002), (0.3, 0.002)]", each held for a step. Needs numpy. Letters: N steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.lists import check_column, format_groups, parse_groups
from owled_ros.driving.answers.spec import Count, Decimals, Scale, Seconds, Spec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import acceleration_curvature_of, from_acceleration_curvature
from owled_ros.driving.vehicle import VehicleParameters

STRONGEST = 20.0  # [m/s2]
SHARPEST = 1.0  # [1/m]


class AccelerationCurvatureSpec(Spec):
    """Acceleration and curvature of the next steps."""

    kind: Literal["acceleration_curvature"] = "acceleration_curvature"
    count: Count
    step_s: Seconds
    acceleration_scale: Scale = 1.0
    """What is written is the acceleration in m/s2 times this."""
    curvature_scale: Scale = 1.0
    """What is written is the curvature in 1/m times this, such as 100."""
    curvature_positive: Literal["left", "right"] = "left"
    decimals: Decimals = 2
    """Of the acceleration."""
    curvature_decimals: Decimals = 4

    def make(self, _directory: Path) -> AnswerKind:
        """Return the kind."""
        return AccelerationCurvatureKind(self)


@dataclass(frozen=True)
class AccelerationCurvatureKind:
    """See the module."""

    spec: AccelerationCurvatureSpec
    needs_hidden: bool = False

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Read the pairs and drive them by the unicycle."""
        pairs = parse_groups(raw.text, self.spec.count, ("acceleration", "curvature")) / self._factors()
        check_column("acceleration", pairs[:, 0], -STRONGEST, STRONGEST, "m/s2")
        check_column("curvature", pairs[:, 1], -SHARPEST, SHARPEST, "1/m")
        return Plan(from_acceleration_curvature(pairs, self.spec.step_s, ego.speed))

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write the mean acceleration and curvature of every step."""
        spec = self.spec
        pairs = acceleration_curvature_of(plan.trajectory, spec.step_s, spec.count)
        return format_groups(pairs * self._factors(), (spec.decimals, spec.curvature_decimals), "()")

    def describe(self) -> str:
        """Say the form."""
        spec = self.spec
        stronger = "" if spec.acceleration_scale == 1.0 else f" times {spec.acceleration_scale:g}"
        sharper = "" if spec.curvature_scale == 1.0 else f" times {spec.curvature_scale:g}"
        return (
            f"[(acceleration, curvature), …]: {spec.count} pairs, one every {spec.step_s:g} s, acceleration in m/s2{stronger}, "
            f"curvature in 1/m{sharper}, {spec.curvature_positive} positive"
        )

    def _factors(self) -> np.ndarray:
        sign = -1.0 if self.spec.curvature_positive == "right" else 1.0
        return np.array([self.spec.acceleration_scale, sign * self.spec.curvature_scale])
