"""The course of a street: its centre line by arc length, junctions and zebra crossings. Needs numpy.

`s` is the arc length [m] along the centre of the ego lane, `offset` [m] is measured from it to the left. Right-hand
traffic: one oncoming lane on the left, a parking strip on the right, sidewalks on both sides. A road with `ways` is the route
through a town: at a junction the ego may turn, and `s` turns with it (scenes.turning).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from owled_ros.scenes.turning import TURNS, Way

LANE_WIDTH = 3.5  # [m]
RIGHT_EDGE = -1.75  # [m] offsets of the edges, right to left
PARKING_EDGE = -4.1
ONCOMING_CENTRE = 3.5
LEFT_EDGE = 5.25
PARKING_CENTRE = -2.95
RIGHT_SIDEWALK = (-6.6, -4.2)
LEFT_SIDEWALK = (5.4, 7.6)
ZEBRA_AFTER_LINE = (1.0, 4.0)  # [m] past the stop line
POLE_AFTER_LINE = 6.0
POLE_OFFSET = -3.1
STREET_AFTER_LINE = (7.5, 15.5)  # the crossing street
JUNCTION_END = 19.0
ZEBRA_WIDTH = 3.0
STEP = 0.5  # [m] between samples of the centre line
MAX_CURVATURE = 0.03  # [1/m] of bends; turns at junctions are tighter
CALM = 6.0  # [m] before and behind a junction that are straight on a road with turns


@dataclass(frozen=True)
class Road:
    """A sampled centre line and what lies across it."""

    x: np.ndarray  # (N,) [m]
    y: np.ndarray
    heading: np.ndarray  # (N,) [rad], not wrapped
    curvature: np.ndarray  # (N,) [1/m], left positive
    stop_lines: tuple[float, ...] = ()  # s [m] of the stop line of each junction
    zebras: tuple[float, ...] = ()  # s [m] of the centre of each crossing between junctions
    ways: tuple[Way, ...] = ()  # where the route goes at each stop line; empty: a road without turns

    @property
    def length(self) -> float:
        """Arc length [m]."""
        return (len(self.x) - 1) * STEP

    def pose(self, s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, y, heading of the centre line at `s`; beyond the ends it continues straight."""
        place = np.asarray(s, dtype=np.float64)
        index = np.minimum(np.maximum((place / STEP).astype(np.int64), 0), len(self.x) - 2)
        share = place / STEP - index
        heading = self.heading[index] + np.minimum(np.maximum(share, 0), 1) * (
            self.heading[index + 1] - self.heading[index]
        )
        x = self.x[index] + share * (self.x[index + 1] - self.x[index])
        y = self.y[index] + share * (self.y[index + 1] - self.y[index])
        return x, y, heading

    def pose_at(self, s: float) -> tuple[float, float, float]:
        """Return `pose` of one place, without arrays."""
        place = s / STEP
        index = min(max(int(place), 0), len(self.x) - 2)
        share = place - index
        x, y, heading = self.x, self.y, self.heading
        turn = min(max(share, 0.0), 1.0) * (heading[index + 1] - heading[index])
        return (
            float(x[index] + share * (x[index + 1] - x[index])),
            float(y[index] + share * (y[index + 1] - y[index])),
            float(heading[index] + turn),
        )

    def points(self, s: np.ndarray, offset: np.ndarray | float) -> np.ndarray:
        """Return (N, 2) points [m] at arc lengths `s` (N,) and offsets."""
        x, y, heading = self.pose(s)
        found = np.empty((len(x), 2))
        found[:, 0] = x - np.sin(heading) * offset
        found[:, 1] = y + np.cos(heading) * offset
        return found

    def straightened(self, line: float) -> Road:
        """Return the straight road through a stop line, with the same `s`: the frame of what belongs to its junction."""
        x, y, heading = self.pose_at(line)
        cos, sin = np.cos(heading), np.sin(heading)
        along = np.array([0.0, STEP]) - line
        return Road(x + cos * along, y + sin * along, np.full(2, heading), np.zeros(2))

    def junctions(self) -> tuple[tuple[float, Way], ...]:
        """Return the stop lines with where the route goes; empty for a road without turns."""
        return tuple(zip(self.stop_lines, self.ways, strict=True)) if self.ways else ()

    def locate(self, x: float, y: float, near: float, reach: float = 12.0) -> tuple[float, float, float]:
        """Return s, offset and road heading of the point on the centre line next to (x, y), looked for around `near`."""
        first = max(int((near - reach) / STEP), 0)
        last = min(int((near + reach) / STEP) + 2, len(self.x))
        best = first + int(np.argmin((self.x[first:last] - x) ** 2 + (self.y[first:last] - y) ** 2))
        heading = float(self.heading[best])
        ahead, left = x - float(self.x[best]), y - float(self.y[best])
        along = ahead * np.cos(heading) + left * np.sin(heading)
        offset = -ahead * np.sin(heading) + left * np.cos(heading)
        curvature = float(self.curvature[best])
        return best * STEP + float(along), float(offset), heading + curvature * float(along)

    def curvature_ahead(self, s: float, reach: float) -> float:
        """Return the largest |curvature| [1/m] from `s` to `s + reach`."""
        first = int(np.clip(s / STEP, 0, len(self.x) - 2))
        last = int(np.clip((s + reach) / STEP, first + 1, len(self.x)))
        return float(np.abs(self.curvature[first:last]).max())


