"""A trajectory put down on the ground: in a fixed frame, cut again and again where the vehicle is now. Needs numpy.

A slow model's last trajectory serves until the next one comes. Its points stay where they are in the world; only what is past is
cut off. Between points everything is linear, so that cutting twice is cutting once. Letters: N points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.ego import NANOSECONDS, Pose
from owled_ros.driving.trajectory import COLUMNS, Trajectory

SAME_S = 0.01  # [s]; a cut nearer than this before a point begins at the point
SAME_M = 1e-9  # [m]; places that are equally near


@dataclass(frozen=True, eq=False)
class AnchoredTrajectory:
    """N points in a fixed frame; one row each, the columns of driving.trajectory, times counted from `stamp`."""

    stamp: int  # [ns] of time 0
    values: np.ndarray  # (N, 7) float64

    @property
    def duration(self) -> float:
        """How far it looks ahead [s]."""
        return float(self.values[-1, 0])

    def elapsed(self, stamp: int) -> float:
        """Seconds from time 0 to `stamp` [ns]."""
        return (stamp - self.stamp) / NANOSECONDS

    def at(self, time: float) -> np.ndarray:
        """Return the point at a time [s], (7,), linear in between; the first or last one outside."""
        times = self.values[:, 0]
        return np.array([np.interp(time, times, self.values[:, column]) for column in range(len(COLUMNS))])

    def distance(self, pose: Pose, stamp: int) -> float:
        """Return how far [m] the vehicle is from where it was to be at `stamp` [ns]."""
        place = self.at(self.elapsed(stamp))
        return math.hypot(pose.x - place[1], pose.y - place[2])


def anchored(trajectory: Trajectory, pose: Pose, stamp: int, step_s: float) -> AnchoredTrajectory:
    """Put a trajectory down where the vehicle was at its stamp [ns], with points at most `step_s` apart; its own points stay."""
    values = trajectory.sample(_refined(trajectory.time, step_s)).values.copy()
    cos, sin = math.cos(pose.heading), math.sin(pose.heading)
    x, y = values[:, 1].copy(), values[:, 2].copy()
    values[:, 1], values[:, 2] = pose.x + cos * x - sin * y, pose.y + sin * x + cos * y
    values[:, 3] += pose.heading
    return AnchoredTrajectory(stamp, values)


def cut(plan: AnchoredTrajectory, pose: Pose, stamp: int, reach_m: float) -> AnchoredTrajectory | None:
    """Return what is left at `stamp` [ns] for a vehicle at `pose`; None when it is over or has not begun.

    It begins where the plan passes the vehicle, looked for within `reach_m` [m] before the place where the vehicle was to be by now,
    and never after that place: a wait of the plan is not cut short by a vehicle that stands a little ahead.
    """
    elapsed = plan.elapsed(stamp)
    if not 0.0 <= elapsed < plan.duration - SAME_S:
        return None
    begin = _passing(plan, pose, elapsed, reach_m)
    times = plan.values[:, 0]
    rest = plan.values[times > begin + SAME_S]
    near = np.flatnonzero(np.abs(times - begin) <= SAME_S)
    first = plan.values[near[-1]] if len(near) else plan.at(begin)
    values = np.vstack([first, rest])
    values[:, 0] -= first[0]
    return AnchoredTrajectory(stamp, values)


def _refined(times: np.ndarray, step_s: float) -> np.ndarray:
    """Divide every interval into equal parts of at most `step_s`."""
    parts = np.maximum(np.ceil(np.diff(times) / step_s - 1e-6).astype(int), 1)
    pieces = [
        np.linspace(begin, end, count, endpoint=False)
        for begin, end, count in zip(times[:-1], times[1:], parts, strict=True)
    ]
    return np.concatenate([*pieces, times[-1:]])


def _passing(plan: AnchoredTrajectory, pose: Pose, elapsed: float, reach_m: float) -> float:
    """Return the time [s], at most `elapsed`, at which the plan comes nearest to the vehicle; of equally near ones the last."""
    now = plan.at(elapsed)
    before = plan.values[plan.values[:, 0] < elapsed]
    way = np.vstack([before, now])  # (N, 7), up to now
    if len(way) == 1:
        return elapsed
    steps = np.diff(way[:, 1:3], axis=0)  # (N - 1, 2)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    to_go = np.cumsum(lengths[::-1])[::-1]  # [m] from the beginning of each step to the place of now
    first = int(np.argmax(to_go <= reach_m)) if (to_go <= reach_m).any() else len(lengths)
    first = max(first - 1, 0)
    steps, lengths, way = steps[first:], lengths[first:], way[first:]
    to_vehicle = np.array([pose.x, pose.y]) - way[:-1, 1:3]
    moving = lengths > SAME_M
    share = np.ones(len(lengths))  # a step that stands still ends at its end
    share[moving] = np.clip((to_vehicle * steps).sum(axis=1)[moving] / lengths[moving] ** 2, 0.0, 1.0)
    off = np.hypot(*(to_vehicle - share[:, None] * steps).T)
    times = way[:-1, 0] + share * np.diff(way[:, 0])
    return float(times[np.flatnonzero(off <= off.min() + SAME_M)[-1]])
