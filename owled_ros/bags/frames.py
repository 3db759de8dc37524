"""Recorded drives as time-aligned frames, one after the other. Needs rosbags and OpenCV.

Every image gets the ego state interpolated to its stamp. Messages are put in order of their stamps within a bounded
look-ahead, so memory does not grow with the bag: what is held is `lookahead_s` of encoded images, at most HELD_BYTES.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Connection
from rosbags.typesys.store import Typestore

from owled_ros.bags.conversions import EGO_CONVERTERS, message_to_action, message_to_scene
from owled_ros.bags.images import decode_image
from owled_ros.bags.message_types import typestore_for
from owled_ros.bags.perception import PerceivedScenes
from owled_ros.bags.stamps import stamped_messages
from owled_ros.bags.storage import Bag, find_bag
from owled_ros.bags.topics import TopicChoice, choose_topics
from owled_ros.driving.answer import Action, Scene
from owled_ros.driving.frame import NANOSECONDS, EgoHistory, EgoState, Frame
from owled_ros.errors import OwledError

HELD_BYTES = 512 << 20  # [bytes] of encoded images that wait for their ego state
EGO_CAPACITY = 4096  # states in the history, enough for 0.5 s at every usual rate
TRUTH_TOLERANCE = NANOSECONDS // 20  # [ns] between an image and the truth that belongs to it
FINGERPRINT_STRIDE = 16  # [px]


@dataclass(frozen=True)
class ReadOptions:
    """What is read from a bag, and how patiently."""

    image_topic: str = ""  # empty: the only camera of the bag
    ego_topic: str = ""  # empty: odometry, else a velocity report, else a twist
    max_ego_gap_s: float = 0.5  # an image further from the nearest ego state is skipped
    lookahead_s: float = 0.5  # within it stamps may be out of order
    drive_gap_s: float = 5.0  # a larger gap between two images, or stamps that run backwards, begin a new drive


@dataclass
class ReadStatistics:
    """What was met while reading; complete when the iterator is exhausted."""

    images: int = 0  # image messages seen
    frames: int = 0  # frames given
    without_ego: int = 0  # no ego state near the image's stamp
    undecodable: int = 0  # damaged images, or of an unknown encoding
    disordered: int = 0  # behind the look-ahead, or a stamp twice
    left_out: int = 0  # not asked for (`only`)
    repaired_stamps: int = 0
    bad_ego: int = 0  # NaN or infinite motion
    sizes: set[tuple[int, int]] = field(default_factory=set)  # (width, height) [px]
    first_fault: str = ""  # of the undecodable images
    notes: list[str] = field(default_factory=list)  # faults of the bag itself


@dataclass(frozen=True)
class Sample:
    """A frame with where it comes from and what the bag knows about it."""

    frame: Frame
    drive: int  # counted from 0
    section: int  # which of the ego tracks belongs to it (bags.ego_track)
    index: int  # of the image message in the bag, counted from 0: stays the same whatever is skipped
    expert: Action | None = None
    scene: Scene | None = None


@dataclass(frozen=True, order=True)
class _Held:
    stamp: int
    index: int
    connection: Connection = field(compare=False)
    data: bytes | memoryview = field(compare=False)


def read_frames(path: Path, options: ReadOptions | None = None) -> Iterator[Frame]:
    """Yield the frames of a bag in order of their stamps; raises OwledError when there is none, see read_samples."""
    return (sample.frame for sample in read_samples(path, options))


def read_samples(
    path: Path,
    options: ReadOptions | None = None,
    statistics: ReadStatistics | None = None,
    only: Container[int] | None = None,
) -> Iterator[Sample]:
    """Yield frames with the expert's action and the true scene where the bag carries them; fills `statistics`.

    `only` restricts it to the images with these numbers (Sample.index); the others are not even decoded.
    Raises OwledError for a bag without camera or ego motion, with several cameras, or without a single usable frame.
    """
    options = options or ReadOptions()
    statistics = statistics if statistics is not None else ReadStatistics()
    bag = find_bag(Path(path))
    topics = choose_topics(bag, options.image_topic, options.ego_topic)
    try:
        yield from _Aligner(bag, topics, options, statistics, only).samples()
    finally:
        statistics.notes = list(bag.notes)
    if not statistics.frames and not statistics.left_out:
        raise OwledError(_why_empty(bag, topics, options, statistics))


def fingerprint(frame: Frame) -> str:
    """Hash the stamp and every 16th pixel of a frame: finds the same image again in a copied or cut bag."""
    digest = sha256(frame.stamp.to_bytes(8, "little", signed=True) + repr(frame.image.shape).encode())
    digest.update(np.ascontiguousarray(frame.image[::FINGERPRINT_STRIDE, ::FINGERPRINT_STRIDE]).tobytes())
    return digest.hexdigest()[:16]


class MessageDecoder:
    """Deserialises messages as their bag defines them; raises OwledError for bytes that do not fit."""

    def __init__(self) -> None:
        self._stores: dict[str, Typestore] = {}

    def __call__(self, connection: Connection, data: bytes | memoryview) -> Any:
        """Return the message."""
        store = self._stores.get(connection.msgtype)
        if store is None:
            store = self._stores[connection.msgtype] = typestore_for(connection)
        try:
            return store.deserialize_cdr(data, connection.msgtype)
        except Exception as error:  # generated code meets foreign bytes and raises whatever it likes
            raise OwledError(f"a message of {connection.topic} is not a {connection.msgtype} ({error})") from error


class _Aligner:
    """Holds back images until the ego states and the truth around them have come."""

    def __init__(
        self,
        bag: Bag,
        topics: TopicChoice,
        options: ReadOptions,
        statistics: ReadStatistics,
        only: Container[int] | None,
    ) -> None:
        self._bag, self._topics, self._options, self._statistics = bag, topics, options, statistics
        self._only = only
        self._decode = MessageDecoder()
        self._images: list[_Held] = []
        self._held_bytes = 0
        self._states: list[tuple[int, int, EgoState]] = []
        self._ego_count = 0
        self._history = EgoHistory(EGO_CAPACITY)
        self._experts: list[tuple[int, Action]] = []
        self._scenes: list[tuple[int, Scene]] = []
        self._perceived = PerceivedScenes()
        self._section = 0
        self._last: int | None = None  # [ns], stamp of the newest image that left
        self._drive = 0

    def samples(self) -> Iterator[Sample]:
        lookahead, gap = _nanoseconds(self._options.lookahead_s), _nanoseconds(self._options.drive_gap_s)
        for message in stamped_messages(self._bag, self._topics, gap):
            if message.section != self._section:
                yield from self._flush()
                self._restart(message.section)
            self._statistics.repaired_stamps += message.repaired
            self._store(message.connection, message.stamp, message.data)
            yield from self._release(message.newest - lookahead)
        yield from self._flush()

    def _store(self, connection: Connection, stamp: int, data: bytes | memoryview) -> None:
        if connection.topic == self._topics.image:
            heapq.heappush(self._images, _Held(stamp, self._statistics.images, connection, data))
            self._statistics.images += 1
            self._held_bytes += len(data)
            return
        try:
            message = self._decode(connection, data)
            if connection.topic in self._topics.perception:
                self._perceived.add(connection.msgtype, message, stamp)
            if connection.topic == self._topics.ego:
                self._store_ego(EGO_CONVERTERS[self._topics.ego_type](message, stamp))
            elif connection.topic == self._topics.expert and (action := message_to_action(message)):
                self._experts.append((stamp, action))
            elif connection.topic == self._topics.scene and (scene := message_to_scene(message)):
                self._scenes.append((stamp, scene))
        except (OwledError, ValueError) as error:
            self._bag.note(str(error))

    def _store_ego(self, state: EgoState) -> None:
        if state.is_finite():
            self._ego_count += 1
            heapq.heappush(self._states, (state.stamp, self._ego_count, state))
        else:
            self._statistics.bad_ego += 1

    def _release(self, until: int) -> Iterator[Sample]:
        while self._images and (self._images[0].stamp < until or self._held_bytes > HELD_BYTES):
            held = heapq.heappop(self._images)
            self._held_bytes -= len(held.data)
            sample = self._sample(held)
            if sample is not None:
                self._statistics.frames += 1
                yield sample

    def _flush(self) -> Iterator[Sample]:
        if self._images:
            yield from self._release(max(self._images).stamp + 1)

    def _restart(self, section: int) -> None:
        self._states.clear()
        self._history.clear()
        self._experts.clear()
        self._scenes.clear()
        self._perceived.clear()
        self._section = section
        self._last = None
        self._drive += 1

    def _sample(self, held: _Held) -> Sample | None:
        statistics = self._statistics
        if self._last is not None and held.stamp <= self._last:
            statistics.disordered += 1
            return None
        if self._last is not None and held.stamp - self._last > _nanoseconds(self._options.drive_gap_s):
            self._drive += 1
        self._last = held.stamp
        ego = self._ego_at(held.stamp)
        if ego is None:
            statistics.without_ego += 1
            return None
        if self._only is not None and held.index not in self._only:
            statistics.left_out += 1
            return None
        try:
            message = self._decode(held.connection, held.data)
            frame = Frame(decode_image(message), held.stamp, ego, message.header.frame_id)
        except OwledError as error:
            statistics.undecodable += 1
            statistics.first_fault = statistics.first_fault or str(error)
            return None
        statistics.sizes.add((frame.image.shape[1], frame.image.shape[0]))
        expert, scene = _nearest(self._experts, held.stamp), _nearest(self._scenes, held.stamp)
        return Sample(frame, self._drive, self._section, held.index, expert, scene or self._perceived_at(held.stamp))

    def _perceived_at(self, stamp: int) -> Scene | None:
        scene = self._perceived.scene_at(stamp) if self._topics.perception else None
        if self._perceived.fault and self._perceived.fault not in self._bag.notes:
            self._bag.note(self._perceived.fault)
        return scene

    def _ego_at(self, stamp: int) -> EgoState | None:
        horizon = stamp + _nanoseconds(self._options.lookahead_s)
        while self._states and self._states[0][0] <= horizon:
            state = heapq.heappop(self._states)[2]
            newest = self._history.newest
            if newest is None or state.stamp > newest.stamp:
                self._history.add(state)
        return self._history.at(stamp, _nanoseconds(self._options.max_ego_gap_s))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * NANOSECONDS)


def _nearest(values: list[tuple[int, Any]], stamp: int) -> Any:
    """Return the value that belongs to `stamp` and forget those that are over."""
    while values and values[0][0] < stamp - TRUTH_TOLERANCE:
        values.pop(0)
    near = [item for item in values if abs(item[0] - stamp) <= TRUTH_TOLERANCE]
    return min(near, key=lambda item: abs(item[0] - stamp))[1] if near else None


def _why_empty(bag: Bag, topics: TopicChoice, options: ReadOptions, statistics: ReadStatistics) -> str:
    parts = [f"bag {bag.path} gives no frame: {statistics.images} images on {topics.image}"]
    if statistics.without_ego:
        gap = options.max_ego_gap_s
        parts.append(f"{statistics.without_ego} without ego motion on {topics.ego} within {gap:g} s")
    if statistics.bad_ego:
        parts.append(f"{statistics.bad_ego} ego states that are not finite numbers")
    if statistics.undecodable:
        parts.append(f"{statistics.undecodable} that cannot be decoded ({statistics.first_fault})")
    parts.extend(bag.notes)
    return "; ".join(parts) + "; record camera and ego motion together, with one clock"
