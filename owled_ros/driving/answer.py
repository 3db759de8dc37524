"""The answer grammar: actions and scenes as one line of text, and back. Needs driving.wording.

    action  "follow, acceleration -1.2 m/s2, steering +0.03 rad"        or "unknown" (the model declines)
    scene   "2 cars: lead 12 m, oncoming 30 m; 1 pedestrian: crossing 14 m; traffic light red 22 m"

What is described follows LLM-Driver (arXiv 2310.01957): cars, pedestrians, the traffic light, each with its distance.
Parsing is strict: whatever does not fit the grammar or its ranges raises AnswerError, nothing is guessed. What changes no meaning
is read: quotes, bold, a code fence or "Answer:" around the line, m/s², the minus sign, "0 cars: none", "12.5 m".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from owled_ros.driving.wording import AnswerError, check_range, plain, shown

ACCELERATION_RANGE = (-6.0, 2.0)  # [m/s2]
STEERING_RANGE = (-0.3, 0.3)  # [rad], left positive
ACCELERATION_STEP = 0.2  # [m/s2], what format_action rounds to
STEERING_STEP = 0.01  # [rad]
MAX_DISTANCE = 99  # [m]
DECLINED = "unknown"


class Manoeuvre(IntEnum):
    """Why the vehicle acts as it does. Values equal PredictedAction.msg."""

    UNKNOWN = 0
    CRUISE = 1  # free road
    FOLLOW = 2  # behind a slower vehicle
    STOP = 3  # for a traffic light
    YIELD = 4  # to a pedestrian


class ObjectKind(IntEnum):
    """What an object of the scene is. Values equal SceneObject.msg."""

    UNKNOWN = 0
    LEAD = 1  # car in the ego lane, same direction
    ONCOMING = 2  # car in the other lane
    PARKED = 3  # car at the roadside
    SIDEWALK = 4  # pedestrian beside the road
    CROSSING = 5  # pedestrian on the road
    CROSS_TRAFFIC = 6  # car crossing the ego's road at a junction


class Light(IntEnum):
    """State of the traffic light that is valid for the ego lane. Values equal SceneDescription.msg."""

    UNKNOWN = 0
    NONE = 1
    RED = 2
    YELLOW = 3
    GREEN = 4


CAR_KINDS = (ObjectKind.LEAD, ObjectKind.ONCOMING, ObjectKind.PARKED, ObjectKind.CROSS_TRAFFIC)
PEDESTRIAN_KINDS = (ObjectKind.SIDEWALK, ObjectKind.CROSSING)


@dataclass(frozen=True)
class Action:
    """What the vehicle should do now."""

    acceleration: float  # [m/s2]
    steering_tire_angle: float  # [rad], left positive
    manoeuvre: Manoeuvre = Manoeuvre.UNKNOWN


@dataclass(frozen=True)
class SceneObject:
    """A car or a pedestrian."""

    kind: ObjectKind
    distance: float  # [m], along the road from the camera


@dataclass(frozen=True)
class Scene:
    """What can be seen, nearest first."""

    cars: tuple[SceneObject, ...] = ()
    pedestrians: tuple[SceneObject, ...] = ()
    light: Light = Light.NONE
    light_distance: float | None = None  # [m], None without a light


def format_action(action: Action) -> str:
    """Write an action; values are rounded to the grammar's steps and saturate at its ranges."""
    acceleration = _quantise(action.acceleration, ACCELERATION_STEP, ACCELERATION_RANGE)
    steering = _quantise(action.steering_tire_angle, STEERING_STEP, STEERING_RANGE)
    return f"{_word(action.manoeuvre)}, acceleration {acceleration:+.1f} m/s2, steering {steering:+.2f} rad"


def parse_action(text: str) -> Action | None:
    """Read an action; None when the model declines ("unknown"). Raises AnswerError on anything else."""
    line = _normalise(text)
    if line == DECLINED:
        return None
    match = _ACTION.fullmatch(line)
    if not match:
        raise AnswerError(
            f"answer {shown(text)} is not an action; expected '<manoeuvre>, acceleration <+-x.x> m/s2, steering <+-x.xx> rad'"
        )
    acceleration, steering = float(match["acceleration"]), float(match["steering"])
    check_range("acceleration", acceleration, *ACCELERATION_RANGE, "m/s2")
    check_range("steering", steering, *STEERING_RANGE, "rad")
    return Action(acceleration, steering, Manoeuvre[match["manoeuvre"].upper()])


