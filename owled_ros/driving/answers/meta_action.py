"""Two words, "KEEP, STRAIGHT": what to do with the speed and the path, made numbers by the operator's table. Needs numpy.

A lane change is one period of a sine of curvature along the path: over the length l it shifts the vehicle by d where the
sine's height is 2 pi d / l^2 (small angles), and leaves the heading as it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import Field, model_validator

from owled_ros.driving.answer import Manoeuvre
from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.spec import Seconds, Spec, Word
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError, plain, shown

STEP_S = 0.1
NEAR_M = 2.0  # mean distance from the plan that a pair of words may lie away when written
Meaning = TypeVar("Meaning")
ManoeuvreWord = Literal["unknown", "cruise", "follow", "stop", "yield"]


class SpeedWord(Spec):
    """What a word of speed means."""

    acceleration: Annotated[float, Field(ge=-10.0, le=5.0)]
    """[m/s2], held until a target is reached."""
    target_speed: Annotated[float, Field(ge=0.0, le=60.0)] | None = None
    """[m/s] where the acceleration ends; null: braking ends at standstill, throttle at the vehicle's highest speed."""
    manoeuvre: ManoeuvreWord = "unknown"


class PathWord(Spec):
    """What a word of path means: a curvature, or a shift to the side."""

    curvature: Annotated[float, Field(ge=-0.5, le=0.5)] = 0.0
    """[1/m], left positive."""
    shift: Annotated[float, Field(ge=-10.0, le=10.0)] = 0.0
    """[m] to the left, such as one lane."""
    shift_s: Seconds = 4.0
    """Time that a shift takes at the speed of now."""
    shift_min_m: Annotated[float, Field(ge=5.0, le=200.0)] = 20.0
    """Length that a shift takes at least."""

    @model_validator(mode="after")
    def _one(self) -> PathWord:
        if self.curvature and self.shift:
            raise ValueError("curvature and shift: give one of them")
        return self


class MetaActionSpec(Spec):
    """Words and what they mean."""

    kind: Literal["meta_action"] = "meta_action"
    speed: dict[Word, SpeedWord] = Field(min_length=1, max_length=32)
    path: dict[Word, PathWord] = Field(min_length=1, max_length=32)
    order: Literal["speed_path", "path_speed"] = "speed_path"
    horizon_s: Seconds = 3.0

    @model_validator(mode="after")
    def _distinct(self) -> MetaActionSpec:
        for name, words in (("speed", self.speed), ("path", self.path)):
            if len({_spelt(word) for word in words}) < len(words) or "" in {_spelt(word) for word in words}:
                raise ValueError(
                    f"{name}: two words are spelt alike or empty; capitals, spaces and underscores do not count"
                )
        return self

    def make(self, _directory: Path) -> AnswerKind:
        """Return the kind."""
        return MetaActionKind(self)


@dataclass(frozen=True)
class MetaActionKind:
    """See the module."""

    spec: MetaActionSpec
    needs_hidden: bool = False

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Look the two words up and drive what they mean."""
        match = self._form().fullmatch(_unbracketed(plain(raw.text).casefold()))
        if not match:
            raise AnswerError(f"answer {shown(raw.text)} is no meta action; expected {self.describe()}")
        speed = _found(self.spec.speed, match["speed"])
        return self._plan(speed, _found(self.spec.path, match["path"]), ego, vehicle)

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write the pair of words whose trajectory lies nearest to the plan."""
        times = np.arange(STEP_S, min(self.spec.horizon_s, plan.trajectory.duration), 5 * STEP_S)
        wanted = plan.trajectory.sample(times)
        distances = {}
        for speed, path, meant in self._pairs(ego, vehicle):
            points = meant.trajectory.sample(times)
            distance = float(np.hypot(points.x - wanted.x, points.y - wanted.y).mean())
            distances[speed, path] = (distance, meant.manoeuvre is not plan.manoeuvre)
        (speed, path), (distance, _) = min(distances.items(), key=lambda item: item[1])
        if distance > NEAR_M:
            raise AnswerError(
                f"no pair of words means this plan; the nearest, {speed}, {path}, is {distance:.1f} m away"
            )
        return f"{speed}, {path}" if self.spec.order == "speed_path" else f"{path}, {speed}"

    def describe(self) -> str:
        """Say the form."""
        words = ["|".join(self.spec.speed), "|".join(self.spec.path)]
        first, second = words if self.spec.order == "speed_path" else words[::-1]
        return f"'<{first}>, <{second}>'"

    def _form(self) -> re.Pattern[str]:
        first, second = ("speed", "path") if self.spec.order == "speed_path" else ("path", "speed")
        names: dict[str, Iterable[str]] = {"speed": self.spec.speed, "path": self.spec.path}
        clauses = [
            rf"(?:{name}(?: plan| action)?\s*[:=]\s*)?(?P<{name}>{'|'.join(_pattern(word) for word in names[name])})"
            for name in (first, second)
        ]
        return re.compile(r"\s*[,;|\n]\s*".join(clauses) + r"\.?")

    def _pairs(self, ego: EgoState, vehicle: VehicleParameters) -> Iterator[tuple[str, str, Plan]]:
        for speed_name, speed in self.spec.speed.items():
            for path_name, path in self.spec.path.items():
                yield speed_name, path_name, self._plan(speed, path, ego, vehicle)

    def _plan(self, speed: SpeedWord, path: PathWord, ego: EgoState, vehicle: VehicleParameters) -> Plan:
        trajectory = _driven(speed, path, ego.speed, vehicle, round(self.spec.horizon_s / STEP_S))
        return Plan(trajectory, Manoeuvre[speed.manoeuvre.upper()])


def _driven(speed: SpeedWord, path: PathWord, pace: float, vehicle: VehicleParameters, steps: int) -> Trajectory:
    length = max(abs(pace) * path.shift_s, path.shift_min_m)
    height = 2.0 * math.pi * path.shift / length**2
    pairs, way, now = [], 0.0, pace
    for _ in range(steps):
        acceleration = _towards(speed, now, vehicle)
        after = max(0.0, now + acceleration * STEP_S)
        middle = way + 0.25 * (now + after) * STEP_S
        bend = height * math.sin(2.0 * math.pi * middle / length) if middle < length else 0.0
        pairs.append((acceleration, path.curvature + bend))
        way, now = way + 0.5 * (now + after) * STEP_S, after
    return from_acceleration_curvature(np.array(pairs), STEP_S, pace)


def _towards(speed: SpeedWord, now: float, vehicle: VehicleParameters) -> float:
    """Return the word's acceleration, less in the step that reaches the target, 0 beyond it."""
    if speed.acceleration > 0.0:
        target = vehicle.max_speed if speed.target_speed is None else speed.target_speed
        return min(speed.acceleration, max(0.0, target - now) / STEP_S)
    if speed.target_speed is None:
        return speed.acceleration
    return max(speed.acceleration, min(0.0, speed.target_speed - now) / STEP_S)


def _unbracketed(line: str) -> str:
    inner = line[1:-1]
    if line[:1] + line[-1:] in ("()", "[]") and not set(inner) & set("()[]"):
        return inner.strip()
    return line


def _spelt(word: str) -> str:
    return re.sub(r"[\s_-]+", " ", word.casefold()).strip()


def _pattern(word: str) -> str:
    return r"[\s_-]+".join(re.escape(part) for part in _spelt(word).split(" "))


def _found(words: Mapping[str, Meaning], written: str) -> Meaning:
    return next(meaning for word, meaning in words.items() if _spelt(word) == _spelt(written))
