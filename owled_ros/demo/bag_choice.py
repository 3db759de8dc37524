"""What a demonstration plays of a bag: decided, or refused, before any process starts. Needs bags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from owled_ros.bags.camera_topics import named_cameras
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.recorded import open_recording
from owled_ros.bags.storage import find_bag
from owled_ros.bags.topics import choose_topics
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import BUNDLED, place_of_model


@dataclass(frozen=True)
class BagChoice:
    """What source_node and driving_node are told."""

    image_topic: str  # "NAME=TOPIC,NAME=TOPIC" for a model of several cameras
    transport: str  # of driving_node


def choose_from_bag(
    bag: Path, model: str, image_topic: str, ego_topic: str, ego_from: str, recorded: bool
) -> BagChoice:
    """Find the cameras that the model's profile asks for; raises OwledError for a bag that cannot be played."""
    directory = place_of_model(model or BUNDLED)  # driving_node judges it
    asked = tuple(need.name for need in read_profile(directory).needs.cameras)
    names = named_cameras(image_topic) or asked
    needs = InputNeeds(tuple(CameraNeed(name) for name in names))
    reading = ReadOptions(image_topic, ego_topic, ego_from, needs=needs)
    if not recorded:
        cameras, transport = choose_topics(find_bag(bag), reading).cameras, "raw"
    else:
        recording = open_recording(bag, reading)
        cameras, transport = recording.topics.cameras, _transport_of(recording.types)
    if len(names) == 1:
        return BagChoice(image_topic, transport)
    return BagChoice(",".join(f"{name}={topic}" for name, topic in zip(names, cameras, strict=True)), transport)


def _transport_of(types: dict[str, str]) -> str:
    packed = {kind.endswith("/CompressedImage") for kind in types.values()}
    if len(packed) > 1:
        raise OwledError(
            "some cameras of the bag are compressed and some are raw; replay it decoded, without --as-recorded"
        )
    return "compressed" if packed == {True} else "raw"
