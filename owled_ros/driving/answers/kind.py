"""What every kind of answer can do. Needs numpy.

A kind turns what the model said into a plan, strictly: what is not exactly one answer raises AnswerError, nothing is guessed,
completed or replaced by zeros. `format` goes back: it is what a model is trained on, and what tests parse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from owled_ros.driving.answer import Manoeuvre
from owled_ros.driving.ego import EgoState
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters


@dataclass(frozen=True)
class RawAnswer:
    """What came out of the model for the call that answers."""

    text: str  # decoded, special tokens left out
    ids: tuple[int, ...] = ()  # generated tokens, special ones too, without the end token
    hidden: np.ndarray | None = None  # (T, C) float32, last hidden states, only for kinds that ask for them


@dataclass(frozen=True)
class Plan:
    """What the model wants to do."""

    trajectory: Trajectory
    manoeuvre: Manoeuvre = Manoeuvre.UNKNOWN


class AnswerKind(Protocol):
    """One kind of answer with its parameters."""

    @property
    def needs_hidden(self) -> bool:
        """Whether the engine is asked for hidden states."""

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Read an answer; None when the model declines. Raises AnswerError for anything that is not exactly one answer."""

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write the answer that says this plan; raises AnswerError where the kind has no words for it."""

    def describe(self) -> str:
        """Say the expected form in one line, with units: for error messages and `owled profile check`."""
