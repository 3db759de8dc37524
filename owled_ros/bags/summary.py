"""What is in a bag: topics, images, drives, ego motion, hashes, without decoding an image. Needs bags.storage."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from owled_ros.bags.conversions import EGO_CONVERTERS, message_to_scene
from owled_ros.bags.ego_track import EgoTrack, TrackCollector
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
    """One entry per image message in the order of the stamps; N images."""

    stamps: np.ndarray  # (N,) int64 [ns]
    index: np.ndarray  # (N,) int64, Sample.index
    drive: np.ndarray  # (N,) int64, Sample.drive
    speed: np.ndarray  # (N,) [m/s], of the nearest ego state; NaN without one
    yaw_rate: np.ndarray  # (N,) [rad/s]
    light: np.ndarray  # (N,) int64, Light of the true scene; Light.UNKNOWN where the bag does not tell


@dataclass(frozen=True)
class Drive:
    """A stretch of images without a gap."""

    number: int  # Sample.drive
    start: int  # [ns]
    end: int  # [ns]
    images: int
    digest: str  # short hash of its stamps and its first image: equal in every copy of the drive


@dataclass(frozen=True)
class BagSummary:
    """What `owled` tells about a bag."""

    path: Path
    topics: list[TopicSummary]
    chosen: TopicChoice
    drives: list[Drive]
    frames: FrameIndex
    tracks: list[EgoTrack]  # one per section, usually one
    bytes: int  # of all storage files on the disk
    notes: list[str]  # faults

    @property
    def duration_s(self) -> float:
        """Time covered by images [s], gaps between drives left out."""
        return sum(drive.end - drive.start for drive in self.drives) / NANOSECONDS


@dataclass(frozen=True, order=True)
class _Image:
    section: int
    stamp: int
    index: int
    digest: str  # sha256 of the message where a drive begins, else empty


def summarise_bag(path: Path, options: ReadOptions | None = None) -> BagSummary:
    """Read a bag once, without decoding images; raises OwledError for a bag without camera or ego motion."""
    options = options or ReadOptions()
    bag = find_bag(Path(path))
    topics = choose_topics(bag, options.image_topic, options.ego_topic)
    gap = int(options.drive_gap_s * NANOSECONDS)
    decode = MessageDecoder()
    images: list[_Image] = []
    collectors = [TrackCollector()]
    lights: dict[tuple[int, int], int] = {}
    for message in stamped_messages(bag, topics, gap):
        topic, section, stamp = message.connection.topic, message.section, message.stamp
        collectors.extend(TrackCollector() for _ in range(len(collectors), section + 1))
        if topic == topics.image:
            newest = images[-1] if images else None
            begins = newest is None or newest.section != section or abs(stamp - newest.stamp) > gap
            digest = sha256(message.data).hexdigest() if begins else ""
            images.append(_Image(section, stamp, len(images), digest))
            continue
        if topic == topics.expert or (topic in topics.perception and topic != topics.ego):
            continue
        try:
            content = decode(message.connection, message.data)
            if topic == topics.ego:
                collectors[section].add_motion(EGO_CONVERTERS[topics.ego_type](content, stamp))
            elif topic == topics.steering:
                collectors[section].add_steering(stamp, float(content.steering_tire_angle))
            elif topic == topics.scene and (scene := message_to_scene(content)):
                lights[section, stamp] = int(scene.light)
        except (OwledError, ValueError) as error:
            bag.note(str(error))
    images.sort()
    tracks = [collector.track() for collector in collectors]
    frames = _index_of(images, tracks, lights, gap, int(options.max_ego_gap_s * NANOSECONDS))
    return BagSummary(
        path=bag.path,
        topics=list_topics(bag),
        chosen=topics,
        drives=_drives_of(frames, images),
        frames=frames,
        tracks=tracks,
        bytes=sum(file.stat().st_size for file in bag.files),
        notes=bag.notes,
    )


def bag_digest(path: Path) -> str:
    """Hash the storage files of a bag: sha256 over their sha256, in order."""
    bag = find_bag(Path(path))
    return sha256("".join(sha256_file(file) for file in bag.files).encode()).hexdigest()


def _index_of(
    images: list[_Image], tracks: list[EgoTrack], lights: dict[tuple[int, int], int], gap: int, max_ego_gap: int
) -> FrameIndex:
    sections = np.array([item.section for item in images], dtype=np.int64)
    stamps = np.array([item.stamp for item in images], dtype=np.int64)
    breaks = (np.diff(sections) != 0) | (np.diff(stamps) > gap)
    speed, yaw_rate = np.full(len(stamps), np.nan), np.full(len(stamps), np.nan)
    for section, track in enumerate(tracks):
        here = np.flatnonzero(sections == section)
        if not len(track.stamps) or not len(here):
            continue
        nearest = _nearest_index(track.stamps, stamps[here])
        near = np.abs(track.stamps[nearest] - stamps[here]) <= max_ego_gap
        speed[here[near]] = track.speed[nearest[near]]
        yaw_rate[here[near]] = track.yaw_rate[nearest[near]]
    return FrameIndex(
        stamps=stamps,
        index=np.array([item.index for item in images], dtype=np.int64),
        drive=np.concatenate([[0], np.cumsum(breaks)]).astype(np.int64)[: len(stamps)],
        speed=speed,
        yaw_rate=yaw_rate,
        light=np.array([lights.get((item.section, item.stamp), int(Light.UNKNOWN)) for item in images], dtype=np.int64),
    )


def _drives_of(frames: FrameIndex, images: list[_Image]) -> list[Drive]:
    drives = []
    for number in np.unique(frames.drive):
        members = np.flatnonzero(frames.drive == number)
        stamps = frames.stamps[members]
        digest = sha256(stamps.tobytes() + images[int(members[0])].digest.encode()).hexdigest()[:HASH_LENGTH]
        drives.append(Drive(int(number), int(stamps[0]), int(stamps[-1]), len(members), digest))
    return drives


def _nearest_index(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    after = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)
