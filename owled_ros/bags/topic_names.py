"""Topics picked by name, and told to the user. Needs bags.storage."""

from __future__ import annotations

from collections.abc import Sequence

from owled_ros.bags.foreign import what_encoding_is
from owled_ros.bags.storage import Bag, TopicSummary
from owled_ros.errors import OwledError


def named(bag: Bag, topics: Sequence[TopicSummary], name: str, kinds: Sequence[str], option: str) -> TopicSummary:
    """Return the topic of that name and of the first kind that it has; raises OwledError that says what is there instead."""
    found = [topic for topic in topics if topic.name == name]
    if not found:
        raise OwledError(f"{option} {name} is not in bag {bag.path}; expected one of {listed(topics)}")
    fitting = [topic for topic in found if topic.msgtype in kinds]
    if not fitting:
        raise OwledError(f"{option} {name} of bag {bag.path} is {found[0].msgtype}; expected {' or '.join(kinds)}")
    best = min(fitting, key=lambda topic: (not topic.count, kinds.index(topic.msgtype)))
    if what := what_encoding_is(best.encoding):
        raise OwledError(f"{option} {name} of bag {bag.path} is {what}")
    return best


def listed(topics: Sequence[TopicSummary]) -> str:
    """List topics with type and number of messages."""
    return ", ".join(f"{topic.name} ({topic.msgtype}, {topic.count})" for topic in topics) or "no topic"
