"""The driving scenes released with LLM-Driver (arXiv 2310.01957), read without running anything of theirs. Needs nothing.

Two forms: `scenarios.jsonl` (one object per line with "description_and_action") and the original pickle. Of the pickle only
texts, numbers and containers are taken: every class or function that it names is replaced by a hollow object, so nothing
is imported or called.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError

MAX_PICKLE_BYTES = 1 << 30
SCENARIOS_NAME = "scenarios.jsonl"
ACTIONS_HEADING = "Here are my actions:"
COUNTS = re.compile(r"observing (\d+) cars? and (\d+) pedestrians?")
NO_LIGHT = re.compile(r"no traffic lights?", re.IGNORECASE)
LIGHT = re.compile(r"traffic light and it is (red\+yellow|red|yellow|green)\. It is ([\d.]+) ?m ahead", re.IGNORECASE)
PEDAL = re.compile(r"(Accelerator|Brake) pedal (\d+(?:\.\d+)?) ?%", re.IGNORECASE)
STEER = re.compile(r"steer (-?\d+(?:\.\d+)?) ?% to the (left|right)", re.IGNORECASE)
WHEEL = re.compile(r"Steering wheel is (-?\d+(?:\.\d+)?) ?% (left|right)", re.IGNORECASE)


@dataclass(frozen=True)
class Perception:
    """What is said to be there."""

    cars: int
    pedestrians: int
    light: str  # "none", "red", "yellow", "red+yellow" or "green"
    light_distance: float | None  # [m]


@dataclass(frozen=True)
class Pedals:
    """An action as shares."""

    longitudinal: float  # [-1, 1], accelerator minus brake
    steering: float  # [-1, 1], left positive


@dataclass(frozen=True)
class Scenario:
    """One scene: what is given to a model, and what is right."""

    number: int
    description: str  # without counts and action
    reference: str  # the answer as it was released: counts, light, action
    perception: Perception
    action: Pedals
    wheel: float  # [-1, 1], of the description: nearly gives the steering away


def read_scenarios(path: Path) -> list[Scenario]:
    """Read a released file or a directory with scenarios.jsonl, in the order of time."""
    path = path / SCENARIOS_NAME if path.is_dir() else path
    if not path.is_file():
        raise OwledError(f"{path} does not exist; expected scenarios.jsonl or the released .pkl")
    texts = _texts_of_pickle(path) if path.suffix == ".pkl" else _texts_of_jsonl(path)
    scenarios = [scenario for number, text in enumerate(texts) if (scenario := parse_scenario(number, text))]
    if not scenarios:
        raise OwledError(
            f"{path} holds no scene with 'observing … cars' and '{ACTIONS_HEADING}'; is it the right file?"
        )
    return scenarios


def parse_scenario(number: int, text: str) -> Scenario | None:
    """Take a released text apart; None when it has no action or no counts."""
    head, found, tail = text.partition(ACTIONS_HEADING)
    perception, action = parse_perception(head), parse_action(tail)
    wheel = WHEEL.search(head)
    if not found or perception is None or action is None:
        return None
    kept = [
        line for line in head.strip().splitlines() if not COUNTS.search(line) and "traffic light" not in line.lower()
    ]
    said = [line for line in head.strip().splitlines() if COUNTS.search(line) or "traffic light" in line.lower()]
    return Scenario(
        number=number,
        description="\n".join(kept),
        reference="\n".join([*said, "", ACTIONS_HEADING, tail.strip()]),
        perception=perception,
        action=action,
        wheel=_signed(wheel) if wheel else 0.0,
    )


def parse_perception(text: str) -> Perception | None:
    """Read counts and traffic light; None unless both are said."""
    counts, light = COUNTS.search(text), LIGHT.search(text)
    if counts is None or (light is None and not NO_LIGHT.search(text)):
        return None
    cars, pedestrians = int(counts[1]), int(counts[2])
    if light is None:
        return Perception(cars, pedestrians, "none", None)
    return Perception(cars, pedestrians, light[1].lower(), float(light[2]))


def parse_action(text: str) -> Pedals | None:
    """Read pedals and steering; None unless all three are there and within 0 to 100 %."""
    pedals = {name.lower(): float(value) / 100.0 for name, value in PEDAL.findall(text)}
    steer = STEER.search(text)
    if set(pedals) != {"accelerator", "brake"} or steer is None:
        return None
    steering = _signed(steer)
    if max(*pedals.values(), abs(steering)) > 1.0:
        return None
    return Pedals(pedals["accelerator"] - pedals["brake"], steering)


def _signed(match: re.Match[str]) -> float:
    return float(match[1]) / 100.0 * (1.0 if match[2].lower() == "left" else -1.0) + 0.0


def _texts_of_jsonl(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield str(json.loads(line)["description_and_action"])
            except (ValueError, KeyError, TypeError) as error:
                raise OwledError(f"line {number} of {path} is no scene ({error!r})") from error


def _texts_of_pickle(path: Path) -> Iterator[str]:
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise OwledError(f"{path} has more than {MAX_PICKLE_BYTES >> 20} MiB; expected the released file")
    try:
        with open(path, "rb") as stream:
            value = _HollowUnpickler(stream).load()
    except Exception as error:  # damaged or hostile pickles raise whatever they like
        raise OwledError(f"{path} cannot be read as data ({error}); use scenarios.jsonl") from error
    if not isinstance(value, (list, tuple)):
        raise OwledError(f"{path} holds a {type(value).__name__}; expected a list of scenes")
    for entry in value:
        yield next((text for text in _strings(entry) if ACTIONS_HEADING in text and COUNTS.search(text)), "")


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, _Hollow) and depth < 8:
        yield from _strings(vars(value).get("state"), depth + 1)
    elif isinstance(value, dict) and depth < 8:
        for item in value.values():
            yield from _strings(item, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 8:
        for item in value:
            yield from _strings(item, depth + 1)


class _Hollow:
    """Takes the place of everything that a pickle would import: keeps its state, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Hollow:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None:
        """Drop an element."""

    def extend(self, _: Sequence[Any]) -> None:
        """Drop elements."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Drop an entry."""

    def __hash__(self) -> int:
        return id(self)


class _HollowUnpickler(pickle.Unpickler):
    """Knows no classes and no functions at all."""

    def find_class(self, module: str, name: str) -> type[_Hollow]:
        """Return a new hollow class whatever was asked for."""
        return type("Hollow", (_Hollow,), {"__module__": f"{module}.{name}"})

    def persistent_load(self, _: Any) -> None:
        """Return nothing for tensors and the like."""
