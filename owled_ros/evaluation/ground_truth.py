"""What the vehicle really did after each image: acceleration, steering, path. Needs bags.ego_track.

Acceleration: slope of a straight line through the speeds of the next HORIZON_S (least squares). Steering: the mean
measured tire angle, or atan(L * yaw rate / speed) of the kinematic bicycle (Rajamani, Vehicle Dynamics and Control,
eq. 2.1 ff.) from the mean motion; unknown at standstill. Path: the poses of the bag in base_link of the image, as far into the
future as the motion is known without a hole; where it has none, or where they jump (a relocalisation), speeds and yaw rates
integrated by trapezoids.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.bags.ego_track import EgoTrack
from owled_ros.driving.ego import JUMP_M, JUMP_SHARE, NANOSECONDS
from owled_ros.driving.vehicle import MIN_SPEED_FOR_STEERING, VehicleParameters, steering_of_yaw_rate
from owled_ros.evaluation.displacement import LONGEST_S, STEP_S
from owled_ros.evaluation.record import DIGITS, Row, Truth, rounded_rows

HORIZON_S = 0.5  # the action's effect is read from this much of the future
MAX_GAP_S = 0.5  # a hole in the ego motion ends what can be known
MIN_SAMPLES = 3  # ego states within the horizon
Places = tuple[np.ndarray, np.ndarray, np.ndarray]  # x, y [m], heading [rad]


def truth_of_motion(track: EgoTrack, stamp: int, vehicle: VehicleParameters) -> Truth:
    """Look into the future of one image; entries are None where the motion ends or has a hole."""
    action = _window(track, stamp, HORIZON_S)
    if action is None:
        return Truth()
    seconds, speed, yaw_rate = action
    if len(seconds) < MIN_SAMPLES:
        return Truth()
    acceleration = float(np.polyfit(seconds, speed, 1)[0])
    steering = _steering(track, stamp, float(speed.mean()), float(yaw_rate.mean()), vehicle)
    return Truth(
        acceleration=round(acceleration, DIGITS),
        steering=None if steering is None else round(steering, DIGITS),
        source="ego_motion",
        path=_path(track, stamp),
    )


def _path(track: EgoTrack, stamp: int) -> tuple[Row, ...] | None:
    """Return the points every STEP_S as far as the motion is known."""
    steps = math.floor(_known_s(track, stamp) / STEP_S + 1e-9)
    future = _window(track, stamp, steps * STEP_S) if steps else None
    if future is None:
        return None
    times = STEP_S * np.arange(1, steps + 1)  # (P,)
    speed = np.interp(times, future[0], future[1])
    places = _poses(track, stamp, times)
    if places is None:
        places = _integrate(*future, times)
    return rounded_rows(np.stack([times, *places, speed], axis=1).tolist())


def _poses(track: EgoTrack, stamp: int, times: np.ndarray) -> Places | None:
    """Return x, y and heading at `times` in base_link of `stamp`; None where poses are missing or do not fit the speeds."""
    first = int(np.searchsorted(track.stamps, stamp, side="right")) - 1
    last = int(np.searchsorted(track.stamps, stamp + round(times[-1] * NANOSECONDS), side="left"))
    here = slice(first, last + 1)
    x, y, heading = track.x[here], track.y[here], np.unwrap(track.heading[here])
    if not np.isfinite(x + y + heading).all():
        return None
    seconds = (track.stamps[here] - stamp) / NANOSECONDS
    driven = 0.5 * np.abs(track.speed[here][1:] + track.speed[here][:-1]) * np.diff(seconds)
    moved = np.hypot(np.diff(x), np.diff(y))
    if (np.abs(moved - driven) > JUMP_M + JUMP_SHARE * driven).any() or abs(moved.sum() - driven.sum()) > (
        JUMP_M + JUMP_SHARE * driven.sum()
    ):
        return None  # a jump, or poses that stand still while the vehicle drives
    at = np.concatenate([[0.0], times])
    x, y, heading = (np.interp(at, seconds, column) for column in (x, y, heading))
    cos, sin = math.cos(heading[0]), math.sin(heading[0])
    dx, dy = x[1:] - x[0], y[1:] - y[0]
    return cos * dx + sin * dy, cos * dy - sin * dx, heading[1:] - heading[0]


def _known_s(track: EgoTrack, stamp: int) -> float:
    """Return how far into the future the motion is known without a hole [s], at most LONGEST_S."""
    first = int(np.searchsorted(track.stamps, stamp, side="right")) - 1
    if first < 0:
        return 0.0
    last = int(np.searchsorted(track.stamps, stamp + round(LONGEST_S * NANOSECONDS), side="left"))
    times = (track.stamps[first : last + 1] - stamp) / NANOSECONDS
    holes = np.flatnonzero(np.diff(times) > MAX_GAP_S)
    return float(min(times[holes[0]] if len(holes) else times[-1], LONGEST_S))


def _window(track: EgoTrack, stamp: int, horizon_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Cut seconds, speeds and yaw rates of the next `horizon_s` out of a track, ends interpolated; None with a hole."""
    end = stamp + round(horizon_s * NANOSECONDS)
    stamps = track.stamps
    if not len(stamps) or stamps[0] > stamp or stamps[-1] < end:
        return None
    first = int(np.searchsorted(stamps, stamp, side="right")) - 1
    last = int(np.searchsorted(stamps, end, side="left"))
    times = (stamps[first : last + 1] - stamp) / NANOSECONDS
    if np.diff(times, prepend=times[0]).max() > MAX_GAP_S:
        return None
    inside = times[(times > 0) & (times < horizon_s)]
    seconds = np.concatenate([[0.0], inside, [horizon_s]])
    speed = np.interp(seconds, times, track.speed[first : last + 1])
    return seconds, speed, np.interp(seconds, times, track.yaw_rate[first : last + 1])


def _steering(track: EgoTrack, stamp: int, speed: float, yaw_rate: float, vehicle: VehicleParameters) -> float | None:
    first, last = np.searchsorted(track.steering_stamps, [stamp, stamp + round(HORIZON_S * NANOSECONDS)])
    if last > first:
        return float(track.steering[first:last].mean())
    if abs(speed) < MIN_SPEED_FOR_STEERING:
        return None
    return steering_of_yaw_rate(yaw_rate, speed, vehicle.wheel_base)


def _integrate(seconds: np.ndarray, speed: np.ndarray, yaw_rate: np.ndarray, times: np.ndarray) -> Places:
    """Return x, y and heading at `times` by trapezoids."""
    steps = np.diff(seconds)
    yaw = np.concatenate([[0.0], np.cumsum(steps * 0.5 * (yaw_rate[1:] + yaw_rate[:-1]))])
    heading, pace = 0.5 * (yaw[1:] + yaw[:-1]), 0.5 * (speed[1:] + speed[:-1])
    x = np.concatenate([[0.0], np.cumsum(pace * np.cos(heading) * steps)])
    y = np.concatenate([[0.0], np.cumsum(pace * np.sin(heading) * steps)])
    return np.interp(times, seconds, x), np.interp(times, seconds, y), np.interp(times, seconds, yaw)
