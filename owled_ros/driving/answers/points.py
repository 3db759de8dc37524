"""Places in a list, "[[4.1, 0.0], [8.3, -0.1]]" or "[PT, (4.1, 0.0, 0.01), …]", or in a row. Needs numpy. Letters: N points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import model_validator

from owled_ros.driving.answer import DECLINED, Manoeuvre
from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.lists import check_column, format_groups, parse_groups
from owled_ros.driving.answers.spec import Count, Decimals, Scale, Seconds, Spec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.waypoints import from_waypoints
from owled_ros.driving.wording import AnswerError, plain, shown

METRES = {"m": 1.0, "cm": 0.01}
RADIANS = {"none": 1.0, "rad": 1.0, "deg": math.pi / 180.0}
FARTHEST_M = 1000.0
HERE_M = 0.1
MOST_WORDS = 10_000
Range = tuple[float, float, float]  # from, until, step


class PointsSpec(Spec):
    """Places where the vehicle will be, in base_link of now."""

    kind: Literal["points"] = "points"
    count: Count
    """Predicted points; the vehicle's place now is not among them."""
    step_s: Seconds
    """Time between two points, and from now to the first."""
    axes: Literal["forward_left", "forward_right", "left_forward", "right_forward"] = "forward_left"
    """The two numbers of a place in order, and which way they are positive."""
    unit: Literal["m", "cm"] = "m"
    scale: Scale = 1.0
    """What is written is the place in `unit` times this."""
    heading: Literal["none", "rad", "deg"] = "none"
    """Unit of a third number, the heading; none: two numbers."""
    heading_positive: Literal["left", "right"] = "left"
    label: str = ""
    """Word that opens the list, such as PT."""
    first_is_now: bool = False
    """The list begins with the vehicle's place now, (0, 0), in addition to the predicted points."""
    decimals: Decimals = 2
    brackets: Literal["[]", "()"] = "[]"
    """How each point is written; both are read."""
    form: Literal["list", "row"] = "list"
    """How the points are written: "[[4.1, 0.0], [8.3, -0.1]]", or "[4.1, +0.0] [8.3, -0.1]"; both are read."""
    words: tuple[tuple[Range, ...], ...] = ()
    """For every number of a point in order: the ranges [from, until, step] of the numbers that the model has words for; empty: all numbers."""
    manoeuvre: bool = False
    """A word stands before the list: cruise, follow, stop or yield; and unknown, alone, declines."""

    @model_validator(mode="after")
    def _check_words(self) -> PointsSpec:
        numbers = 2 if self.heading == "none" else 3
        if self.words and (len(self.words) != numbers or not all(self.words)):
            raise ValueError(f"words names ranges for {len(self.words)} numbers; expected some for each of {numbers}")
        for start, until, step in (part for ranges in self.words for part in ranges):
            if not (step > 0.0 and 0.0 <= until - start <= MOST_WORDS * step):
                raise ValueError(
                    f"range of words {start}, {until}, {step}: expected from, until, step; at most {MOST_WORDS} steps"
                )
        return self

    def make(self, _directory: Path) -> AnswerKind:
        """Return the kind."""
        return PointsKind(self)


def range_values(ranges: Sequence[Range]) -> np.ndarray:
    """Return every number of ranges [from, until, step], rising, each once."""
    parts = [start + step * np.arange(round((until - start) / step) + 1) for start, until, step in ranges]
    return np.unique(np.concatenate(parts).round(6))


