"""What is in a bag: topics, pictures, drives, hashes, without decoding a picture. Needs bags.storage."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from owled_ros.bags.conversions import EGO_CONVERTERS, message_to_scene
from owled_ros.bags.frames import MessageDecoder, ReadOptions
from owled_ros.bags.stamps import stamped_messages
from owled_ros.bags.storage import TopicSummary, find_bag, list_topics
from owled_ros.bags.topics import TopicChoice, choose_topics
from owled_ros.driving.answer import Light
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.errors import OwledError
from owled_ros.files import sha256_file

HASH_LENGTH = 16  # hex digits of a short hash


@dataclass(frozen=True)
class FrameIndex:
    """One entry per picture message in the order of the stamps; N pictures."""

    stamps: np.ndarray  # (N,) int64 [ns]
    index: np.ndarray  # (N,) int64, Sample.index
    drive: np.ndarray  # (N,) int64, Sample.drive
    speed: np.ndarray  # (N,) [m/s], of the nearest ego state; NaN without one
    yaw_rate: np.ndarray  # (N,) [rad/s]
    light: np.ndarray  # (N,) int64, Light of the true scene; Light.UNKNOWN where the bag does not tell


@dataclass(frozen=True)
class Drive:
    """A stretch of pictures without a gap."""

    number: int  # Sample.drive
    start: int  # [ns]
    end: int  # [ns]
    pictures: int
    digest: str  # short hash of its stamps and its first picture: equal in every copy of the drive


@dataclass(frozen=True)
class BagSummary:
    """What `owled` tells about a bag."""

    path: Path
    topics: list[TopicSummary]
    chosen: TopicChoice
    drives: list[Drive]
    frames: FrameIndex
    bytes: int  # of all storage files on the disk
    notes: list[str]  # faults

    @property
    def duration_s(self) -> float:
        """Time covered by pictures [s], gaps between drives left out."""
        return sum(drive.end - drive.start for drive in self.drives) / NANOSECONDS


def summarise_bag(path: Path, options: ReadOptions | None = None) -> BagSummary:
    """Read a bag once, without decoding pictures; raises OwledError for a bag without camera or ego motion."""
    options = options or ReadOptions()
    bag = find_bag(Path(path))
    topics = choose_topics(bag, options.image_topic, options.ego_topic)
    gap = int(options.drive_gap_s * NANOSECONDS)
    decode = MessageDecoder()
    pictures: list[tuple[int, int, int, str]] = []  # section, stamp, index, hash of the first ones
    motion: list[tuple[int, int, float, float]] = []
    lights: dict[tuple[int, int], int] = {}
    for message in stamped_messages(bag, topics, gap):
        topic, section, stamp = message.connection.topic, message.section, message.stamp
        if topic == topics.image:
            newest = pictures[-1] if pictures else None
            begins = newest is None or newest[0] != section or abs(stamp - newest[1]) > gap
            pictures.append((section, stamp, len(pictures), sha256(message.data).hexdigest() if begins else ""))
            continue
        try:
            content = decode(message.connection, message.data)
        except OwledError as error:
            bag.note(str(error))
            continue
        if topic == topics.ego:
            state = EGO_CONVERTERS[topics.ego_type](content, stamp)
            if state.is_finite():
                motion.append((section, stamp, state.speed, state.yaw_rate))
        elif topic == topics.scene and (scene := message_to_scene(content)):
            lights[section, stamp] = int(scene.light)
    pictures.sort(key=lambda item: item[:3])
    frames = _index_of(pictures, motion, lights, gap, int(options.max_ego_gap_s * NANOSECONDS))
    return BagSummary(
        path=bag.path,
        topics=list_topics(bag),
        chosen=topics,
        drives=_drives_of(frames, pictures),
        frames=frames,
        bytes=sum(file.stat().st_size for file in bag.files),
        notes=bag.notes,
    )


def bag_digest(path: Path) -> str:
    """Hash the storage files of a bag: sha256 over their sha256, in order."""
    bag = find_bag(Path(path))
    return sha256("".join(sha256_file(file) for file in bag.files).encode()).hexdigest()


def _index_of(
    pictures: list[tuple[int, int, int, str]],
    motion: list[tuple[int, int, float, float]],
    lights: dict[tuple[int, int], int],
    gap: int,
    max_ego_gap: int,
) -> FrameIndex:
    sections = np.array([item[0] for item in pictures], dtype=np.int64)
    stamps = np.array([item[1] for item in pictures], dtype=np.int64)
    breaks = (np.diff(sections) != 0) | (np.diff(stamps) > gap)
    speed, yaw_rate = np.full(len(stamps), np.nan), np.full(len(stamps), np.nan)
    for section in np.unique(sections):
        states = sorted(item[1:] for item in motion if item[0] == section)
        if not states:
            continue
        times = np.array([item[0] for item in states], dtype=np.int64)
        here = np.flatnonzero(sections == section)
        after = np.clip(np.searchsorted(times, stamps[here]), 0, len(times) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(np.abs(times[before] - stamps[here]) <= np.abs(times[after] - stamps[here]), before, after)
        near = np.abs(times[nearest] - stamps[here]) <= max_ego_gap
        speed[here[near]] = np.array([item[1] for item in states])[nearest[near]]
        yaw_rate[here[near]] = np.array([item[2] for item in states])[nearest[near]]
    return FrameIndex(
        stamps=stamps,
        index=np.array([item[2] for item in pictures], dtype=np.int64),
        drive=np.concatenate([[0], np.cumsum(breaks)]).astype(np.int64)[: len(stamps)],
        speed=speed,
        yaw_rate=yaw_rate,
        light=np.array([lights.get(item[:2], int(Light.UNKNOWN)) for item in pictures], dtype=np.int64),
    )


def _drives_of(frames: FrameIndex, pictures: list[tuple[int, int, int, str]]) -> list[Drive]:
    drives = []
    for number in np.unique(frames.drive):
        members = np.flatnonzero(frames.drive == number)
        stamps = frames.stamps[members]
        digest = sha256(stamps.tobytes() + pictures[int(members[0])][3].encode()).hexdigest()[:HASH_LENGTH]
        drives.append(Drive(int(number), int(stamps[0]), int(stamps[-1]), len(members), digest))
    return drives
