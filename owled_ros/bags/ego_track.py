"""The whole ego motion of a bag as arrays: what the future of every picture is read from. Needs bags.frames.

Memory: 24 bytes per ego message, whatever the pictures weigh.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from owled_ros.bags.conversions import EGO_CONVERTERS
from owled_ros.bags.frames import MessageDecoder, ReadOptions
from owled_ros.bags.stamps import stamped_messages
from owled_ros.bags.storage import find_bag
from owled_ros.bags.topics import choose_topics
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.errors import OwledError


@dataclass(frozen=True)
class EgoTrack:
    """Ego motion in the order of its stamps; N finite states, M measured tire angles (0 where the bag has none)."""

    stamps: np.ndarray  # (N,) int64 [ns], strictly rising
    speed: np.ndarray  # (N,) [m/s]
    yaw_rate: np.ndarray  # (N,) [rad/s], left positive
    steering_stamps: np.ndarray  # (M,) int64 [ns], strictly rising
    steering: np.ndarray  # (M,) [rad], left positive


def read_ego_tracks(path: Path, options: ReadOptions | None = None) -> list[EgoTrack]:
    """Read the ego motion of a bag; one track per section (Sample.section): usually one."""
    options = options or ReadOptions()
    bag = find_bag(Path(path))
    topics = choose_topics(bag, options.image_topic, options.ego_topic)
    convert = EGO_CONVERTERS[topics.ego_type]
    decode = MessageDecoder()
    sections = [_Section()]
    for message in stamped_messages(bag, topics, int(options.drive_gap_s * NANOSECONDS)):
        while len(sections) <= message.section:
            sections.append(_Section())
        topic = message.connection.topic
        if topic not in (topics.ego, topics.steering):
            continue
        try:
            content = decode(message.connection, message.data)
        except OwledError as error:
            bag.note(str(error))
            continue
        if topic == topics.steering:
            sections[-1].add_steering(message.stamp, float(content.steering_tire_angle))
        else:
            state = convert(content, message.stamp)
            sections[-1].add_motion(message.stamp, state.speed, state.yaw_rate)
    return [section.track() for section in sections]


class _Section:
    def __init__(self) -> None:
        self._stamps, self._speed, self._yaw_rate = array("q"), array("d"), array("d")
        self._steering_stamps, self._steering = array("q"), array("d")

    def add_motion(self, stamp: int, speed: float, yaw_rate: float) -> None:
        self._stamps.append(stamp)
        self._speed.append(speed)
        self._yaw_rate.append(yaw_rate)

    def add_steering(self, stamp: int, angle: float) -> None:
        self._steering_stamps.append(stamp)
        self._steering.append(angle)

    def track(self) -> EgoTrack:
        stamps, (speed, yaw_rate) = _in_order(self._stamps, self._speed, self._yaw_rate)
        steering_stamps, (steering,) = _in_order(self._steering_stamps, self._steering)
        return EgoTrack(stamps, speed, yaw_rate, steering_stamps, steering)


def _in_order(stamps: array[int], *values: array[float]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sort by stamp, keep the first of equal stamps, leave out what is not finite."""
    times = np.array(stamps, dtype=np.int64)
    columns = [np.array(column, dtype=np.float64) for column in values]
    finite = np.logical_and.reduce([np.isfinite(column) for column in columns])
    times, columns = times[finite], [column[finite] for column in columns]
    times, order = np.unique(times, return_index=True)
    return times, [column[order] for column in columns]