@dataclass(frozen=True)
class PointsKind:
    """See the module."""

    spec: PointsSpec
    needs_hidden: bool = False

    def parse(self, raw: RawAnswer, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
        """Read the points and drive through them."""
        spec, text, manoeuvre = self.spec, raw.text, Manoeuvre.UNKNOWN
        if spec.manoeuvre:
            manoeuvre, text = _split_manoeuvre(text)
            if manoeuvre is Manoeuvre.UNKNOWN:
                return None
        points = parse_groups(text, spec.count + spec.first_is_now, self._names(), spec.label) / self._factors()
        for name, column in zip(("x", "y"), points[:, self._order()].T, strict=True):
            check_column(f"{name} of point", column, -FARTHEST_M, FARTHEST_M, "m")
        points[:, :2] = points[:, self._order()]
        if spec.heading != "none":
            check_column("heading of point", points[:, 2], -2.0 * math.pi, 2.0 * math.pi, "rad")
        if spec.first_is_now:
            if np.hypot(*points[0, :2]) > HERE_M:
                raise AnswerError(f"the first point is {points[0, :2]} m; expected the vehicle's place now, (0, 0)")
            points = points[1:]
        return Plan(from_waypoints(points, spec.step_s, ego.speed), manoeuvre)

    def format(self, plan: Plan, ego: EgoState, vehicle: VehicleParameters) -> str:
        """Write the places at the times of the points."""
        spec = self.spec
        times = spec.step_s * np.arange(0 if spec.first_is_now else 1, spec.count + 1)
        points = plan.trajectory.sample(times).values[:, 1 : 3 if spec.heading == "none" else 4]
        points[:, :2] = points[:, self._order()]
        if spec.manoeuvre and plan.manoeuvre is Manoeuvre.UNKNOWN:
            raise AnswerError("the plan names no manoeuvre; expected one, its word stands before the list")
        return (f"{plan.manoeuvre.name.lower()} " if spec.manoeuvre else "") + self.write(points * self._factors())

    def write(self, numbers: np.ndarray) -> str:
        """Write the numbers of points (N, 2) or (N, 3), in the order and units of the answer."""
        spec = self.spec
        if spec.words:
            said = map(range_values, spec.words)
            columns = [
                known[np.abs(known - column[:, None]).argmin(1)] for known, column in zip(said, numbers.T, strict=True)
            ]
            numbers = np.column_stack(columns)
        places = max(spec.decimals, 3) if spec.heading == "rad" else spec.decimals
        decimals = (spec.decimals, spec.decimals, places)[: numbers.shape[1]]
        return format_groups(numbers, decimals, spec.brackets, spec.label, spec.form == "row")

    def describe(self) -> str:
        """Say the form."""
        spec = self.spec
        scaled = "" if spec.scale == 1.0 else f" times {spec.scale:g}"
        heading = "" if spec.heading == "none" else f", heading in {spec.heading} ({spec.heading_positive} positive)"
        now = " after the place now" if spec.first_is_now else ""
        word = "<cruise|follow|stop|yield> " if spec.manoeuvre else ""
        declined = ", or 'unknown'" if spec.manoeuvre else ""
        return (
            f"{word}[{spec.label + ', ' if spec.label else ''}({', '.join(self._names())}), …]: {spec.count} points{now}, one every "
            f"{spec.step_s:g} s, in {spec.unit}{scaled}{heading}{declined}"
        )

    def _names(self) -> tuple[str, ...]:
        return (*self.spec.axes.split("_"), *(() if self.spec.heading == "none" else ("heading",)))

    def _order(self) -> list[int]:
        """Columns of x and y in what is written, and the other way round."""
        return [0, 1] if self.spec.axes.startswith("forward") else [1, 0]

    def _factors(self) -> np.ndarray:
        """Written number per metre or radian, in the written order, (2,) or (3,)."""
        spec = self.spec
        place = spec.scale / METRES[spec.unit]
        axes = [place * (-1.0 if name == "right" else 1.0) for name in spec.axes.split("_")]
        heading = (-1.0 if spec.heading_positive == "right" else 1.0) / RADIANS[spec.heading]
        return np.array(axes if spec.heading == "none" else [*axes, heading])


def _split_manoeuvre(text: str) -> tuple[Manoeuvre, str]:
    """Cut the word off that stands before the list; UNKNOWN where the model declines."""
    line = plain(text)
    if line.casefold() == DECLINED:
        return Manoeuvre.UNKNOWN, ""
    word, _, rest = line.partition(" ")
    known = {manoeuvre.name.lower(): manoeuvre for manoeuvre in Manoeuvre if manoeuvre}
    if word.rstrip(",:").casefold() not in known:
        raise AnswerError(
            f"answer {shown(text)} begins with no manoeuvre; expected {', '.join(known)}, or {DECLINED!r} alone"
        )
    return known[word.rstrip(",:").casefold()], rest
