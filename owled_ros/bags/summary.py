"""What is in a bag: topics, images, drives, ego motion, hashes, without decoding an image. Needs bags.storage."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.bags.conversions import message_to_scene
from owled_ros.bags.ego_source import EgoSource, contradiction_note, ego_gap_s
from owled_ros.bags.ego_track import EgoTrack, TrackCollector
from owled_ros.bags.frame_index import FrameIndex, IndexedImage, Seen, index_of
from owled_ros.bags.messages import MessageDecoder
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.stamps import Stamped, stamped_messages
from owled_ros.bags.storage import TopicSummary, find_bag, list_topics
from owled_ros.bags.topics import TopicChoice, choose_topics
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.errors import OwledError
from owled_ros.files import sha256_file

__all__ = ["BagSummary", "Drive", "FrameIndex", "bag_digest", "summarise_bag"]
HASH_LENGTH = 16  # hex digits of a short hash


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


def summarise_bag(path: Path, options: ReadOptions | None = None) -> BagSummary:
    """Read a bag once, without decoding images; raises OwledError for a bag without camera or ego motion."""
    options = options or ReadOptions()
    bag = find_bag(Path(path))
    topics = choose_topics(bag, options)
    gap = int(options.drive_gap_s * NANOSECONDS)
    decode, seen, motion = MessageDecoder(), Seen(), _Motion(topics)
    unread = {topics.expert, topics.objects, topics.lights, *topics.perception}
    for message in stamped_messages(bag, topics, gap):
        topic, section = message.connection.topic, message.section
        motion.go_on(section)
        if topic in (topics.objects, topics.lights):
            kept = seen.objects if topic == topics.objects else seen.groups
            kept.setdefault(section, array("q")).append(message.stamp)
        if topic == topics.image:
            _add_image(seen.images, message, gap)
        elif topic in topics.cameras:
            seen.views.setdefault((topic, section), array("q")).append(message.stamp)
        elif topic == topics.command:
            seen.commands.setdefault(section, array("q")).append(message.stamp)
        elif topic not in unread or motion.source.is_part(message.connection):
            try:
                content = decode(message.connection, message.data)
                if topic == topics.scene and (scene := message_to_scene(content)):
                    seen.lights[section, message.stamp] = int(scene.light)
                motion.add(message, content)
            except (OwledError, ValueError) as error:
                bag.note(str(error))
    motion.finish()
    seen.images.sort()
    tracks = [collector.track() for collector in motion.collectors]
    if motion.source.contradiction:
        bag.note(contradiction_note(motion.source, topics))
        if not any(len(track.stamps) for track in tracks):
            raise OwledError(f"bag {bag.path} gives no ego motion: {'; '.join(bag.notes)}")
    frames = index_of(seen, topics.cameras, tracks, replace(options, max_ego_gap_s=ego_gap_s(topics, options)))
    if len(seen.images) and not np.isfinite(frames.speed).any():
        bag.note(
            f"none of {len(seen.images)} images on {topics.image} gives a frame: no ego motion on {topics.ego} near them, "
            "or not everything else that the model asks for"
        )
    return BagSummary(
        path=bag.path,
        topics=list_topics(bag),
        chosen=topics,
        drives=_drives_of(frames, seen.images),
        frames=frames,
        tracks=tracks,
        bytes=sum(file.stat().st_size for file in bag.files),
        notes=bag.notes,
    )


def bag_digest(path: Path) -> str:
    """Hash the storage files of a bag: sha256 over their sha256, in order."""
    bag = find_bag(Path(path))
    return sha256("".join(sha256_file(file) for file in bag.files).encode()).hexdigest()


class _Motion:
    """Collects the ego motion, section by section."""

    def __init__(self, topics: TopicChoice) -> None:
        self.collectors = [TrackCollector()]
        self.source = EgoSource(topics)
        self._topics = topics
        self._offset = 0  # [ns], time of recording minus stamp

    def go_on(self, section: int) -> None:
        if section == len(self.collectors):
            self.finish()
            self.collectors.append(TrackCollector())
            self._offset = 0

    def finish(self) -> None:
        for state in self.source.finish():
            self.collectors[-1].add_motion(state, state.stamp + self._offset)

    def add(self, message: Stamped, content: Any) -> None:
        collector = self.collectors[message.section]
        if self.source.is_part(message.connection):
            self._offset = message.received - message.stamp
            for state in self.source.add(message.connection, content, message.stamp):
                collector.add_motion(state, state.stamp + self._offset)
        elif message.connection.topic == self._topics.steering:
            collector.add_steering(message.stamp, float(content.steering_tire_angle))


def _add_image(images: list[IndexedImage], message: Stamped, gap: int) -> None:
    newest = images[-1] if images else None
    begins = newest is None or newest.section != message.section or abs(message.stamp - newest.stamp) > gap
    digest = sha256(message.data).hexdigest() if begins else ""
    images.append(IndexedImage(message.section, message.stamp, len(images), digest))


def _drives_of(frames: FrameIndex, images: list[IndexedImage]) -> list[Drive]:
    drives = []
    for number in np.unique(frames.drive):
        members = np.flatnonzero(frames.drive == number)
        stamps = frames.stamps[members]
        digest = sha256(stamps.tobytes() + images[int(members[0])].digest.encode()).hexdigest()[:HASH_LENGTH]
        drives.append(Drive(int(number), int(stamps[0]), int(stamps[-1]), len(members), digest))
    return drives
