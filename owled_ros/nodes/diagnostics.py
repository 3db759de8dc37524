"""A small diagnostic updater: one status per part of a node, 1 Hz and at once when a level changes. Needs rclpy."""

from __future__ import annotations

import threading
from enum import Enum
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

TOPIC = "/diagnostics"


class Level(Enum):
    """How bad it is."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR
    STALE = DiagnosticStatus.STALE


class Diagnostics:
    """Holds the newest status of every part; may be called from any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, 10)
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._lock = threading.Lock()

    def report(self, part: str, level: Level, message: str, **values: Any) -> None:
        """Set the status of a part; a new level is published at once."""
        status = DiagnosticStatus(
            level=level.value,
            name=f"{self._node.get_fully_qualified_name().lstrip('/')}: {part}",
            message=message,
            hardware_id=self._node.get_name(),
            values=[KeyValue(key=key, value=_shown(value)) for key, value in values.items()],
        )
        with self._lock:
            before = self._statuses.get(part)
            self._statuses[part] = status
        if before is None or before.level != status.level:
            self.publish()

    def level(self, part: str) -> Level | None:
        """Return the present level of a part."""
        status = self._statuses.get(part)
        return None if status is None else Level(status.level)

    def forget(self, part: str) -> None:
        """Stop reporting a part."""
        with self._lock:
            self._statuses.pop(part, None)

    def publish(self) -> None:
        """Publish every status."""
        with self._lock:
            message = DiagnosticArray(status=list(self._statuses.values()))
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(message)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
