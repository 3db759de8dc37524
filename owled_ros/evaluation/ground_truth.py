"""What the vehicle really did after each image: acceleration, steering, path. Needs bags.ego_track.

Acceleration: slope of a straight line through the speeds of the next HORIZON_S (least squares). Steering: the mean
measured tire angle, or atan(L * yaw rate / speed) of the kinematic bicycle (Rajamani, Vehicle Dynamics and Control,
eq. 2.1 ff.) from the mean motion; unknown at standstill. Path: the motion integrated by trapezoids, in base_link of the
image, as far into the future as the motion is known without a hole.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.bags.ego_track import EgoTrack
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.driving.vehicle import MIN_SPEED_FOR_STEERING, VehicleParameters, steering_of_yaw_rate
from owled_ros.evaluation.displacement import LONGEST_S, STEP_S
from owled_ros.evaluation.record import DIGITS, Row, Truth, rounded_rows

HORIZON_S = 0.5  # the action's effect is read from this much of the future
MAX_GAP_S = 0.5  # a hole in the ego motion ends what can be known
MIN_SAMPLES = 3  # ego states within the horizon


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
    return rounded_rows(np.stack([times, *_integrate(*future, times)], axis=1).tolist())


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


def _integrate(
    seconds: np.ndarray, speed: np.ndarray, yaw_rate: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, heading and speed at `times` by trapezoids."""
    steps = np.diff(seconds)
    yaw = np.concatenate([[0.0], np.cumsum(steps * 0.5 * (yaw_rate[1:] + yaw_rate[:-1]))])
    heading, pace = 0.5 * (yaw[1:] + yaw[:-1]), 0.5 * (speed[1:] + speed[:-1])
    x = np.concatenate([[0.0], np.cumsum(pace * np.cos(heading) * steps)])
    y = np.concatenate([[0.0], np.cumsum(pace * np.sin(heading) * steps)])
    found = [np.interp(times, seconds, column) for column in (x, y, yaw, speed)]
    return found[0], found[1], found[2], found[3]
