"""Autoware's description of a vehicle, `vehicle_info.param.yaml`: wheel base, overhangs, largest tire angle. Needs PyYAML.

Names and units are those of autoware_vehicle_info_utils; the file may hold more than what is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.files import read_small_file

MAX_BYTES = 1 << 16
RANGES = {  # of what is read: [m], the last one [rad]
    "wheel_base": (0.1, 20.0),
    "wheel_tread": (0.1, 10.0),
    "front_overhang": (0.0, 20.0),
    "rear_overhang": (0.0, 20.0),
    "left_overhang": (0.0, 5.0),
    "right_overhang": (0.0, 5.0),
    "max_steer_angle": (0.01, 1.57),
}
NAMES = tuple(RANGES)
UNREAD = ("wheel_radius", "wheel_width", "vehicle_height")  # what else the file holds


@dataclass(frozen=True)
class VehicleInfo:
    """What is known; None where nothing says it."""

    wheel_base: float | None = None
    wheel_tread: float | None = None
    front_overhang: float | None = None
    rear_overhang: float | None = None
    left_overhang: float | None = None
    right_overhang: float | None = None
    max_steer_angle: float | None = None

    @property
    def width(self) -> float | None:
        """Of the whole vehicle [m]; None where a part of it is not known."""
        parts = (self.wheel_tread, self.left_overhang, self.right_overhang)
        return None if None in parts else sum(part for part in parts if part is not None)


def read_vehicle_info(path: Path) -> VehicleInfo:
    """Read the file.

    Raises:
        OwledError: not there, not YAML, without parameters, or with a number that no vehicle has.
    """
    data = read_small_file(path, MAX_BYTES)
    if data is None:
        raise OwledError(f"vehicle info {path} is not there; expected Autoware's vehicle_info.param.yaml")
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise OwledError(f"vehicle info {path} is not YAML: {error}") from error
    return vehicle_info_of(_parameters(content, path), str(path))


def vehicle_info_of(values: Mapping[str, Any], source: str) -> VehicleInfo:
    """Take numbers by their names; raises OwledError for one that no vehicle has."""
    found = {}
    for name, (low, high) in RANGES.items():
        value = values.get(name)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise OwledError(f"{name} of {source} is {value!r}; expected a number from {low:g} to {high:g}")
        found[name] = float(value)
    if not found:
        raise OwledError(f"{source} says nothing about the vehicle; expected some of {', '.join(NAMES)}")
    return VehicleInfo(**found)


def with_vehicle_info(vehicle: VehicleParameters, info: VehicleInfo) -> VehicleParameters:
    """Put in what is known."""
    known = {
        "wheel_base": info.wheel_base,
        "max_steering_tire_angle": info.max_steer_angle,
        "front_overhang": info.front_overhang,
        "rear_overhang": info.rear_overhang,
        "width": info.width,
    }
    return replace(vehicle, **{name: value for name, value in known.items() if value is not None})


def _parameters(content: Any, path: Path) -> Mapping[str, Any]:
    """Find the parameters: below any node name, as Autoware ships them, or bare."""
    if not isinstance(content, dict):
        raise OwledError(f"vehicle info {path} holds no parameters; expected Autoware's vehicle_info.param.yaml")
    nested = [
        value["ros__parameters"] for value in content.values() if isinstance(value, dict) and "ros__parameters" in value
    ]
    if len(nested) > 1:
        raise OwledError(f"vehicle info {path} holds parameters for {len(nested)} nodes; expected those of one, /**")
    found = nested[0] if nested else content
    if not isinstance(found, dict):
        raise OwledError(f"vehicle info {path} holds no parameters below ros__parameters")
    return found
