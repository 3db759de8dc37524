"""The driving scenes released with LLM-Driver (arXiv 2310.01957), read without running anything of theirs. Needs nothing.

Two forms: a directory with `scenarios.jsonl` (one object per line with "description_and_action") and, for the vectors,
`observations.safetensors`; and the original pickle, of which only data is taken (llm_driver.hollow).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.driving.vectors import VectorScene
from owled_ros.errors import OwledError
from owled_ros.llm_driver.hollow import Hollow, numbers_of, read_hollow

SCENARIOS_NAME, OBSERVATIONS_NAME = "scenarios.jsonl", "observations.safetensors"
VECTOR_NAMES = {  # of a scene, and as they were released
    "ego": "ego_vehicle_descriptor",
    "route": "route_descriptors",
    "vehicles": "vehicle_descriptors",
    "pedestrians": "pedestrian_descriptors",
}
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
    vectors: VectorScene | None = None  # None: not read, or not there


def read_scenarios(path: Path) -> list[Scenario]:
    """Read a released file or a directory with scenarios.jsonl, in the order of time."""
    path = scenarios_file(path)
    if not path.is_file():
        raise OwledError(f"{path} does not exist; expected scenarios.jsonl or the released .pkl")
    if path.suffix == ".pkl":
        entries = _entries_of_pickle(path)
    else:
        entries = list(zip(_texts_of_jsonl(path), _vectors_beside(path), strict=False))
    scenarios = [
        replace(scenario, vectors=vectors)
        for number, (text, vectors) in enumerate(entries)
        if (scenario := parse_scenario(number, text))
    ]
    if not scenarios:
        raise OwledError(
            f"{path} holds no scene with 'observing … cars' and '{ACTIONS_HEADING}'; is it the right file?"
        )
    return scenarios


def scenarios_file(path: Path) -> Path:
    """Return the file that is meant by a released file or its directory."""
    return path / SCENARIOS_NAME if path.is_dir() else path


def required_vectors(scenario: Scenario) -> VectorScene:
    """Return the vectors of a scene.

    Raises:
        OwledError: it has none.
    """
    if scenario.vectors is None:
        raise OwledError(
            f"scene {scenario.number} has no vectors: put {OBSERVATIONS_NAME} beside {SCENARIOS_NAME}, or give the .pkl"
        )
    return scenario.vectors


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


def _vectors_beside(path: Path) -> Iterable[VectorScene | None]:
    """Read observations.safetensors beside the texts; without one, nothing is known of any scene."""
    file = path.with_name(OBSERVATIONS_NAME)
    if not file.is_file():
        return itertools.repeat(None)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(file)
        parts = {name: found[released] for name, released in VECTOR_NAMES.items()}
    except (OSError, SafetensorError, KeyError) as error:
        raise OwledError(f"{file} cannot be read ({error!r}); expected {', '.join(VECTOR_NAMES.values())}") from error
    count = len(path.read_text(encoding="utf-8").splitlines())
    if {len(values) for values in parts.values()} != {count}:
        raise OwledError(
            f"{file} holds {[len(values) for values in parts.values()]} scenes, {path.name} {count}; they do not belong together"
        )
    return [
        VectorScene(**{name: values[index].astype(np.float32) for name, values in parts.items()})
        for index in range(count)
    ]


def _entries_of_pickle(path: Path) -> list[tuple[str, VectorScene | None]]:
    value = read_hollow(path)
    if not isinstance(value, (list, tuple)):
        raise OwledError(f"{path} holds a {type(value).__name__}; expected a list of scenes")
    texts = (
        next((text for text in _strings(entry) if ACTIONS_HEADING in text and COUNTS.search(text)), "")
        for entry in value
    )
    return list(zip(texts, map(_vectors_of_entry, value), strict=True))


def _vectors_of_entry(entry: Any) -> VectorScene | None:
    observed = entry.get("observation") if isinstance(entry, dict) else None
    if isinstance(observed, Hollow):
        observed = observed.state
    if not isinstance(observed, dict) or any(name not in observed for name in VECTOR_NAMES.values()):
        return None
    return VectorScene(**{name: numbers_of(observed[released]) for name, released in VECTOR_NAMES.items()})


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Hollow) and depth < 8:
        yield from _strings(value.state, depth + 1)
    elif isinstance(value, dict) and depth < 8:
        for item in value.values():
            yield from _strings(item, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 8:
        for item in value:
            yield from _strings(item, depth + 1)
