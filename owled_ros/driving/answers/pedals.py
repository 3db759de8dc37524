"""Pedals and steering in percent, "Accelerator pedal 23%, brake pedal 0%, steer 4% to the left" (LLM-Driver). Needs numpy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.spec import Decimals, Seconds, Spec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import HORIZON_S, action_of_pedals, roll_out
from owled_ros.driving.vehicle import VehicleParameters, controls_of
from owled_ros.driving.wording import NUMBER, AnswerError, check_range, plain, shown

_BETWEEN = r"(?:\s*[,;.]\s*|\s+)(?:and\s+)?(?:[-*•]\s+)?"
_PEDALS = re.compile(
    rf"(?:(?:here are )?my (?:predicted )?(?:control )?actions:\s*)?(?:[-*•]\s+)?"
    rf"accelerator(?: pedal)?:?\s+(?P<accelerator>{NUMBER})\s?%{_BETWEEN}"
    rf"brake(?: pedal)?:?\s+(?P<brake>{NUMBER})\s?%{_BETWEEN}"
    rf"(?:i am )?(?:going to )?steer(?:ing)?:?\s+(?P<steering>{NUMBER})\s?%\s+(?:to the )?(?P<side>left|right)\.?",
    re.ASCII | re.IGNORECASE,
)


class PedalsSpec(Spec):
    """Accelerator, brake and steering in percent of what the vehicle can do."""

    kind: Literal["pedals"] = "pedals"
    horizon_s: Seconds = HORIZON_S
    """How long the trajectory holds the action."""
    decimals: Decimals = 0

    def make(self, _directory: Path) -> AnswerKind:
        """Return the kind."""
        return PedalsKind(self)


@dataclass(frozen=True)
class PedalsKind:
    """See the module."""

    spec: PedalsSpec
    needs_hidden: bool = False

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Read the three percentages and roll their action out."""
        match = _PEDALS.fullmatch(plain(raw.text))
        if not match:
            raise AnswerError(f"answer {shown(raw.text)} names no pedals; expected {self.describe()}")
        shares = {name: float(match[name]) for name in ("accelerator", "brake", "steering")}
        for name, share in shares.items():
            check_range(name, share, 0.0, 100.0, "%")
        if shares["accelerator"] > 0.0 and shares["brake"] > 0.0:
            raise AnswerError(
                f"accelerator {shares['accelerator']:g} % and brake {shares['brake']:g} % at once; expected one of them at 0 %"
            )
        side = 1.0 if match["side"].lower() == "left" else -1.0
        accelerator, brake, steering = (0.01 * share for share in shares.values())
        action = action_of_pedals(accelerator, brake, side * steering, vehicle)
        return Plan(roll_out(action, ego.speed, vehicle, self.spec.horizon_s))

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write the first action in percent."""
        action = plan.trajectory.first_action(vehicle.wheel_base)
        controls = controls_of(action.acceleration, action.steering_tire_angle, vehicle)
        places = self.spec.decimals
        return (
            f"Accelerator pedal {100.0 * controls.throttle + 0.0:.{places}f}%, brake pedal {100.0 * controls.brake + 0.0:.{places}f}%, "
            f"steer {100.0 * abs(controls.steering):.{places}f}% to the {'left' if controls.steering > 0.0 else 'right'}"
        )

    def describe(self) -> str:
        """Say the form."""
        return "'Accelerator pedal <n>%, brake pedal <n>%, steer <n>% to the <left|right>', 0 to 100, one pedal at 0"
