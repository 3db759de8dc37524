"""A subscription that stands a thousand messages a second: the newest of each look, and as many as interpolation needs. Needs rclpy.

rclpy takes one message per spin and each spin costs a third of a millisecond, so fast odometry would leave no time for driving. Where
messages come faster than PERIOD_S the subscription leaves the executor's wait set, and a timer empties the queue instead; only
messages SPACING_S apart are deserialised.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from owled_ros.driving.ego import NANOSECONDS
from owled_ros.nodes.quality import subscribe

PERIOD_S = 0.01
LOG_PERIOD_S = 5.0
SPACING_S = 0.005  # between two states that are kept
SLOW_COUNT = 2  # messages in a period; as few as this need no timer
STAMP_OFFSET = 4  # [bytes] behind the CDR header: the message begins with its header


class _Gate(MutuallyExclusiveCallbackGroup):
    """Keeps its subscription out of the executor's wait set while it is closed."""

    closed = False

    def can_execute(self, entity: Any) -> bool:
        return not self.closed and bool(super().can_execute(entity))


class FastInput:
    """Hears a topic whose messages begin with a std_msgs/Header."""

    def __init__(self, node: Node, kind: Any, topic: str, heard: Callable[[Any], None], quality: QoSProfile) -> None:
        self._node, self._kind, self._heard = node, kind, heard
        self._gate = _Gate()
        self._kept = 0  # [ns], stamp of the last message that was handed on
        self._came = 0.0  # [s] monotonic
        self.count = 0
        self.subscription = subscribe(node, kind, topic, self._on_message, quality, callback_group=self._gate, raw=True)
        self._timer = node.create_timer(PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._timer.cancel()

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self.subscription)

    def look(self) -> int:
        """Hand on what waits; returns how many messages that were."""
        return self._hand_on(self._waiting())

    def _on_message(self, data: bytes) -> None:
        now = time.monotonic()
        fast, self._came = now - self._came < PERIOD_S / SLOW_COUNT, now
        self._hand_on([data, *self._waiting()])
        if fast:
            self._gate.closed = True
            self._timer.reset()

    def _on_timer(self) -> None:
        if self.look() <= SLOW_COUNT:
            self._gate.closed = False
            self._timer.cancel()

    def _waiting(self) -> list[bytes]:
        """Take everything out of the queue, undeserialised."""
        taken = []
        with self.subscription.handle:
            while (found := self.subscription.handle.take_message(self._kind, True)) is not None:
                taken.append(found[0])
        return taken

    def _hand_on(self, messages: list[bytes]) -> int:
        self.count += len(messages)
        for place, data in enumerate(messages):
            newest = place == len(messages) - 1
            try:
                stamp = stamp_in(data)
                if not newest and abs(stamp - self._kept) < round(SPACING_S * NANOSECONDS):
                    continue
                message = deserialize_message(data, self._kind)
            except (
                struct.error,
                IndexError,
                RuntimeError,
                ValueError,
            ):  # whoever sent it speaks otherwise; the next one counts
                words = f"a message of {len(data)} bytes on {self.subscription.topic_name} cannot be read; is it of another type?"
                self._node.get_logger().warning(words, throttle_duration_sec=LOG_PERIOD_S)
                continue
            self._kept = stamp
            self._heard(message)
        return len(messages)


def stamp_in(data: bytes) -> int:
    """Read the stamp [ns] of a serialised message that begins with a header."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, STAMP_OFFSET)
    return int(seconds) * NANOSECONDS + int(nanoseconds)