def format_scene(scene: Scene) -> str:
    """Write a scene; distances are rounded to metres."""
    parts = [_format_objects(scene.cars, "car"), _format_objects(scene.pedestrians, "pedestrian")]
    if scene.light_distance is None or scene.light in (Light.NONE, Light.UNKNOWN):
        parts.append("no traffic light")
    else:
        parts.append(f"traffic light {_word(scene.light)} {_metres(scene.light_distance)} m")
    return "; ".join(parts)


def parse_scene(text: str) -> Scene | None:
    """Read a scene; None when the model declines. Raises AnswerError when the text does not fit or contradicts itself."""
    line = _normalise(text)
    if line == DECLINED:
        return None
    match = _SCENE.fullmatch(line)
    if not match:
        raise AnswerError(
            f"answer {shown(text)} is not a scene; expected '<n> cars: <kind> <d> m, ...; <n> pedestrians: ...; "
            "traffic light <colour> <d> m' or 'no traffic light'"
        )
    cars = _parse_objects(match["n_cars"], match["cars"], "car")
    pedestrians = _parse_objects(match["n_pedestrians"], match["pedestrians"], "pedestrian")
    if match["light"] is None:
        return Scene(cars, pedestrians)
    return Scene(cars, pedestrians, Light[match["light"].upper()], float(match["light_distance"]))


def _format_objects(objects: tuple[SceneObject, ...], noun: str) -> str:
    count = f"{len(objects)} {noun}{'' if len(objects) == 1 else 's'}"
    listed = ", ".join(f"{_word(item.kind)} {_metres(item.distance)} m" for item in objects)
    return f"{count}: {listed}" if listed else count


def _parse_objects(count: str, listed: str | None, noun: str) -> tuple[SceneObject, ...]:
    objects = []
    for item in listed.split(", ") if listed and listed != "none" else ():
        words = item.split(" ")
        objects.append(SceneObject(ObjectKind["_".join(words[:-2]).upper()], float(words[-2])))
    if len(objects) != int(count):
        raise AnswerError(f"answer counts {count} {noun}s but lists {len(objects)}; expected the same number")
    return tuple(objects)


def _words_of(values: tuple[IntEnum, ...]) -> str:
    return "|".join(_word(value) for value in values)


def _word(value: IntEnum) -> str:
    return value.name.lower().replace("_", " ")


def _list_of(kinds: tuple[ObjectKind, ...]) -> str:
    item = rf"(?:{_words_of(kinds)}) {_METRES} m"
    return rf"none|{item}(?:, {item})*"


def _metres(distance: float) -> int:
    return min(max(round(distance), 0), MAX_DISTANCE)


def _quantise(value: float, step: float, bounds: tuple[float, float]) -> float:
    clipped = min(max(value, bounds[0]), bounds[1])
    return round(clipped / step) * step + 0.0  # + 0.0 turns -0.0 into 0.0


def _normalise(text: str) -> str:
    line = " ".join(plain(text).lower().split())
    return plain(line.removesuffix(".")).replace("m/s^2", "m/s2")


_MANOEUVRES = tuple(value for value in Manoeuvre if value)
_COLOURS = (Light.RED, Light.YELLOW, Light.GREEN)
_METRES = r"\d{1,2}(?:\.\d{1,2})?"
_ACTION = re.compile(
    rf"(?P<manoeuvre>{_words_of(_MANOEUVRES)}), acceleration (?P<acceleration>[+-]?\d{{1,2}}(?:\.\d{{1,3}})?) m/s2, "
    r"steering (?P<steering>[+-]?\d(?:\.\d{1,4})?) rad",
    re.ASCII,
)
_SCENE = re.compile(
    rf"(?P<n_cars>\d{{1,2}}) cars?(?:: (?P<cars>{_list_of(CAR_KINDS)}))?; "
    rf"(?P<n_pedestrians>\d{{1,2}}) pedestrians?(?:: (?P<pedestrians>{_list_of(PEDESTRIAN_KINDS)}))?; "
    rf"(?:no traffic light|traffic light (?P<light>{_words_of(_COLOURS)}) (?P<light_distance>{_METRES}) m)",
    re.ASCII,
)
