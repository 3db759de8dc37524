"""Messages on the driver's topics: stamps of other worlds, numbers that are none, floods, bytes of another type. Needs rclpy."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import hostile_images
from geometry_msgs.msg import AccelWithCovarianceStamped
from hostile_words import LONG, NUMBERS
from target import Target

from owled_ros.msg import NavigationCommand
from owled_ros.nodes.conversions import stamp_to_time

SECOND = 1_000_000_000
STAMPS = {
    "of the epoch": lambda now: 0,
    "before the epoch": lambda now: -(2**31) * SECOND,
    "of 2038": lambda now: 2**31 * SECOND - 1,
    "of 0.3 s ago": lambda now: now - 3 * SECOND // 10,
    "of 3 s ago": lambda now: now - 3 * SECOND,
    "of a day ago": lambda now: now - 86_400 * SECOND,
    "0.4 s ahead": lambda now: now + 4 * SECOND // 10,
    "0.9 s ahead": lambda now: now + 9 * SECOND // 10,
    "a minute ahead": lambda now: now + 60 * SECOND,
}
GARBAGE = {
    "a byte": b"\0",
    "a header": b"\0\1\0\0",
    "half a stamp": b"\0\1\0\0\1\2\3",
    "all ones": b"\xff" * 64,
    "an endless text": b"\0\1\0\0" + b"\0" * 8 + b"\xff\xff\xff\x7f" + b"a" * 100,
    "a megabyte": b"\0\1\0\0" + b"\x01" * LONG,
}
FLOOD = 5_000  # messages
GREY = {"width": 64, "height": 48, "step": 192, "encoding": "rgb8", "data": b"\x5a" * (192 * 48)}


def _image(stamp: Callable[[int], int], target: Target) -> str:
    for _ in range(10):
        if target.compressed:
            target.send_encoded(hostile_images.jpeg(), "jpeg", stamp(target.now()))
        else:
            target.send_image(stamp(target.now()), **GREY)
        time.sleep(0.05)
    return ""


def _both(stamp: Callable[[int], int], target: Target) -> str:
    """Let image and odometry agree about a wrong time."""
    for _ in range(5):
        for _ in range(3):
            target.send_odometry(stamp(target.now()))
        time.sleep(0.01)
        _image_once(stamp, target)
        time.sleep(0.1)
    return ""


def _image_once(stamp: Callable[[int], int], target: Target) -> None:
    if target.compressed:
        target.send_encoded(hostile_images.jpeg(), "jpeg", stamp(target.now()))
    else:
        target.send_image(stamp(target.now()), **GREY)


def _broken_nanoseconds(target: Target) -> str:
    from sensor_msgs.msg import Image

    for seconds, nanoseconds in ((2**31 - 1, 2**32 - 1), (-(2**31), 2**32 - 1), (0, 2**32 - 1)):
        message = Image(width=64, height=48, step=192, encoding="rgb8", data=GREY["data"])
        message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
        target.raw.publish(message)
        time.sleep(0.05)
    return ""


def _frame_ids(target: Target) -> str:
    from sensor_msgs.msg import Image

    for name in ("", "\0", "a" * LONG, "\u202e", "/" * 1000):
        message = Image(width=64, height=48, step=192, encoding="bad", data=GREY["data"])
        message.header.stamp, message.header.frame_id = stamp_to_time(target.now()), name
        target.raw.publish(message)
        time.sleep(0.05)
    return ""


def _odometry(stamp: Callable[[int], int], target: Target) -> str:
    for _ in range(20):
        target.send_odometry(stamp(target.now()))
        time.sleep(0.01)
    return ""


def _odometry_of(number: float, target: Target) -> str:
    for name in ("speed", "yaw_rate", "x", "y", "w", "qz"):
        target.send_odometry(**{name: number})
        time.sleep(0.02)
    return ""


def _flood(stamp: Callable[[int, int], int], target: Target) -> str:
    start = time.monotonic()
    for number in range(FLOOD):
        target.send_odometry(stamp(target.now(), number))
        if number % 50 == 0:
            time.sleep(0.002)
    return f"{FLOOD / (time.monotonic() - start):.0f} messages/s"


def _garbage(name: str, data: bytes, target: Target) -> str:
    publisher = getattr(target, name)
    for _ in range(5):
        publisher.publish(data)
        time.sleep(0.02)
    return ""


def _acceleration_of(number: float, target: Target) -> str:
    message = AccelWithCovarianceStamped()
    message.header.stamp = stamp_to_time(target.now())
    message.accel.accel.linear.x = number
    target.acceleration.publish(message)
    return ""


def _command(target: Target, **fields: Any) -> str:
    stamp = fields.pop("stamp", None)
    message = NavigationCommand(**{"kind": 1, "distance": math.nan, **fields})
    message.header.stamp = stamp_to_time(target.now() if stamp is None else stamp)
    target.command.publish(message)
    return ""


FLOODS = {
    "of now": lambda now, number: now,
    "of the past": lambda now, number: now - number * SECOND,
    "of the future": lambda now, number: now + number * SECOND,
    "up and down": lambda now, number: now + (-1) ** number * 5 * SECOND,
    "of one stamp": lambda now, number: 7,
}
COMMANDS: dict[str, dict[str, Any]] = {
    "of an unknown kind": {"kind": 255},
    "of a megabyte": {"text": "left " * (LONG // 5)},
    "of a NUL": {"text": "\0"},
    "with a template": {"text": "{images}<image>{speed.__class__}"},
    "at infinity": {"distance": math.inf},
    "behind": {"distance": -5.0},
    "before the epoch": {"stamp": -(2**31) * SECOND},
    "of 2038": {"stamp": 2**31 * SECOND - 1},
}
MESSAGES: list[tuple[str, str, Callable[[Target], str]]] = [
    *((f"image {name}", "image", functools.partial(_image, stamp)) for name, stamp in STAMPS.items()),
    *((f"image and odometry {name}", "image", functools.partial(_both, stamp)) for name, stamp in STAMPS.items()),
    ("image of broken nanoseconds", "image", _broken_nanoseconds),
    ("image of odd frames", "image", _frame_ids),
    *((f"odometry {name}", "ego", functools.partial(_odometry, stamp)) for name, stamp in STAMPS.items()),
    *((f"odometry of {number:g}", "ego", functools.partial(_odometry_of, number)) for number in NUMBERS),
    *((f"acceleration of {number:g}", "ego", functools.partial(_acceleration_of, number)) for number in NUMBERS),
    *((f"odometry flood {name}", "ego", functools.partial(_flood, stamp)) for name, stamp in FLOODS.items()),
    *((f"command {name}", "command", functools.partial(_command, **fields)) for name, fields in COMMANDS.items()),
    *(
        (f"{topic} topic, {name}", "garbage", functools.partial(_garbage, topic, data))
        for topic in ("raw", "encoded", "odometry", "acceleration", "command")
        for name, data in GARBAGE.items()
    ),
]
