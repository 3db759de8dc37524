"""Recorded drives as time-aligned frames, one after the other. Needs rosbags and OpenCV.

Every image gets the ego state interpolated to its stamp, and whatever else the model's profile asks for (bags.alignment).
Messages are put in order of their stamps within a bounded look-ahead, so memory does not grow with the bag.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

from owled_ros.bags.alignment import Aligner
from owled_ros.bags.ego_source import ego_gap_s
from owled_ros.bags.ego_topics import TWIST
from owled_ros.bags.message_types import ODOMETRY
from owled_ros.bags.reading import ReadOptions, ReadStatistics, Sample
from owled_ros.bags.storage import Bag, find_bag
from owled_ros.bags.topics import TopicChoice, choose_topics
from owled_ros.driving.frame import Frame
from owled_ros.errors import OwledError

__all__ = ["ReadOptions", "ReadStatistics", "Sample", "fingerprint", "read_frames", "read_samples"]
FINGERPRINT_STRIDE = 16  # [px]
MANY = 4  # images of a choice that cannot be decoded are no accident when none can


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
    topics = choose_topics(bag, options)
    already = statistics.frames
    try:
        yield from Aligner(bag, topics, options, statistics, only).samples()
        _note_missing(bag, topics, options, statistics)
    finally:
        statistics.notes = list(bag.notes)
    chosen_ones_are_bad = statistics.unreadable or statistics.undecodable >= MANY
    if not statistics.frames and not already and (chosen_ones_are_bad or not statistics.left_out):
        raise OwledError(_why_empty(bag, topics, options, statistics))


def fingerprint(frame: Frame) -> str:
    """Hash the stamp and every 16th pixel of a frame: finds the same image again in a copied or cut bag."""
    digest = sha256(frame.stamp.to_bytes(8, "little", signed=True) + repr(frame.image.shape).encode())
    digest.update(np.ascontiguousarray(frame.image[::FINGERPRINT_STRIDE, ::FINGERPRINT_STRIDE]).tobytes())
    return digest.hexdigest()[:16]


def _note_missing(bag: Bag, topics: TopicChoice, options: ReadOptions, statistics: ReadStatistics) -> None:
    """Say in the notes why frames are missing, where some were given and some were not."""
    for words in _missing(topics, options, statistics):
        bag.note(f"of {statistics.images} images {words}")


def _missing(topics: TopicChoice, options: ReadOptions, statistics: ReadStatistics) -> list[str]:
    fault = statistics.unreadable or statistics.first_fault
    counted = (
        (statistics.without_ego, f"without ego motion on {topics.ego} within {ego_gap_s(topics, options):g} s"),
        (statistics.without_view, "without an image of another camera near their stamp"),
        (statistics.without_history, "without the past images or ego states that the model asks for"),
        (statistics.pose_jumps, "behind a jump of the pose"),
        (statistics.without_command, "without a navigation command"),
        (statistics.without_surroundings, f"without what is around ({statistics.first_lack})"),
        (statistics.undecodable, f"that cannot be decoded ({fault})"),
    )
    return [f"{count} {words}" for count, words in counted if count]


def _why_empty(bag: Bag, topics: TopicChoice, options: ReadOptions, statistics: ReadStatistics) -> str:
    parts = [f"bag {bag.path} gives no frame: {statistics.images} images on {topics.image}"]
    parts.extend(_missing(topics, options, statistics))
    if statistics.bad_ego:
        words = f"{statistics.bad_ego} ego states that are not finite numbers or beyond what a vehicle can do"
        is_odometry = topics.ego_type == ODOMETRY and topics.ego_kind == TWIST
        parts.insert(2, words + (" (--ego-from pose takes the pose of the odometry instead)" if is_odometry else ""))
    parts.extend(note for note in bag.notes if not note.startswith("of "))
    return "; ".join(parts) + "; record camera and ego motion together, with one clock"
