"""Autoware's LaneletMapBin as plain lanes and stop lines, through lanelet2's Python. Needs lanelet2, which is not installed with this package.

The message holds what lanelet2 writes into a .bin file. Autoware's own regulatory elements are known only where
autoware_lanelet2_extension_python is installed too; a map with others cannot be read without it. lanelet2 reads the bytes in
native code: take maps from the own map server only.
"""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.driving.lane_route import Lane
from owled_ros.errors import OwledError

MAX_BYTES = 1 << 30
EXTENSION = "autoware_lanelet2_extension_python.regulatory_elements"


def is_installed() -> bool:
    """Tell whether maps can be read here."""
    return _lanelet2() is not None


@dataclass(frozen=True)
class LaneMap:
    """What is taken from a map; of a stop line x, y [m] of a lane there, and the id of its traffic light."""

    lanes: dict[int, Lane]
    stop_lines: tuple[tuple[float, float, int], ...]


def read_map(data: bytes) -> LaneMap:
    """Read the bytes of a map.

    Raises:
        OwledError: lanelet2 is not there, or cannot read it.
    """
    lanelet2 = _lanelet2()
    if lanelet2 is None:
        raise OwledError(
            "lanelet2's Python is not installed; install it (pip install lanelet2), or give the route as nav_msgs/Path"
        )
    if not data or len(data) > MAX_BYTES:
        raise OwledError(f"the map has {len(data)} bytes; expected 1 to {MAX_BYTES}")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "map.bin"
        path.write_bytes(data)
        try:
            origin = lanelet2.io.Origin(0.0, 0.0)  # a binary map is not projected again
            found = lanelet2.io.load(str(path), lanelet2.projection.UtmProjector(origin))
        except Exception as error:  # whatever the native code throws
            raise OwledError(f"lanelet2 cannot read the map: {error}") from error
    lanes = {lane.number: lane for lane in map(_lane, found.laneletLayer)}
    return LaneMap(lanes, tuple(place for lanelet in found.laneletLayer for place in _stop_lines(lanelet)))


def _stop_lines(lanelet: Any) -> list[tuple[float, float, int]]:
    """Return where a lane meets the stop line of each of its lights: the end of its centre line that lies nearer to it."""
    centre = [(point.x, point.y) for point in lanelet.centerline]
    found = []
    for light in lanelet.trafficLights():
        if light.stopLine is None or not centre:
            continue
        line = np.array([[point.x, point.y] for point in light.stopLine], np.float64)
        middle = line.mean(axis=0)
        x, y = min((centre[0], centre[-1]), key=lambda place: float(np.hypot(*(middle - place))))
        found.append((x, y, int(light.id)))
    return found


def _lane(lanelet: Any) -> Lane:
    left, right = lanelet.leftBound, lanelet.rightBound
    attributes = lanelet.attributes
    turn = attributes["turn_direction"] if "turn_direction" in attributes else ""  # noqa: SIM401 (it is no dict)
    return Lane(
        int(lanelet.id),
        np.array([[point.x, point.y] for point in lanelet.centerline], np.float64),
        int(left.id),
        int(right.id),
        (int(left[0].id), int(right[0].id)),
        (int(left[len(left) - 1].id), int(right[len(right) - 1].id)),
        str(turn),
    )


def _lanelet2() -> Any | None:
    try:
        lanelet2 = importlib.import_module("lanelet2")
        importlib.import_module("lanelet2.io")
        importlib.import_module("lanelet2.projection")
    except ImportError:
        return None
    try:
        importlib.import_module(EXTENSION)
    except ImportError:
        return lanelet2
    return lanelet2
