"""The answer of one line, "follow, acceleration -1.2 m/s2, steering +0.03 rad" (driving.answer), held for a while. Needs numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from owled_ros.driving.answer import Manoeuvre, format_action, parse_action
from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.spec import Seconds, Spec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import HORIZON_S, roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError


class LineSpec(Spec):
    """An action in one line."""

    kind: Literal["line"] = "line"
    horizon_s: Seconds = HORIZON_S
    """How long the trajectory holds the action."""

    def make(self, _directory: Path) -> AnswerKind:
        """Return the kind."""
        return LineKind(self)


@dataclass(frozen=True)
class LineKind:
    """See the module."""

    spec: LineSpec
    needs_hidden: bool = False

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Read the line and roll its action out; None for "unknown"."""
        action = parse_action(raw.text)
        if action is None:
            return None
        return Plan(roll_out(action, ego.speed, vehicle, self.spec.horizon_s), action.manoeuvre)

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write the first action; rounded to the grammar's steps, within its ranges."""
        if plan.manoeuvre is Manoeuvre.UNKNOWN:
            raise AnswerError("the plan names no manoeuvre; expected one, the line begins with it")
        return format_action(plan.trajectory.first_action(vehicle.wheel_base, plan.manoeuvre))

    def describe(self) -> str:
        """Say the form."""
        return "'<cruise|follow|stop|yield>, acceleration <+-x.x> m/s2, steering <+-x.xx> rad' or 'unknown'"