def build_road(
    rng: np.random.Generator,
    length: float,
    stop_lines: tuple[float, ...] = (),
    zebras: tuple[float, ...] = (),
    ways: tuple[Way, ...] = (),
) -> Road:
    """Draw a street: straights and arcs joined by transitions of linear curvature; nearly straight at junctions.

    With `ways` it is straight there, and turns behind the stop lines.
    """
    count = int(length / STEP) + 1
    curvature = np.zeros(count)
    place, sign = 0, rng.choice([-1.0, 1.0])
    while place < count:
        bend = int(rng.uniform(18, 60) / STEP)
        if rng.random() < 0.62:
            peak = rng.uniform(0.003, MAX_CURVATURE) if rng.random() < 0.6 else rng.uniform(0.002, 0.012)
            bend = min(bend, int(0.9 / peak / STEP))  # no turn beyond 0.9 rad
            curvature[place : place + bend] = sign * peak
            sign = -sign if rng.random() < 0.7 else sign
            place += bend + int(rng.uniform(10, 22) / STEP)
        else:
            place += bend
    s = np.arange(count) * STEP
    for line in stop_lines:
        if ways:
            curvature[(s > line - 2 * CALM) & (s < line + JUNCTION_END + 2 * CALM)] = 0.0
        else:
            curvature[(s > line - 12) & (s < line + JUNCTION_END + 6)] *= 0.15
    ramp = np.ones(int(12 / STEP)) / int(12 / STEP)  # a moving average turns steps into clothoids
    curvature = np.convolve(np.pad(curvature, len(ramp), mode="edge"), ramp, mode="same")[len(ramp) : -len(ramp)]
    for line, way in zip(stop_lines, ways, strict=False):
        if way in TURNS:
            curvature += TURNS[way].curvature(s - line, STEP)
    return _road_of(curvature, stop_lines, zebras, ways)


def moved(road: Road, x: float, y: float, heading: float) -> Road:
    """Return a road that begins somewhere else; `heading` [rad] is turned on top of its own."""
    cos, sin = np.cos(heading), np.sin(heading)
    return replace(
        road, x=x + cos * road.x - sin * road.y, y=y + sin * road.x + cos * road.y, heading=road.heading + heading
    )


def _road_of(
    curvature: np.ndarray, stop_lines: tuple[float, ...], zebras: tuple[float, ...], ways: tuple[Way, ...]
) -> Road:
    heading = np.concatenate([[0.0], np.cumsum((curvature[1:] + curvature[:-1]) / 2 * STEP)])
    middle = (heading[1:] + heading[:-1]) / 2
    x = np.concatenate([[0.0], np.cumsum(np.cos(middle) * STEP)])
    y = np.concatenate([[0.0], np.cumsum(np.sin(middle) * STEP)])
    return Road(x, y, heading, curvature, stop_lines, zebras, ways)
