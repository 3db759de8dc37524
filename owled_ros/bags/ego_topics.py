"""Which topic of a bag tells the ego motion, and how: by its type, by its name, and by what the user says. Needs bags.storage.

Measured twists are taken by themselves, best type first. Everything else (a pose alone, a satellite fix, a speed of the vehicle's
bus, a twist without a stamp) and whatever is named like a command has to be asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from owled_ros.bags import message_types as types
from owled_ros.bags.conversions import EGO_CONVERTERS
from owled_ros.bags.foreign import what_encoding_is
from owled_ros.bags.peek import first_messages
from owled_ros.bags.speed_fields import KNOWN_TYPES, SpeedField, find_speed, parse_speed
from owled_ros.bags.storage import Bag, TopicSummary
from owled_ros.bags.topic_names import listed, named
from owled_ros.errors import OwledError

TWIST, POSE, GNSS, CAN = KINDS = ("twist", "pose", "gnss", "can")
POSE_TYPES = (types.ODOMETRY, types.POSE_WITH_COVARIANCE, types.POSE)
TYPES = {  # kind: message types that serve it; CAN is looked at field by field
    TWIST: (*EGO_CONVERTERS, types.UNSTAMPED_TWIST),
    POSE: POSE_TYPES,
    GNSS: (types.NAV_SAT_FIX,),
}
BARE_NUMBERS = ("std_msgs/msg/Float32", "std_msgs/msg/Float64")
SPEED_NAME = re.compile(r"speed|velocity")
COMMAND = re.compile(r"cmd|command|control|setpoint|desired|target|teleop|joy|goal|initialpose|planned|reference")


@dataclass(frozen=True)
class EgoChoice:
    """The topic of the ego motion, and what is taken from it."""

    topic: TopicSummary
    kind: str  # one of KINDS
    speed: SpeedField | None = None  # of CAN
    note: str = ""  # what the result says about it; empty where nothing needs to be said


def choose_ego(bag: Bag, topics: Sequence[TopicSummary], wanted: str, kind_text: str) -> EgoChoice:
    """Choose the ego motion; `wanted` is a topic, `kind_text` a kind ("can:FIELD:UNIT" with details), both may be empty."""
    kind, _, detail = kind_text.partition(":")
    if (kind and kind not in KINDS) or (detail and kind != CAN):
        raise OwledError(
            f"ego_from {kind_text!r} is unknown; expected {', '.join(KINDS)} or can:FIELD:UNIT, or nothing"
        )
    topic = _named(bag, topics, wanted, kind) if wanted else _found(bag, topics, kind)
    kind = kind or _kind_of(topic)
    if kind != CAN:
        return EgoChoice(topic, kind, note=_note(topic, kind, wanted, kind_text))
    message = first_messages(bag, [topic]).get(topic.name)
    speed = parse_speed(topic, message, detail) if detail else find_speed(topic, message)
    return EgoChoice(topic, kind, speed, f"ego motion: the speed {speed.name} [{speed.unit}] of {topic.name}")


def pose_beside(ego: EgoChoice, topics: Sequence[TopicSummary], kind_text: str) -> TopicSummary | None:
    """Find the one pose of the vehicle that a twist without a pose can be checked with; None when asked to believe the twist."""
    if ego.kind != TWIST or ego.topic.msgtype == types.ODOMETRY or kind_text == TWIST:
        return None
    for kind in POSE_TYPES:
        found = [topic for topic in topics if topic.msgtype == kind and topic.count and not is_command(topic.name)]
        found = [topic for topic in found if not what_encoding_is(topic.encoding)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def is_command(name: str) -> bool:
    """Tell whether a topic is named like something that is asked of a vehicle, not measured on it."""
    return COMMAND.search(name.lower()) is not None


def _named(bag: Bag, topics: Sequence[TopicSummary], wanted: str, kind: str) -> TopicSummary:
    there = [topic.msgtype for topic in topics]
    if kind == CAN:
        return named(bag, topics, wanted, there, "ego_topic")
    anything = [*(name for names in TYPES.values() for name in names), *KNOWN_TYPES]
    return named(bag, topics, wanted, TYPES[kind] if kind else anything, "ego_topic")


def _found(bag: Bag, topics: Sequence[TopicSummary], kind: str) -> TopicSummary:
    there = [topic for topic in topics if topic.count and not what_encoding_is(topic.encoding)]
    if kind == CAN:
        candidates = [[topic for topic in there if _is_known_speed(topic)]]
    else:
        wanted = TYPES[kind] if kind else tuple(EGO_CONVERTERS)
        candidates = [[topic for topic in there if topic.msgtype == name] for name in wanted]
    for same in candidates:
        measured = [topic for topic in same if not is_command(topic.name)]
        if len(measured) > 1:
            raise OwledError(
                f"bag {bag.path} holds several ego motions; choose one with --ego-topic: {listed(measured)}"
            )
        if measured:
            return measured[0]
    raise OwledError(_why_none(bag, topics, there, kind))


def _why_none(bag: Bag, topics: Sequence[TopicSummary], there: Sequence[TopicSummary], kind: str) -> str:
    expected = ", ".join(TYPES.get(kind, tuple(EGO_CONVERTERS)) if kind != CAN else KNOWN_TYPES)
    words = [f"bag {bag.path} holds no ego motion; expected one of {expected}"]
    commands = [topic for topic in there if topic.msgtype in TYPES[TWIST] and is_command(topic.name)]
    if commands:
        words.append(
            f"judging by their names these are commands, not measurements: {listed(commands)}; "
            f"take one anyway with --ego-topic {commands[0].name}"
        )
    for other, names in TYPES.items():
        found = [topic for topic in there if topic.msgtype in names and topic not in commands]
        if found and other != kind:
            words.append(f"{listed(found)} can serve with --ego-from {other} --ego-topic {found[0].name}")
    speeds = [topic for topic in there if _is_known_speed(topic)]
    if speeds and kind != CAN:
        words.append(f"{listed(speeds)} can serve with --ego-from can --ego-topic {speeds[0].name}")
    bare = [
        topic
        for topic in there
        if topic.msgtype in BARE_NUMBERS and SPEED_NAME.search(topic.name) and not is_command(topic.name)
    ]
    if bare and kind != CAN:
        words.append(
            f"{listed(bare)} can serve with --ego-from can:data:UNIT --ego-topic {bare[0].name}, UNIT as m/s or km/h"
        )
    foreign = next((topic for topic in topics if what_encoding_is(topic.encoding)), None)
    if foreign is not None:
        words.append(f"{foreign.name} is {what_encoding_is(foreign.encoding)}")
    return "; ".join(words) + f"; the bag holds {listed(topics)}"


def _kind_of(topic: TopicSummary) -> str:
    return next((kind for kind, names in TYPES.items() if topic.msgtype in names), CAN)


def _is_known_speed(topic: TopicSummary) -> bool:
    return topic.msgtype in KNOWN_TYPES


def _note(topic: TopicSummary, kind: str, wanted: str, kind_text: str) -> str:
    if kind == TWIST and topic.msgtype == types.UNSTAMPED_TWIST:
        return f"ego motion: the twist of {topic.name}, which has no stamps; the time of recording is taken"
    if wanted and is_command(topic.name):
        return f"ego motion: {topic.name}, which by its name is a command and not measured"
    if kind == POSE:
        return f"ego motion: speed and yaw rate from the pose of {topic.name}"
    if kind == GNSS:
        return f"ego motion: speed and course from the satellite fixes of {topic.name}"
    return f"ego motion: the twist of {topic.name}" if kind_text else ""
