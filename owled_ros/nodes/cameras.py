"""Which topic each camera of a profile comes from. Needs nothing.

The first camera is `~/input/image`, the others are `~/input/<camera>/image`, raw or with `/compressed`; parameters name exceptions
as texts such as "left: /camera/left/image_raw, right: /camera/right/image_raw".
"""

from __future__ import annotations

from dataclasses import dataclass

from owled_ros.driving.needs import InputNeeds
from owled_ros.errors import OwledError
from owled_ros.nodes import topics

TRANSPORTS = ("raw", "compressed")
MAIN_PART = "image"
PAST_DEPTH = 3


@dataclass(frozen=True)
class CameraInput:
    """One subscription."""

    name: str  # of the camera in the profile; empty for the first one
    part: str  # in the diagnostics
    topic: str
    compressed: bool
    depth: int  # images that wait; a past must not miss those that come while the executor is busy


@dataclass(frozen=True)
class CameraChoices:
    """What the parameters say."""

    transport: str  # of every camera that is not named in `transports`
    transports: dict[str, str]
    topics: dict[str, str]
    frame_ids: dict[str, str]


def read_choices(transport: str, transports: str, names: str, frame_ids: str) -> CameraChoices:
    """Read the parameters; raises OwledError for a text that is none."""
    chosen = by_camera("cameras.transports", transports)
    for camera, value in chosen.items():
        if value not in TRANSPORTS:
            raise OwledError(f"parameter cameras.transports says {camera}: {value}; expected {' or '.join(TRANSPORTS)}")
    return CameraChoices(
        transport, chosen, by_camera("cameras.topics", names), by_camera("cameras.frame_ids", frame_ids)
    )


def by_camera(parameter: str, text: str) -> dict[str, str]:
    """Read "left: x, right: y"; raises OwledError for anything else."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        camera, colon, value = (word.strip() for word in part.partition(":"))
        if not camera or not colon or not value or camera in found:
            raise OwledError(
                f"parameter {parameter} is {text!r}; expected every camera once, for example 'left: x, right: y'"
            )
        found[camera] = value
    return found


def camera_inputs(choices: CameraChoices, *wanted: InputNeeds) -> dict[tuple[str, bool], CameraInput]:
    """Return what to listen to for these profiles, by (topic, compressed)."""
    found: dict[tuple[str, bool], CameraInput] = {}
    for needs in wanted:
        for place, need in enumerate(needs.cameras):
            compressed = choices.transports.get(need.name, choices.transport) == "compressed"
            name = "" if place == 0 else need.name
            base = topics.IMAGE.name if place == 0 else topics.VIEW.name.replace("<camera>", need.name)
            topic = choices.topics.get(need.name, f"{base}/compressed" if compressed else base)
            part = MAIN_PART if place == 0 else f"{MAIN_PART} {need.name}"
            depth = PAST_DEPTH if needs.image_past_s > 0.0 else 1
            found.setdefault((topic, compressed), CameraInput(name, part, topic, compressed, depth))
    return found
