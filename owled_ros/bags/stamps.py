"""One time line for all topics of a bag, also where header stamps are missing, wrong or of another clock. Needs bags.storage.

Header stamps are used as long as camera and ego motion share a clock. Where headers are empty, or topics run on
different clocks, the time of recording takes their place for the whole bag. A single stamp that leaves its topic's
course is replaced by the recording time on the header's clock; a clock that really jumps is followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from rosbags.interfaces import Connection

from owled_ros.bags.conversions import stamp_of
from owled_ros.bags.messages import MessageDecoder
from owled_ros.bags.storage import Bag, stream_messages
from owled_ros.bags.topics import TopicChoice
from owled_ros.driving.frame import NANOSECONDS

CLOCK_TOLERANCE = 5 * NANOSECONDS  # [ns], a larger step between header and recording time is a fault or a jump
APART_TOLERANCE = NANOSECONDS  # [ns], topics whose headers differ by more are stamped by different clocks
COMPARED = 20  # messages of every topic from which the clocks are told
COMPARED_NS = 5 * NANOSECONDS  # of recording
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
    unstamped: frozenset[str] = frozenset()  # topics whose messages carry no stamp
    repaired: int = 0  # stamps that were replaced one by one
    _offsets: dict[str, int] = field(default_factory=dict)  # topic -> recording time minus header [ns]
    _rejected: dict[str, int] = field(default_factory=dict)

    def stamp(self, topic: str, data: bytes | memoryview, received: int) -> int:
        """Return the stamp [ns] of a serialised message that was recorded at `received` [ns]."""
        if not self.use_headers or topic in self.unstamped:
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
    offsets, unstamped = _first_offsets(bag, topics)
    if any(not any(found) for found in offsets.values()):
        bag.note("header stamps are empty; using the time of recording")
        return TimeLine(False, unstamped)
    usual = {topic: round(median(filter(None, found))) for topic, found in offsets.items()}
    stamped = [offset for topic, offset in usual.items() if topic not in unstamped]
    if unstamped and max(map(abs, stamped), default=0) > APART_TOLERANCE:
        bag.note("ego motion has no stamps and the camera another clock than the recorder; using the time of recording")
        return TimeLine(False, unstamped)
    apart = (max(stamped) - min(stamped)) / NANOSECONDS if stamped else 0.0
    if apart * NANOSECONDS > APART_TOLERANCE:
        behind = ", ".join(f"{topic} {offset / NANOSECONDS:+.1f} s" for topic, offset in usual.items())
        bag.note(
            f"camera and ego motion are stamped by clocks {apart:.{1 if apart < 10 else 0}f} s apart; using the time of recording "
            f"(recording minus header: {behind})"
        )
        return TimeLine(False, unstamped)
    return TimeLine(True, unstamped)


def _first_offsets(bag: Bag, topics: TopicChoice) -> tuple[dict[str, list[int]], frozenset[str]]:
    """Return recording time minus header [ns] of the first messages of each topic, 0 for an empty header."""
    leading = {*topics.cameras, topics.ego}
    decode = MessageDecoder()
    offsets: dict[str, list[int]] = {}
    unstamped: set[str] = set()
    complete_at = None
    for connection, received, data in stream_messages(bag, lambda item: item.topic in leading and topics.reads(item)):
        topic = connection.topic
        if topic not in offsets and not decode.has_stamp(connection):
            unstamped.add(topic)
        header = received if topic in unstamped else stamp_of(data)
        offsets.setdefault(topic, []).append((received - header or 1) if header else 0)
        if len(offsets) == len(leading):
            complete_at = received if complete_at is None else complete_at
            if min(map(len, offsets.values())) >= COMPARED or received > complete_at + COMPARED_NS:
                break
    return offsets, frozenset(unstamped)


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
