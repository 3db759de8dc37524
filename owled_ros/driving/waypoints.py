"""Trajectories from places: waypoints with or without heading, and steps from place to place; and back. Needs numpy.

Models write places with one or two decimals every half second, and stand still: a speed or a heading taken from two
neighbours would be noise. So speeds are means over at least MIN_TIME_S, headings are directions of chords of at least
MIN_CHORD_M and MIN_TIME_S; both are put at the middle of what they were taken from (exact for constant acceleration and on
a circle) and are linear in between. Under STANDING_M in all the heading stays 0. Places that end at rest within REST_M mean to stand:
asked anew ten times a second, a model that rounds "0.2 m from here" would creep on for ever. Letters: N points, K knots.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from owled_ros.driving.ego import wrapped
from owled_ros.driving.trajectory import Trajectory

MIN_TIME_S = 0.5
MIN_CHORD_M = 2.0
STANDING_M = 1.0
REST_M, REST_STEP_M = 0.3, 0.05
REST_S = 0.5  # in which a vehicle that means to stand does
FIRST_S = 1.0  # the first action is what leads to the places of this much of the future
TINY = 1e-6


def from_waypoints(points: np.ndarray, step_s: float, speed: float) -> Trajectory:
    """Drive through places (N, 2) or places with headings (N, 3), every `step_s` from `step_s` on, starting with `speed`."""
    time = step_s * np.arange(len(points) + 1)
    place = np.vstack([[0.0, 0.0], points[:, :2]])  # (N + 1, 2)
    lengths = np.hypot(*np.diff(place, axis=0).T)
    chords = _groups(np.column_stack([lengths, np.diff(time)]), (MIN_CHORD_M, MIN_TIME_S))
    if points.shape[1] > 2:
        heading = np.unwrap(np.concatenate([[0.0], points[:, 2]]))
    else:
        heading = _headings(place, lengths, chords)
    progress = _progress(place, heading)
    speeds, accelerations = _paces(time, progress, speed)
    accelerations[0] = _first_acceleration(time, np.cumsum(progress), speed)
    if abs(progress[-1]) < REST_STEP_M and np.abs(progress).sum() <= REST_M + TINY:
        accelerations[0] = min(accelerations[0], -speed / REST_S)
    curvatures = np.zeros(len(time))
    if lengths.sum() >= STANDING_M:
        driven = np.concatenate([[0.0], np.cumsum(np.abs(progress))])
        curvatures = _curvatures(driven, heading, chords)
        curvatures[0] = _first_curvature(time, place, driven)
    return Trajectory(np.column_stack([time, place, heading, speeds, accelerations, curvatures]))


def from_steps(steps: np.ndarray, step_s: float, speed: float) -> Trajectory:
    """Put steps (dx, dy, dheading) end to end, each in base_link of where the one before ended, (N, 3)."""
    x = y = heading = 0.0
    points = []
    for dx, dy, turned in steps:
        cos, sin = math.cos(heading), math.sin(heading)
        x, y = x + cos * dx - sin * dy, y + sin * dx + cos * dy
        heading += turned
        points.append((x, y, heading))
    return from_waypoints(np.array(points, np.float64), step_s, speed)


def steps_of(trajectory: Trajectory, step_s: float, count: int) -> np.ndarray:
    """Return the steps (dx, dy, dheading) of `count` times `step_s`, (N, 3)."""
    nodes = trajectory.sample(step_s * np.arange(count + 1))
    cos, sin = np.cos(nodes.heading[:-1]), np.sin(nodes.heading[:-1])
    dx, dy = np.diff(nodes.x), np.diff(nodes.y)
    return np.column_stack([cos * dx + sin * dy, cos * dy - sin * dx, np.diff(nodes.heading)])


def _groups(sizes: np.ndarray, least: tuple[float, ...]) -> list[int]:
    """Merge neighbouring steps until each group reaches every least size; returns the K ends, in points. What is left over
    goes to the last group; one group where not even one is reached."""
    ends, start = [0], 0
    for end in range(1, len(sizes) + 1):
        if (sizes[start:end].sum(axis=0) >= np.array(least) - TINY).all():
            ends.append(end)
            start = end
    if len(ends) == 1:
        return [0, len(sizes)]
    ends[-1] = len(sizes)
    return ends


def _headings(place: np.ndarray, lengths: np.ndarray, chords: list[int]) -> np.ndarray:
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    if along[-1] < STANDING_M:
        return np.zeros(len(place))
    knots, values = [0.0], [0.0]
    for start, end in pairwise(chords):
        dx, dy = place[end] - place[start]
        direction = math.atan2(dy, dx)
        knots.append(0.5 * float(along[start] + along[end]))
        values.append(values[-1] + wrapped(direction - values[-1]))
    return _through(along, np.array(knots), np.array(values))


def _progress(place: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """Return the signed way of every step along the heading, on the arc, (N,)."""
    middle, half = 0.5 * (heading[1:] + heading[:-1]), 0.5 * np.diff(heading)
    dx, dy = np.diff(place, axis=0).T
    chord = dx * np.cos(middle) + dy * np.sin(middle)
    bent = np.clip(half, -1.0, 1.0)  # a sharper turn within a step is no arc
    return chord / np.sinc(bent / np.pi)


def _paces(time: np.ndarray, progress: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray]:
    """Return speeds and accelerations at the points."""
    way = np.concatenate([[0.0], np.cumsum(progress)])
    ends = _groups(np.diff(time)[:, None], (MIN_TIME_S,))
    first, last = np.array(ends[:-1]), np.array(ends[1:])
    knots = np.concatenate([[0.0], 0.5 * (time[first] + time[last])])
    values = np.concatenate([[speed], (way[last] - way[first]) / (time[last] - time[first])])
    speeds = _through(time, knots, values)
    if values[-1] >= 0.0:  # a stop does not go on backwards
        speeds[time > knots[-1]] = np.maximum(speeds[time > knots[-1]], 0.0)
    return speeds, _slopes(time, knots, values)


def _curvatures(driven: np.ndarray, heading: np.ndarray, chords: list[int]) -> np.ndarray:
    ends = np.array(chords)
    knots = np.concatenate([[0.0], 0.5 * (driven[ends[:-1]] + driven[ends[1:]])])
    return _slopes(driven, knots, np.interp(knots, driven, heading))


def _first_acceleration(time: np.ndarray, way: np.ndarray, speed: float) -> float:
    """Fit way = speed t + a t^2 / 2 to the first second (least squares)."""
    near = max(1, int(np.searchsorted(time[1:], FIRST_S + TINY)))
    t, s = time[1 : near + 1], way[:near]
    weight = 0.5 * t**2
    return float((weight * (s - speed * t)).sum() / (weight**2).sum())


def _first_curvature(time: np.ndarray, place: np.ndarray, driven: np.ndarray) -> float:
    """Fit circles through the vehicle, tangent to its heading, to the first second: curvature 2 y / r^2 (pure pursuit)."""
    enough = int(np.searchsorted(driven, min(MIN_CHORD_M, driven[-1]) - TINY))
    near = max(enough, int(np.searchsorted(time, FIRST_S + TINY)) - 1)
    x, y = place[1 : near + 1].T
    squares = x**2 + y**2
    return float(2.0 * (y * squares).sum() / max((squares**2).sum(), TINY))


def _through(at: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate linearly; beyond the last knot the last slope continues."""
    slope = (values[-1] - values[-2]) / max(knots[-1] - knots[-2], TINY)
    return np.interp(at, knots, values) + slope * np.maximum(at - knots[-1], 0.0)


def _slopes(at: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the slope of a line through knots: of each piece at its middle, linear in between."""
    slopes = np.diff(values) / np.maximum(np.diff(knots), TINY)
    return np.interp(at, 0.5 * (knots[1:] + knots[:-1]), slopes)
