"""The surface of the street: asphalt, sidewalks, markings, crossings. Needs numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from owled_ros.scenes.look import Colour, Look
from owled_ros.scenes.paint import UNTOUCHED, Sketch
from owled_ros.scenes.road import (
    LEFT_EDGE,
    LEFT_SIDEWALK,
    PARKING_EDGE,
    POLE_OFFSET,
    RIGHT_EDGE,
    RIGHT_SIDEWALK,
    STREET_AFTER_LINE,
    ZEBRA_AFTER_LINE,
    ZEBRA_WIDTH,
    Road,
)
from owled_ros.scenes.stage import Stage

EGO_LANE = 255  # label of its surface
AHEAD = np.array([-1.0, 1.0, 2.2, 3.5, 5, 7, 9, 11.5, 14, 17, 20, 24, 28, 33, 38, 44, 51, 59, 68, 78, 90, 104])  # [m]
DASH, DASH_PERIOD = 3.0, 9.0  # [m]
LINE = 0.09  # [m] half width of a line
Ground = Callable[[np.ndarray], np.ndarray]


def draw_road(stage: Stage, s: float, ground: Ground) -> Sketch:
    """Draw the street around a camera at `s`; `ground` brings points (N, 2) of the plane into the camera's road frame."""
    sketch, road, look = Sketch(), stage.road, stage.look
    place = s + AHEAD
    for low, high, colour in surfaces(look):
        sketch.add(strip(road, ground, place, low, high), colour)
    lines = [line for line in road.stop_lines if -25 < line - s < 95]
    for line in lines:
        _draw_street(sketch, stage, ground, line)
    sketch.add(strip(road, ground, place, RIGHT_EDGE, -RIGHT_EDGE), tone(look.asphalt, 0.97), EGO_LANE)
    gaps = [(line, line + STREET_AFTER_LINE[1] + 4.5) for line in lines]
    for offset in (RIGHT_EDGE, LEFT_EDGE - 0.15):
        for first, last in between(s - 1, s + 80, gaps):
            inside = place[(place > first) & (place < last)]
            sketch.add(
                strip(road, ground, np.concatenate([[first], inside, [last]]), offset - LINE, offset + LINE),
                look.paint,
            )
    draw_dashes(sketch, road, look, ground, s, gaps)
    for line in lines:
        sketch.add(strip(road, ground, np.array([line - 0.25, line + 0.25]), RIGHT_EDGE, -RIGHT_EDGE), look.paint)
        draw_zebra(sketch, road, look, ground, line + ZEBRA_AFTER_LINE[0], POLE_OFFSET + 0.8)
        draw_zebra(sketch, road, look, ground, line + STREET_AFTER_LINE[1] + 1.0)
    for zebra in road.zebras:
        if -8 < zebra - s < 70:
            draw_zebra(sketch, road, look, ground, zebra - ZEBRA_WIDTH / 2)
    return sketch


def surfaces(look: Look) -> tuple[tuple[float, float, Colour], ...]:
    """List what lies across a street: from, to [m] left of the lane's centre, and its colour."""
    kerb = tone(look.sidewalk, 0.7)
    return (
        (*RIGHT_SIDEWALK, look.sidewalk),
        (*LEFT_SIDEWALK, look.sidewalk),
        (RIGHT_SIDEWALK[1], RIGHT_SIDEWALK[1] + 0.15, kerb),
        (LEFT_SIDEWALK[0] - 0.15, LEFT_SIDEWALK[0], kerb),
        (PARKING_EDGE, LEFT_EDGE, look.asphalt),
    )


def _draw_street(sketch: Sketch, stage: Stage, ground: Ground, line: float) -> None:
    """Draw the crossing street and the kerb on which the light stands."""
    across = np.array([-60.0, -30.0, -12.0, 0.0, 12.0, 30.0, 60.0])
    first, last = line + STREET_AFTER_LINE[0], line + STREET_AFTER_LINE[1]
    near = stage.road.points(np.full(7, first), across)
    far = stage.road.points(np.full(7, last), across)
    sketch.add(ground(np.concatenate([near, far[::-1]])), stage.look.asphalt)
    kerb = np.array([line - 1.5, line + STREET_AFTER_LINE[0]])
    sketch.add(strip(stage.road, ground, kerb, RIGHT_SIDEWALK[0], POLE_OFFSET + 0.7), stage.look.sidewalk)


def draw_dashes(
    sketch: Sketch, road: Road, look: Look, ground: Ground, s: float, gaps: list[tuple[float, float]]
) -> None:
    """Draw the broken line between the lanes from `s` on, none in the gaps."""
    first = np.floor((s - look.dash_phase) / DASH_PERIOD) * DASH_PERIOD + look.dash_phase
    starts = np.array([start for start in first + DASH_PERIOD * np.arange(9) if not _inside(start, gaps)])
    if not len(starts):
        return
    place = np.stack([starts, starts + DASH, starts + DASH, starts], axis=1).ravel()
    offset = np.tile([-RIGHT_EDGE - LINE, -RIGHT_EDGE - LINE, -RIGHT_EDGE + LINE, -RIGHT_EDGE + LINE], len(starts))
    for quad in ground(road.points(place, offset)).reshape(-1, 4, 3):
        sketch.add(quad, look.paint)


def draw_zebra(
    sketch: Sketch, road: Road, look: Look, ground: Ground, start: float, right: float = PARKING_EDGE + 0.3
) -> None:
    """Draw the bars of a zebra crossing that begins at `start`."""
    low = np.arange(right, LEFT_EDGE - 0.4, 1.0)
    place = np.tile([start, start + ZEBRA_WIDTH, start + ZEBRA_WIDTH, start], len(low))
    offset = (low[:, None] + np.array([0.0, 0.0, 0.5, 0.5])).ravel()
    for quad in ground(road.points(place, offset)).reshape(-1, 4, 3):
        sketch.add(quad, look.paint, UNTOUCHED)


def strip(road: Road, ground: Ground, place: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the corners of a strip along places of a road."""
    right, left = road.points(place, low), road.points(place, high)
    return ground(np.concatenate([right, left[::-1]]))


def between(first: float, last: float, gaps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return what is left of an interval without the gaps."""
    parts = []
    for low, high in sorted(gaps):
        if low > first:
            parts.append((first, min(low, last)))
        first = max(first, high)
    if first < last:
        parts.append((first, last))
    return [(low, high) for low, high in parts if high - low > 0.2]


def _inside(place: float, gaps: list[tuple[float, float]]) -> bool:
    return any(low - DASH < place < high for low, high in gaps)


def tone(colour: Colour, factor: float) -> Colour:
    """Return a colour that is brighter by a factor."""
    return (min(int(colour[0] * factor), 255), min(int(colour[1] * factor), 255), min(int(colour[2] * factor), 255))
