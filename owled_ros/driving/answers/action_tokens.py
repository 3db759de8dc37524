"""Action tokens, each a step (dx, dy, dheading) of a codebook. Needs numpy. Letters: N tokens, K entries of the codebook."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from owled_ros.driving.answers.codebook import read_codebook
from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.spec import Count, Seconds, Spec
from owled_ros.driving.ego import EgoState, wrapped
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.waypoints import from_steps
from owled_ros.driving.wording import AnswerError, plain, shown

INDEX = "{index}"


class ActionTokensSpec(Spec):
    """Tokens of the vocabulary that mean steps."""

    kind: Literal["action_tokens"] = "action_tokens"
    count: Count
    step_s: Seconds
    codebook: str
    """File in the model directory: (K, 3) numbers dx [m], dy [m], dheading [rad]; safetensors, npy or json."""
    entries: Annotated[int, Field(ge=1, le=1_000_000)]
    """Length of the codebook, K."""
    base_id: Annotated[int, Field(ge=0, le=10_000_000)]
    """Id of the token that means entry 0; the others follow."""
    token: str = "<action_{index}>"
    """How a token is written where special tokens are kept in the text."""
    read: Literal["ids", "text"] = "ids"
    """Read the generated ids, or the text that was cut out."""
    others_around: bool = False
    """Other tokens (reasoning, end marks) may stand before and after the action tokens; only with ids."""

    @field_validator("token")
    @classmethod
    def _has_index(cls, token: str) -> str:
        if token.count(INDEX) != 1:
            raise ValueError(f"token {token!r} must contain {INDEX} once")
        return token

    def make(self, directory: Path) -> AnswerKind:
        """Return the kind, with its codebook."""
        return ActionTokensKind(self, read_codebook(directory, self.codebook, self.entries))


@dataclass(frozen=True, eq=False)
class ActionTokensKind:
    """See the module."""

    spec: ActionTokensSpec
    steps: np.ndarray  # (K, 3)
    needs_hidden: bool = False

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Look the steps up and put them end to end."""
        indices = self._from_ids(raw.ids) if self.spec.read == "ids" else self._from_text(raw.text)
        if len(indices) != self.spec.count:
            raise AnswerError(f"answer has {len(indices)} action tokens; expected {self.spec.count}")
        return Plan(from_steps(self.steps[indices], self.spec.step_s, ego.speed))

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write the tokens that follow the plan most closely, each chosen from where the ones before ended."""
        return "".join(self.spec.token.replace(INDEX, str(index)) for index in self.indices_of(plan))

    def indices_of(self, plan: Plan) -> list[int]:
        """Return the entries that follow a plan most closely, one after the other."""
        spec = self.spec
        wanted = plan.trajectory.sample(spec.step_s * np.arange(1, spec.count + 1))
        x = y = heading = 0.0
        indices = []
        for target in wanted.values[:, 1:4]:
            cos, sin = np.cos(heading), np.sin(heading)
            dx, dy = target[0] - x, target[1] - y
            step = np.array([cos * dx + sin * dy, cos * dy - sin * dx, wrapped(target[2] - heading)])
            index = int(((self.steps - step) ** 2).sum(axis=1).argmin())
            taken = self.steps[index]
            x, y = x + cos * taken[0] - sin * taken[1], y + sin * taken[0] + cos * taken[1]
            heading += taken[2]
            indices.append(index)
        return indices

    def describe(self) -> str:
        """Say the form."""
        spec = self.spec
        first, last = (spec.token.replace(INDEX, str(index)) for index in (0, spec.entries - 1))
        return (
            f"{spec.count} action tokens {first} … {last} (ids {spec.base_id} to {spec.base_id + spec.entries - 1}), "
            f"one every {spec.step_s:g} s"
        )

    def _from_ids(self, ids: tuple[int, ...]) -> list[int]:
        spec = self.spec
        indices = [identity - spec.base_id for identity in ids]
        unknown = [index for index in indices if index >= spec.entries]
        if unknown:
            raise AnswerError(f"token {unknown[0] + spec.base_id} is no action token; expected {self.describe()}")
        places = [place for place, index in enumerate(indices) if index >= 0]
        if not places:
            raise AnswerError(f"answer has no action tokens; expected {self.describe()}")
        if len(places) != places[-1] - places[0] + 1:
            raise AnswerError(f"other tokens stand between the action tokens; expected {self.describe()}")
        if len(places) < len(ids) and not spec.others_around:
            raise AnswerError(f"{len(ids) - len(places)} other tokens stand around the action tokens; expected none")
        return [indices[place] for place in places]

    def _from_text(self, text: str) -> list[int]:
        before, after = (re.escape(part) for part in self.spec.token.split(INDEX))
        token = rf"{before}(0|[1-9][0-9]{{0,6}}){after}"
        line = plain(text)
        if not re.fullmatch(rf"(?:{token}\s*)+", line, re.ASCII):
            raise AnswerError(f"answer {shown(text)} is not of action tokens alone; expected {self.describe()}")
        indices = [int(index) for index in re.findall(token, line, re.ASCII)]
        if max(indices) >= self.spec.entries:
            raise AnswerError(f"action token {max(indices)} is not in the codebook; expected {self.describe()}")
        return indices
