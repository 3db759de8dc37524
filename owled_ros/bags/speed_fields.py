"""The vehicle's speed in the messages of a bus that was decoded: which field, in which unit. Needs bags.storage.

Known are the reports of common drive-by-wire drivers and simulators; otherwise a field whose name tells the unit, or one that the
user names with its unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from owled_ros.bags.storage import TopicSummary
from owled_ros.errors import OwledError

UNITS = {"m/s": 1.0, "km/h": 1.0 / 3.6, "mph": 0.44704, "knots": 0.514444}
UNIT_NAMES = {
    "mps": "m/s", "m_s": "m/s", "m/s": "m/s", "kmh": "km/h", "kph": "km/h", "kmph": "km/h", "km_h": "km/h", "km/h": "km/h",
    "mph": "mph", "knots": "knots", "kn": "knots",
}  # fmt: skip
KNOWN_TYPES = {  # message type: its field, in m/s
    "pacmod_msgs/msg/VehicleSpeedRpt": "vehicle_speed",
    "pacmod3_msgs/msg/VehicleSpeedRpt": "vehicle_speed",
    "dbw_mkz_msgs/msg/SteeringReport": "speed",
    "dbw_fca_msgs/msg/SteeringReport": "speed",
    "dbw_ford_msgs/msg/SteeringReport": "speed",
    "dbw_polaris_msgs/msg/SteeringReport": "speed",
    "dataspeed_ulc_msgs/msg/UlcReport": "speed_meas",
    "automotive_platform_msgs/msg/Speed": "speed",
    "lgsvl_msgs/msg/CanBusData": "speed_mps",
    "carla_msgs/msg/CarlaEgoVehicleStatus": "velocity",
}
SPEED = re.compile(r"(^|[._])(speed|velocity|vel|v|data)($|[._])|vehicle_?speed|speed_?(mps|kmh|kph)", re.IGNORECASE)
OTHER_SPEED = re.compile(
    r"wheel|engine|motor|fan|wiper|limit|target|cmd|ref|desired|set|yaw|ang|turbine|lateral", re.IGNORECASE
)
UNIT = re.compile(r"_(mps|m_s|kmh|kph|kmph|km_h|mph|knots)$", re.IGNORECASE)
YAW_RATE = re.compile(r"yaw_?rate_?(radps|rad_s|rps|degps|deg_s|dps)$", re.IGNORECASE)
MAX_DEPTH = 3


@dataclass(frozen=True)
class SpeedField:
    """Where the speed stands in a message, and its unit; the yaw rate where a field tells it with its unit."""

    name: str
    unit: str  # one of UNITS
    yaw_rate: str = ""
    yaw_rate_factor: float = 1.0

    def read(self, message: Any) -> tuple[float, float]:
        """Return speed [m/s] and yaw rate [rad/s]; NaN where the message says that it does not know."""
        valid = _value(message, f"{self.name}_valid")
        speed = math.nan if valid is not None and not valid else float(_value(message, self.name)) * UNITS[self.unit]
        return speed, float(_value(message, self.yaw_rate)) * self.yaw_rate_factor if self.yaw_rate else 0.0


def find_speed(topic: TopicSummary, message: Any) -> SpeedField:
    """Find the speed of a message; raises OwledError where no field, or more than one, says so with its unit."""
    if topic.msgtype in KNOWN_TYPES:
        return _with_yaw_rate(SpeedField(KNOWN_TYPES[topic.msgtype], "m/s"), message)
    numbers = dict(_numbers(message))
    named = [name for name in numbers if SPEED.search(name) and not OTHER_SPEED.search(name)]
    known = [name for name in named if UNIT.search(name)]
    if len(known) != 1:
        example = (named or list(numbers) or ["FIELD"])[0]
        raise OwledError(
            f"{topic.name} ({topic.msgtype}) does not tell which of its fields is the speed, and in which unit; specify it, for example "
            f"--ego-from can:{example}:km/h with one of {', '.join(UNITS)}; its numbers are {', '.join(numbers) or 'none'}"
        )
    match = UNIT.search(known[0])
    assert match is not None
    return _with_yaw_rate(SpeedField(known[0], UNIT_NAMES[match[1].lower()]), message)


def parse_speed(topic: TopicSummary, message: Any, text: str) -> SpeedField:
    """Read "FIELD" or "FIELD:UNIT" as the user says it."""
    name, _, unit = text.partition(":")
    numbers = dict(_numbers(message))
    if name not in numbers:
        raise OwledError(f"{topic.name} has no number {name!r}; expected one of {', '.join(numbers) or 'none'}")
    match = UNIT.search(name)
    unit = unit or (match[1].lower() if match else "")
    if unit.lower() not in UNIT_NAMES:
        raise OwledError(
            f"ego_from can:{text}: the unit of {name} is missing or unknown; expected can:{name}:UNIT with {', '.join(UNITS)}"
        )
    return _with_yaw_rate(SpeedField(name, UNIT_NAMES[unit.lower()]), message)


def _with_yaw_rate(speed: SpeedField, message: Any) -> SpeedField:
    for name, _ in _numbers(message):
        if match := YAW_RATE.search(name):
            degrees = match[1].lower().startswith("d")
            return SpeedField(speed.name, speed.unit, name, math.pi / 180.0 if degrees else 1.0)
    return speed


def _numbers(message: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """Yield every number of a message with its dotted name; headers and lists are left out."""
    fields = getattr(message, "__dataclass_fields__", {})
    for name in fields:
        value = getattr(message, name, None)
        if name in ("header", "stamp") or name.startswith("__") or name.isupper():
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, float(value)
        elif depth < MAX_DEPTH:
            yield from _numbers(value, f"{prefix}{name}.", depth + 1)


def _value(message: Any, name: str) -> Any:
    for part in name.split("."):
        message = getattr(message, part, None)
    return message
