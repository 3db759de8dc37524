"""Objects and traffic lights in words: values for the templates of a profile. Needs driving.profile_parts."""

from __future__ import annotations

from collections.abc import Mapping

from owled_ros.driving.ego_words import written
from owled_ros.driving.profile_parts import Lights, Number, Objects
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, agreed_light
from owled_ros.driving.templates import Value, fill
from owled_ros.errors import OwledError


def objects_text(objects: Objects, around: Surroundings | None, numbers: Mapping[str, Number]) -> str:
    """Write the nearest objects, one line each.

    Raises:
        OwledError: there are none to be had and the model needs them, or one lacks what its line says.
    """
    if around is None or around.objects is None:
        if objects.required:
            raise OwledError("the model asks for the objects around and the frame has none")
        return objects.missing
    chosen = [item for item in around.objects if item.distance <= objects.within_m and _word(objects, item.kind)]
    lines = [
        fill(objects.line, _values(objects, item, number, numbers))
        for number, item in enumerate(chosen[: objects.max], 1)
    ]
    return objects.separator.join(lines) if lines else objects.none


def light_text(lights: Lights, around: Surroundings | None) -> str:
    """Say the state that all traffic lights agree on.

    Raises:
        OwledError: there is none to be had and the model needs it, or the profile has no word for it.
    """
    if around is None or around.lights is None:
        if lights.required:
            raise OwledError("the model asks for the traffic lights and the frame has none")
        return lights.missing
    name = agreed_light(around.lights).name.lower()
    if name not in lights.words:
        raise OwledError(
            f"the profile has no word for traffic lights that are {name!r}; it knows {', '.join(lights.words)}. "
            "Add one under lights.words"
        )
    return lights.words[name]


def _values(objects: Objects, item: RoadUser, number: int, numbers: Mapping[str, Number]) -> dict[str, Value]:
    known = {
        "x": item.x,
        "y": item.y,
        "distance": item.distance,
        "heading": item.heading,
        "speed": item.speed,
        "velocity_x": item.velocity_x,
        "velocity_y": item.velocity_y,
        "length": item.length,
        "width": item.width,
    }
    values: dict[str, Value] = {
        name: written(name, value, numbers) for name, value in known.items() if value is not None
    }
    return {**values, "kind": _word(objects, item.kind), "number": number}


def _word(objects: Objects, kind: RoadUserClass) -> str:
    name = kind.name.lower()
    return objects.words.get(name, name.replace("_", " "))
