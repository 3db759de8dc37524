"""Which topics of a bag are the cameras that a profile asks for. Needs bags.storage."""

from __future__ import annotations

import re
from collections.abc import Sequence

from owled_ros.bags.conversions import IMAGE_TYPES
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.storage import Bag, TopicSummary
from owled_ros.bags.topic_names import listed, named
from owled_ros.driving.needs import CameraNeed
from owled_ros.errors import OwledError

COMPRESSED_SUFFIX = "/compressed"
DEBUG_PART = "/debug/"  # images that a node drew are no camera
OPTION = "image_topic"


def choose_cameras(bag: Bag, topics: Sequence[TopicSummary], options: ReadOptions) -> list[TopicSummary]:
    """Return one topic for every camera that is needed, in their order.

    Named by `image_topic` ("TOPIC" for the first camera, "NAME=TOPIC,NAME=TOPIC" for several), or found: the only camera of the
    bag, or for several the topics that carry the cameras' names. Raises OwledError when that leaves a choice or nothing.
    """
    needs = options.needs.cameras
    wanted = camera_map(options.image_topic, [need.name for need in needs])
    if set(wanted) == {need.name for need in needs}:
        return [named(bag, topics, wanted[need.name], IMAGE_TYPES, OPTION) for need in needs]
    cameras = _cameras(topics)
    if not cameras:
        raise OwledError(
            f"bag {bag.path} holds no camera image; expected {' or '.join(IMAGE_TYPES)} in {listed(topics)}"
        )
    if len(needs) == 1:
        if len(cameras) > 1:
            raise OwledError(f"bag {bag.path} holds several cameras; choose one with --image-topic: {listed(cameras)}")
        return cameras
    return [
        named(bag, topics, wanted[need.name], IMAGE_TYPES, OPTION)
        if need.name in wanted
        else _by_name(bag, cameras, need, needs)
        for need in needs
    ]


def camera_map(text: str, names: Sequence[str]) -> dict[str, str]:
    """Read "TOPIC" or "NAME=TOPIC,NAME=TOPIC": camera -> topic; raises OwledError for cameras that nobody asked for."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, topic = part.rpartition("=")
        name, topic = name.strip(), topic.strip()
        if not separator and "," not in text:
            name = names[0]
        if name not in names or not topic or name in found:
            raise OwledError(
                f"{OPTION} {text}: {part} does not name a topic of its own for one of the cameras {', '.join(names)}; "
                f"expected a topic, or {','.join(f'{name}=/TOPIC' for name in names)}"
            )
        found[name] = topic
    return found


def _cameras(topics: Sequence[TopicSummary]) -> list[TopicSummary]:
    cameras = [
        topic for topic in topics if topic.msgtype in IMAGE_TYPES and topic.count and DEBUG_PART not in topic.name
    ]
    names = {topic.name for topic in cameras}
    return [
        topic
        for topic in cameras
        if not topic.name.endswith(COMPRESSED_SUFFIX) or topic.name.removesuffix(COMPRESSED_SUFFIX) not in names
    ]


def _by_name(bag: Bag, cameras: Sequence[TopicSummary], need: CameraNeed, needs: Sequence[CameraNeed]) -> TopicSummary:
    """Find the topic one of whose parts is the camera's name, with or without "cam" or "camera" around it."""
    found = [camera for camera in cameras if _plain(need.name) in map(_plain, camera.name.split("/"))]
    if len(found) != 1:
        example = ",".join(f"{item.name}=/TOPIC" for item in needs)
        raise OwledError(
            f"bag {bag.path} holds {'several topics' if found else 'no topic'} for the camera {need.name}; choose with "
            f"--image-topic {example} among {listed(found or cameras)}"
        )
    return found[0]


def _plain(part: str) -> str:
    """Bring a name into the form that is compared: CAM_FRONT_LEFT, front-left and camera_front_left are one."""
    words = [word for word in re.split(r"[^a-z0-9]+", part.lower()) if word not in ("", "cam", "camera")]
    return "_".join(words)
