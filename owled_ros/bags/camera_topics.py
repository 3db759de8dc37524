"""Which topics of a bag are the cameras that a profile asks for. Needs bags.storage."""

from __future__ import annotations

import re
from collections.abc import Sequence

from owled_ros.bags.conversions import IMAGE_TYPES, STILL_TYPES
from owled_ros.bags.foreign import what_encoding_is
from owled_ros.bags.message_types import IMAGE
from owled_ros.bags.peek import first_messages
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.storage import Bag, TopicSummary
from owled_ros.bags.topic_names import listed, named
from owled_ros.driving.needs import CameraNeed
from owled_ros.errors import OwledError

TRANSPORTS = ("", "compressed", "zstd", "ffmpeg", "foxglove", "h264", "h265", "video")  # of one camera, best first
DEPTH_TRANSPORT = "compressedDepth"
DEBUG_PART = "/debug/"  # images that a node drew are no camera
NO_COLOUR = re.compile(r"depth|disparity|segmentation|semantic|instance|optical_flow|confidence")
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
    cameras = find_cameras(bag, topics)
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


def named_cameras(text: str) -> tuple[str, ...]:
    """Return the cameras that "NAME=TOPIC,NAME=TOPIC" names, in order; none for a topic alone."""
    return tuple(part.partition("=")[0].strip() for part in text.split(",") if "=" in part)


def find_cameras(bag: Bag, topics: Sequence[TopicSummary]) -> list[TopicSummary]:
    """List the colour cameras of a bag, each once; raises OwledError that names what is there when there is none."""
    images = [topic for topic in topics if topic.msgtype in IMAGE_TYPES and topic.count]
    candidates = [topic for topic in images if DEBUG_PART not in topic.name and not what_encoding_is(topic.encoding)]
    if not candidates:
        raise OwledError(_why_none(bag, topics, images))
    cameras = _one_each(candidates)
    depth = _without_colour(bag, cameras)
    if len(depth) == len(cameras):
        raise OwledError(
            f"bag {bag.path} holds depth images but no colour camera: {listed(cameras)}; record the camera's colour image"
        )
    return [camera for camera in cameras if camera not in depth]


def _one_each(images: Sequence[TopicSummary]) -> list[TopicSummary]:
    """Keep one topic of those that carry the same camera: raw, compressed, as a video."""
    best: dict[str, tuple[int, TopicSummary]] = {}
    for topic in images:
        base, _, last = topic.name.rpartition("/")
        transport = last if last in TRANSPORTS and topic.msgtype != IMAGE else ""
        name = base if transport else topic.name
        rank = TRANSPORTS.index(transport) + len(TRANSPORTS) * IMAGE_TYPES.index(topic.msgtype)
        if name not in best or rank < best[name][0]:
            best[name] = (rank, topic)
    return sorted((topic for _, topic in best.values()), key=lambda topic: topic.name)


def _without_colour(bag: Bag, cameras: Sequence[TopicSummary]) -> list[TopicSummary]:
    """Find depth images and the like: by their encoding, and where that could be both, or is not known, by their names."""
    first = first_messages(bag, [camera for camera in cameras if camera.msgtype in STILL_TYPES])
    sure = [camera for camera in cameras if _is_depth(camera, first.get(camera.name))]
    others = [camera for camera in cameras if camera not in sure]
    guessed = [camera for camera in others if NO_COLOUR.search(camera.name) and not _has_colour(first.get(camera.name))]
    return sure if len(guessed) == len(others) else [*sure, *guessed]


def _is_depth(camera: TopicSummary, message: object) -> bool:
    words = str(getattr(message, "encoding", "")) or str(getattr(message, "format", ""))
    if DEPTH_TRANSPORT in words or camera.name.endswith(f"/{DEPTH_TRANSPORT}") or words.startswith(("32F", "64F")):
        return True
    return words.startswith(("16UC1", "mono16")) and NO_COLOUR.search(camera.name) is not None


def _has_colour(message: object) -> bool:
    """Tell whether an image is in colour not an image of classes, which come with an alpha channel."""
    encoding = str(getattr(message, "encoding", "")) or str(getattr(message, "format", ""))
    return encoding.startswith(("rgb8", "bgr8", "bayer", "yuv", "uyvy", "nv", "jpeg"))


def _why_none(bag: Bag, topics: Sequence[TopicSummary], images: Sequence[TopicSummary]) -> str:
    foreign = [topic for topic in images or topics if what_encoding_is(topic.encoding)]
    if foreign:
        topic = foreign[0]
        return f"bag {bag.path} holds no camera that can be read: {topic.name} is {what_encoding_is(topic.encoding)}"
    return f"bag {bag.path} holds no camera image; expected {' or '.join(IMAGE_TYPES)} in {listed(topics)}"


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
