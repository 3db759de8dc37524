"""A route as a text file: one place per line, x and y [m]. Needs numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from owled_ros.driving.guidance import MAX_POINTS
from owled_ros.errors import OwledError
from owled_ros.files import read_small_file

MAX_BYTES = 1 << 23


def read_waypoints(path: Path) -> np.ndarray:
    """Read a file of lines "x, y" (comma or blanks; more numbers are left alone; # begins a comment); (N, 2).

    Raises:
        OwledError: not there, or a line that is no place.
    """
    data = read_small_file(path, MAX_BYTES)
    if data is None:
        raise OwledError(f"waypoints {path} are not there; expected a text file with x and y in every line")
    places: list[tuple[float, float]] = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            places.append((float(words[0]), float(words[1])))
        except (ValueError, IndexError) as error:
            raise OwledError(
                f"line {number} of {path} is {line[:40]!r}; expected x and y, for example '12.5, -3.0'"
            ) from error
        if len(places) > MAX_POINTS:
            raise OwledError(f"{path} has more than {MAX_POINTS} places")
    return np.array(places, np.float64).reshape(-1, 2)
