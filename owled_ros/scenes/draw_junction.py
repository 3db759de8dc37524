"""The surface of a town: the route in pieces between junctions, the other arms, the crossing areas. Needs numpy."""

from __future__ import annotations

import numpy as np

from owled_ros.scenes.draw_road import (
    AHEAD,
    EGO_LANE,
    LINE,
    Ground,
    between,
    draw_dashes,
    draw_zebra,
    strip,
    surfaces,
    tone,
)
from owled_ros.scenes.look import Look
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
from owled_ros.scenes.stage import Arm, Stage
from owled_ros.scenes.streets import ARM_LENGTH, BEGINS, exit_of
from owled_ros.scenes.turning import FAR_LANE, NEAR_LANE, Way

BEHIND, BEFORE = -35.0, 95.0  # [m] from the camera to a stop line whose junction is drawn
ARM_PLACES = np.arange(0.0, ARM_LENGTH - 20.0, 6.0)  # [m] from where an arm begins
CLEAR = 4.5  # [m] behind the begin of an arm without lines: its zebra crossing


def near_arms(stage: Stage, s: float) -> list[Arm]:
    """Return the arms that a camera at `s` may see."""
    return [arm for arm in stage.arms if BEHIND < arm.line - s < BEFORE]


def draw_streets(stage: Stage, s: float, ground: Ground) -> Sketch:
    """Draw the route and the arms around a camera at `s`; `ground` brings points (N, 2) into the camera's road frame."""
    sketch, road, look = Sketch(), stage.road, stage.look
    junctions = [(line, way) for line, way in road.junctions() if BEHIND < line - s < BEFORE]
    crossings = [(line + STREET_AFTER_LINE[0], exit_of(line, way)) for line, way in junctions]
    pieces = [(road, _places(s, first, last)) for first, last in between(s - 1.0, s + AHEAD[-1], crossings)]
    current = next((index for index, (_, place) in enumerate(pieces) if place[-1] > s), None)
    arms = [(arm.road, arm.begin + ARM_PLACES) for arm in near_arms(stage, s)]
    for street, place in pieces + arms:
        for low, high, colour in surfaces(look):
            sketch.add(strip(street, ground, place, low, high), colour)
    for line, _ in junctions:
        _draw_area(sketch, road.straightened(line), look, ground, line)
    for index, (street, place) in enumerate(pieces + arms):
        label = EGO_LANE if index == current else UNTOUCHED
        sketch.add(strip(street, ground, place, RIGHT_EDGE, -RIGHT_EDGE), tone(look.asphalt, 0.97), label)
    gaps = [(line, exit_of(line, way) + CLEAR) for line, way in junctions]
    for first, last in between(s - 1.0, s + 80.0, gaps):
        _draw_edges(sketch, road, look, ground, _places(s, first, last))
    draw_dashes(sketch, road, look, ground, s, gaps)
    for street, place in arms:
        _draw_edges(sketch, street, look, ground, np.concatenate([[place[0] + CLEAR], place[1:]]))
        draw_dashes(sketch, street, look, ground, place[0] + CLEAR, [(place[0] - 20.0, place[0] + CLEAR)])
        draw_zebra(sketch, street, look, ground, place[0] + 1.0)
    for line, way in junctions:
        straight = road.straightened(line)
        sketch.add(strip(straight, ground, np.array([line - 0.25, line + 0.25]), RIGHT_EDGE, -RIGHT_EDGE), look.paint)
        draw_zebra(sketch, straight, look, ground, line + ZEBRA_AFTER_LINE[0], POLE_OFFSET + 0.8)
        draw_zebra(sketch, road, look, ground, exit_of(line, way) + 1.0)
    for zebra in road.zebras:
        if -8 < zebra - s < 70:
            draw_zebra(sketch, road, look, ground, zebra - ZEBRA_WIDTH / 2)
    return sketch


def _places(s: float, first: float, last: float) -> np.ndarray:
    inside = s + AHEAD
    return np.concatenate([[first], inside[(inside > first) & (inside < last)], [last]])


def _draw_edges(sketch: Sketch, road: Road, look: Look, ground: Ground, place: np.ndarray) -> None:
    for offset in (RIGHT_EDGE, LEFT_EDGE - 0.15):
        sketch.add(strip(road, ground, place, offset - LINE, offset + LINE), look.paint)


def _draw_area(sketch: Sketch, straight: Road, look: Look, ground: Ground, line: float) -> None:
    """Draw the crossing area, its corners of sidewalk and the kerb on which the light stands; all in the straight frame."""
    near, far = STREET_AFTER_LINE
    right, left, through = -BEGINS[Way.RIGHT], BEGINS[Way.LEFT], BEGINS[Way.STRAIGHT]
    corners = (
        (NEAR_LANE + RIGHT_SIDEWALK[0], near, right, RIGHT_SIDEWALK[1]),
        (far, NEAR_LANE + LEFT_SIDEWALK[1], right, RIGHT_SIDEWALK[1]),
        (FAR_LANE - LEFT_SIDEWALK[1], near, LEFT_SIDEWALK[0], left),
        (far, FAR_LANE - RIGHT_SIDEWALK[0], LEFT_SIDEWALK[0], left),
    )
    areas = [(corner, look.sidewalk) for corner in corners]
    areas += [
        ((near, far, right, left), look.asphalt),
        ((near, through, PARKING_EDGE, LEFT_EDGE), look.asphalt),
        ((-1.5, near, RIGHT_SIDEWALK[0], POLE_OFFSET + 0.7), look.sidewalk),
    ]
    for (first, last, low, high), colour in areas:
        sketch.add(strip(straight, ground, np.array([line + first, line + last]), low, high), colour)
