"""The first message of each of a few topics: what a name does not tell. Needs bags.storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from owled_ros.bags.messages import MessageDecoder
from owled_ros.bags.storage import Bag, TopicSummary, stream_messages
from owled_ros.errors import OwledError

LOOK = 2000  # messages of these topics, then what has not come is not waited for


def first_messages(bag: Bag, topics: Sequence[TopicSummary]) -> dict[str, Any]:
    """Return topic name -> its first message that can be read; topics that come late, or not at all, are not in it."""
    wanted = {(topic.name, topic.msgtype) for topic in topics}
    decode = MessageDecoder()
    found: dict[str, Any] = {}
    messages = stream_messages(bag, lambda connection: (connection.topic, connection.msgtype) in wanted)
    for count, (connection, _, data) in enumerate(messages):
        if connection.topic not in found:
            try:
                found[connection.topic] = decode(connection, data)
            except OwledError:
                continue
        if len(found) == len(topics) or count >= LOOK:
            break
    return found
