"""Speeds and curvatures in a list, "[(8.1, 0.2), (8.4, 0.3)]", each at the end of a step. Needs numpy. Letters: N steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.lists import check_column, format_groups, parse_groups
from owled_ros.driving.answers.spec import Count, Decimals, Scale, Seconds, Spec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import from_speed_curvature, speed_curvature_of
from owled_ros.driving.vehicle import VehicleParameters

METRES_PER_SECOND = {"m/s": 1.0, "km/h": 1.0 / 3.6, "mph": 0.44704}
FASTEST = 100.0  # [m/s]
SHARPEST = 1.0  # [1/m]


class SpeedCurvatureSpec(Spec):
    """Speed and curvature of the next steps."""

    kind: Literal["speed_curvature"] = "speed_curvature"
    count: Count
    step_s: Seconds
    speed_unit: Literal["m/s", "km/h", "mph"] = "m/s"
    curvature_scale: Scale = 1.0
    """What is written is the curvature in 1/m times this, such as 100."""
    curvature_positive: Literal["left", "right"] = "left"
    decimals: Decimals = 2
    """Of the speed."""
    curvature_decimals: Decimals = 4

    def make(self, _directory: Path) -> AnswerKind:
        """Return the kind."""
        return SpeedCurvatureKind(self)


@dataclass(frozen=True)
class SpeedCurvatureKind:
    """See the module."""

    spec: SpeedCurvatureSpec
    needs_hidden: bool = False

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Read the pairs and drive them by the unicycle."""
        pairs = parse_groups(raw.text, self.spec.count, ("speed", "curvature")) / self._factors()
        check_column("speed", pairs[:, 0], 0.0, FASTEST, "m/s")
        check_column("curvature", pairs[:, 1], -SHARPEST, SHARPEST, "1/m")
        return Plan(from_speed_curvature(pairs, self.spec.step_s, ego.speed))

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write speed and curvature at the end of every step."""
        spec = self.spec
        pairs = speed_curvature_of(plan.trajectory, spec.step_s, spec.count)
        return format_groups(pairs * self._factors(), (spec.decimals, spec.curvature_decimals), "()")

    def describe(self) -> str:
        """Say the form."""
        spec = self.spec
        scaled = "" if spec.curvature_scale == 1.0 else f" times {spec.curvature_scale:g}"
        return (
            f"[(speed, curvature), …]: {spec.count} pairs, one every {spec.step_s:g} s, speed in {spec.speed_unit}, "
            f"curvature in 1/m{scaled}, {spec.curvature_positive} positive"
        )

    def _factors(self) -> np.ndarray:
        sign = -1.0 if self.spec.curvature_positive == "right" else 1.0
        return np.array([1.0 / METRES_PER_SECOND[self.spec.speed_unit], sign * self.spec.curvature_scale])
