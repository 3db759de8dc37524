"""Writes bags message by message, with whatever types, names, stamps and encodings a test wants. Needs rosbags."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recorded_drives import IMAGE_PERIOD, START
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg

from owled_ros.bags.message_types import own_typestore

STORE = own_typestore()
STORE.register(get_types_from_msg("std_msgs/Header header\nfloat64 vehicle_speed\nbool vehicle_speed_valid\n",
                                  "pacmod3_msgs/msg/VehicleSpeedRpt"))  # fmt: skip
STORE.register(get_types_from_msg("std_msgs/Header header\nfloat32 wheel_speed_fl_mps\nfloat32 speed_kph\nfloat32 yaw_rate_degps\n",
                                  "my_can/msg/Chassis"))  # fmt: skip
JPEG = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (36, 64, 3), np.uint8))[1].reshape(-1)
Row = tuple[str, str, Callable[[int, int], Any]]  # topic, message type, (stamp, number) -> message


def make(typename: str, **fields: Any) -> Any:
    """Build a message; numbers and texts that are not given are zero and empty, messages are built of nothing."""
    for name, (kind, detail) in STORE.fielddefs[typename][1]:
        if name not in fields:
            fields[name] = ("" if detail[0] == "string" else 0) if kind == 1 else make(str(detail)) if kind == 2 else []
            if kind in (3, 4):
                length = detail[1] if kind == 3 else 0
                fields[name] = np.zeros(length, np.dtype(detail[0][1][0]))
    return STORE.types[typename](**fields)


def time_of(stamp: int) -> Any:
    return make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)


def header(stamp: int, frame: str = "f") -> Any:
    return make("std_msgs/msg/Header", stamp=time_of(stamp), frame_id=frame)


def twist(forward: float, left: float = 0.0, turn: float = 0.0) -> Any:
    return make(
        "geometry_msgs/msg/Twist",
        linear=make("geometry_msgs/msg/Vector3", x=forward, y=left),
        angular=make("geometry_msgs/msg/Vector3", z=turn),
    )


def pose(x: float, y: float = 0.0, heading: float = 0.0) -> Any:
    return make(
        "geometry_msgs/msg/Pose",
        position=make("geometry_msgs/msg/Point", x=x, y=y),
        orientation=make("geometry_msgs/msg/Quaternion", z=math.sin(heading / 2), w=math.cos(heading / 2)),
    )


def odometry(stamp: int, place: Any, motion: Any) -> Any:
    return make(
        "nav_msgs/msg/Odometry", header=header(stamp), child_frame_id="base_link",
        pose=make("geometry_msgs/msg/PoseWithCovariance", pose=place),
        twist=make("geometry_msgs/msg/TwistWithCovariance", twist=motion),
    )  # fmt: skip


def camera(topic: str = "/cam/compressed", form: str = "jpeg", data: Any = JPEG, behind: int = 0) -> Row:
    """Send 10 images/s; their headers may be `behind` [ns] the recording."""
    kind = "sensor_msgs/msg/CompressedImage"
    return topic, kind, lambda stamp, _: make(kind, header=header(stamp - behind), format=form, data=data)


def raw_camera(topic: str, encoding: str, channels: int, bytes_each: int = 1) -> Row:
    kind, step = "sensor_msgs/msg/Image", 16 * channels * bytes_each
    return (
        topic,
        kind,
        lambda stamp, _: make(
            kind,
            header=header(stamp),
            height=9,
            width=16,
            encoding=encoding,
            step=step,
            data=np.zeros(9 * step, np.uint8),
        ),
    )


def drive(topic: str = "/odom", speed: float = 8.0, told: float = 8.0, left: float = 0.0, heading: float = 0.0) -> Row:
    """Drive straight at `speed` along `heading`, with a twist that tells something."""

    def row(stamp: int, number: int) -> Any:
        way = 0.1 * speed * number
        return odometry(stamp, pose(way * math.cos(heading), way * math.sin(heading), heading), twist(told, left))

    return topic, "nav_msgs/msg/Odometry", row


def write(path: Path, *rows: Row, images: int = 40, every: int = IMAGE_PERIOD) -> Path:
    """Write a bag: every row once per period."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connections = [bag.add_connection(topic, kind, typestore=STORE) for topic, kind, _ in rows]
        for number in range(images):
            stamp = START + number * every
            for connection, (_, kind, row) in zip(connections, rows, strict=True):
                bag.write(connection, stamp, STORE.serialize_cdr(row(stamp, number), kind))
    return path


class Mcap:
    """Writes an mcap file record by record, without an index: profiles, schemas and encodings as others write them."""

    def __init__(self, path: Path, profile: str = "") -> None:
        self.path = path
        self._records = [self._record(0x01, self._text(profile) + self._text("test"))]
        self._channels = 0

    def channel(
        self, topic: str, schema: str, form: str = "ros2msg", definition: str = "", encoding: str = "cdr"
    ) -> int:
        """Add a schema and a channel of its own; returns the channel's number."""
        self._channels += 1
        number = struct.pack("<H", self._channels)
        self._records.append(
            self._record(0x03, number + self._text(schema) + self._text(form) + self._text(definition))
        )
        self._records.append(
            self._record(0x04, number + number + self._text(topic) + self._text(encoding) + struct.pack("<I", 0))
        )
        return self._channels

    def message(self, channel: int, stamp: int, data: bytes) -> None:
        self._records.append(self._record(0x05, struct.pack("<HIQQ", channel, 0, stamp, stamp) + bytes(data)))

    def close(self) -> Path:
        footer = self._record(0x02, struct.pack("<QQI", 0, 0, 0))
        end = self._record(0x0F, struct.pack("<I", 0))
        magic = b"\x89MCAP0\r\n"
        self.path.write_bytes(magic + b"".join(self._records) + end + footer + magic)
        return self.path

    @staticmethod
    def _record(opcode: int, content: bytes) -> bytes:
        return struct.pack("<BQ", opcode, len(content)) + content

    @staticmethod
    def _text(text: str) -> bytes:
        return struct.pack("<I", len(text.encode())) + text.encode()


def definition_of(typename: str) -> str:
    """Return the ros2msg definition of a type with everything it holds."""
    return STORE.generate_msgdef(typename, ros_version=2)[0]


def write_mcap(path: Path, rows: tuple[Row, ...], profile: str = "", short: bool = True, images: int = 40) -> Path:
    """Write rows as CDR under another profile, with types named pkg/Name."""
    file = Mcap(path, profile)
    numbers = [
        file.channel(topic, kind.replace("/msg/", "/") if short else kind, definition=definition_of(kind))
        for topic, kind, _ in rows
    ]
    for number in range(images):
        stamp = START + number * IMAGE_PERIOD
        for channel, (_, kind, row) in zip(numbers, rows, strict=True):
            file.message(channel, stamp, bytes(STORE.serialize_cdr(row(stamp, number), kind)))
    return file.close()
