"""The messages of a bag as they were recorded, for a replay that changes nothing. Needs rosbags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rosbags.interfaces import Connection

from owled_ros.bags import message_types as types
from owled_ros.bags.conversions import stamp_of
from owled_ros.bags.images import decode_image
from owled_ros.bags.messages import MessageDecoder
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.storage import find_bag, stream_messages
from owled_ros.bags.topics import TopicChoice, choose_topics
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.driving.needs import SurroundingsNeed
from owled_ros.errors import OwledError

IMAGE, EGO, ACCELERATION, COMMAND = "image", "ego", "acceleration", "command"
OBJECTS, LIGHTS, STEERING = "objects", "lights", "steering"
STOP_LINES, PATH = "stop_lines", "path"
HEARD_EGO = (types.ODOMETRY, types.VELOCITY_REPORT)
HEARD_OTHERS = (  # objects, lights, routes and reports of these types are heard by driving_node
    "autoware_perception_msgs/",
    "autoware_planning_msgs/",
    "autoware_vehicle_msgs/",
    types.POINT_CLOUD,
    types.PATH,
)
OTHERS = (OBJECTS, LIGHTS, STOP_LINES, PATH, STEERING)  # named as in TopicChoice
ANY_AGE = SurroundingsNeed(60.0, required=False)
HEARD_IMAGES = (types.IMAGE, types.COMPRESSED_IMAGE)  # that driving_node listens to
CLOCK_APART = NANOSECONDS  # [ns], headers further from the time of recording have a clock of their own


@dataclass(frozen=True)
class Recorded:
    """One message."""

    part: str  # IMAGE, EGO, ACCELERATION, COMMAND or one of OTHERS
    camera: str  # of an image, by its name in the profile
    connection: Connection
    stamp: int  # [ns], of its header
    clock: int  # [ns], what the clock showed when it was recorded
    data: bytes


@dataclass(frozen=True)
class Recording:
    """What a replay plays."""

    path: Path
    topics: TopicChoice
    cameras: tuple[str, ...]  # by their names in the profile, the first one first
    types: dict[str, str]  # camera -> message type
    acceleration: bool  # of the kind that driving_node hears
    others: dict[str, str] = field(default_factory=dict)  # one of OTHERS -> message type

    def messages(self) -> Iterator[Recorded]:
        """Yield the messages in the order of the recording."""
        topics, shift = self.topics, None
        cameras = dict(zip(topics.cameras, self.cameras, strict=True))
        parts = {topics.ego: EGO, topics.acceleration: ACCELERATION, topics.command: COMMAND}
        parts |= {_topic_of(topics, part): part for part in self.others}
        for connection, received, data in stream_messages(find_bag(self.path), topics.reads):
            stamp = stamp_of(data)
            if shift is None:
                shift = received - stamp if abs(received - stamp) > CLOCK_APART else 0
            part = IMAGE if connection.topic in cameras else parts.get(connection.topic, "")
            if part:
                name = cameras.get(connection.topic, "")
                yield Recorded(part, name, connection, stamp, received - shift, bytes(data))


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Choose what is played; raises OwledError for messages that a driving node does not listen to."""
    bag = find_bag(path)
    asked = options.needs
    needs = replace(
        asked, objects=asked.objects or ANY_AGE, lights=asked.lights or ANY_AGE, route=asked.route or ANY_AGE
    )
    topics = choose_topics(bag, replace(options, needs=needs))
    found = dict(topics.types)
    images = {topic: found[topic] for topic in topics.cameras}
    for topic, msgtype in images.items():
        if msgtype not in HEARD_IMAGES:
            raise OwledError(
                f"{topic} is {msgtype}, which driving nodes do not subscribe to; replay it decoded, not as recorded"
            )
    if topics.ego_type not in HEARD_EGO:
        raise OwledError(
            f"{topics.ego} is {topics.ego_type}, and driving nodes subscribe to {' or '.join(HEARD_EGO)} only; replay the bag decoded, not as recorded"
        )
    names = tuple(need.name for need in options.needs.cameras)
    heard = found.get(topics.acceleration) == types.ACCELERATION_WITH_COVARIANCE
    others = {part: found.get(_topic_of(topics, part), "") for part in OTHERS}
    others = {part: msgtype for part, msgtype in others.items() if msgtype.startswith(HEARD_OTHERS)}
    return Recording(path, topics, names, dict(zip(names, images.values(), strict=True)), heard, others)


def _topic_of(topics: TopicChoice, part: str) -> str:
    return str(getattr(topics, part))


def image_of(decode: MessageDecoder, message: Recorded) -> np.ndarray:
    """Decode an image (H, W, 3) uint8 RGB; raises OwledError for a damaged one."""
    return decode_image(decode(message.connection, message.data))
