"""One time line for all topics of a bag, also where header stamps are missing, wrong or of another clock. Needs bags.storage.

Header stamps are used as long as camera and ego motion share a clock. Where a header is empty, or topics run on
different clocks, the time of recording takes their place for the whole bag. A single stamp that leaves its topic's
course is replaced by the recording time on the header's clock; a clock that really jumps is followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rosbags.interfaces import Connection

from owled_ros.bags.conversions import stamp_of
from owled_ros.bags.storage import Bag, stream_messages
from owled_ros.bags.topics import TopicChoice
from owled_ros.driving.frame import NANOSECONDS

CLOCK_TOLERANCE = 5 * NANOSECONDS  # [ns], a larger step between header and recording time is a fault or a jump
JUMP_TOLERANCE = NANOSECONDS  # [ns], two stamps in a row that agree this well on a new course are a jump


@dataclass(frozen=True, slots=True)
class Stamped:
    """One serialised message on the bag's time line."""

    section: int  # counts how often the clock ran backwards
    connection: Connection
    stamp: int  # [ns]
    received: int  # [ns], by the recorder's clock
    newest: int  # [ns], newest stamp of camera and ego motion in the section so far
    data: bytes | memoryview
    repaired: bool  # the stamp is not the header's


@dataclass
class TimeLine:
    """Gives every message its stamp."""

    use_headers: bool
    repaired: int = 0  # stamps that were replaced one by one
    _offsets: dict[str, int] = field(default_factory=dict)  # topic -> recording time minus header [ns]
    _rejected: dict[str, int] = field(default_factory=dict)

    def stamp(self, topic: str, data: bytes | memoryview, received: int) -> int:
        """Return the stamp [ns] of a serialised message that was recorded at `received` [ns]."""
        if not self.use_headers:
            return received
        header = stamp_of(data)
        offset = received - header
        expected = self._offsets.get(topic, offset)
        if header and abs(offset - expected) <= CLOCK_TOLERANCE:
            self._offsets[topic] = offset
            self._rejected.pop(topic, None)
            return header
        rejected = self._rejected.get(topic)
        if header and rejected is not None and abs(offset - rejected) <= JUMP_TOLERANCE:
            self._offsets[topic] = offset
            return header
        self._rejected[topic] = offset
        self.repaired += 1
        return received - expected

    def event_stamp(self, data: bytes | memoryview, received: int, leader: str) -> int:
        """Return the stamp [ns] of a message that is sent once and may be recorded much later, on the clock of topic `leader`."""
        if not self.use_headers:
            return received
        header, now = stamp_of(data), received - self._offsets.get(leader, 0)
        return header if 0 < header <= now + CLOCK_TOLERANCE else now


def time_line_of(bag: Bag, topics: TopicChoice) -> TimeLine:
    """Compare the first stamps of cameras and ego motion and choose the clock of the bag."""
    first: dict[str, tuple[int, int]] = {}
    leading = {*topics.cameras, topics.ego}
    messages = stream_messages(bag, lambda connection: connection.topic in leading and topics.reads(connection))
    for connection, received, data in messages:
        first.setdefault(connection.topic, (stamp_of(data), received))
        if len(first) == len(leading):
            break
    headers = [header for header, _ in first.values()]
    offsets = [received - header for header, received in first.values()]
    if not all(headers):
        bag.note("header stamps are empty; using the time of recording")
        return TimeLine(use_headers=False)
    if offsets and max(offsets) - min(offsets) > CLOCK_TOLERANCE:
        apart = (max(offsets) - min(offsets)) / NANOSECONDS
        bag.note(f"camera and ego motion are stamped by clocks {apart:.0f} s apart; using the time of recording")
        return TimeLine(use_headers=False)
    return TimeLine(use_headers=True)


def stamped_messages(bag: Bag, topics: TopicChoice, drive_gap: int) -> Iterator[Stamped]:
    """Yield every message of the chosen topics with its stamp; stamps that fall back by `drive_gap` [ns] begin a section."""
    time_line = time_line_of(bag, topics)
    leading = {*topics.cameras, topics.ego}
    section, newest = 0, 0
    for connection, received, data in stream_messages(bag, topics.reads):
        topic, repaired = connection.topic, time_line.repaired
        if topic == topics.command:
            stamp = time_line.event_stamp(data, received, topics.image)
        else:
            stamp = time_line.stamp(topic, data, received)
        if topic in leading:
            if stamp < newest - drive_gap:
                section += 1
                newest = 0
            newest = max(newest, stamp)
        yield Stamped(section, connection, stamp, received, newest, data, time_line.repaired > repaired)
