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
from owled_ros.bags.reading import ReadOptions, ReadStatistics, Sample
from owled_ros.bags.storage import Bag, find_bag
from owled_ros.bags.topics import TopicChoice, choose_topics
from owled_ros.driving.frame import Frame
from owled_ros.errors import OwledError

__all__ = ["ReadOptions", "ReadStatistics", "Sample", "fingerprint", "read_frames", "read_samples"]
FINGERPRINT_STRIDE = 16  # [px]


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
    try:
        yield from Aligner(bag, topics, options, statistics, only).samples()
    finally:
        statistics.notes = list(bag.notes)
    if not statistics.frames and not statistics.left_out:
        raise OwledError(_why_empty(bag, topics, options, statistics))


def fingerprint(frame: Frame) -> str:
    """Hash the stamp and every 16th pixel of a frame: finds the same image again in a copied or cut bag."""
    digest = sha256(frame.stamp.to_bytes(8, "little", signed=True) + repr(frame.image.shape).encode())
    digest.update(np.ascontiguousarray(frame.image[::FINGERPRINT_STRIDE, ::FINGERPRINT_STRIDE]).tobytes())
    return digest.hexdigest()[:16]


def _why_empty(bag: Bag, topics: TopicChoice, options: ReadOptions, statistics: ReadStatistics) -> str:
    parts = [f"bag {bag.path} gives no frame: {statistics.images} images on {topics.image}"]
    if statistics.without_ego:
        gap = options.max_ego_gap_s
        parts.append(f"{statistics.without_ego} without ego motion on {topics.ego} within {gap:g} s")
    for count, what in (
        (statistics.without_view, "without an image of another camera near their stamp"),
        (statistics.without_history, "without the past images or ego states that the model asks for"),
        (statistics.pose_jumps, "behind a jump of the pose"),
        (statistics.without_command, "without a navigation command"),
    ):
        if count:
            parts.append(f"{count} {what}")
    if statistics.bad_ego:
        parts.append(f"{statistics.bad_ego} ego states that are not finite numbers")
    if statistics.undecodable:
        parts.append(f"{statistics.undecodable} that cannot be decoded ({statistics.first_fault})")
    parts.extend(bag.notes)
    return "; ".join(parts) + "; record camera and ego motion together, with one clock"
