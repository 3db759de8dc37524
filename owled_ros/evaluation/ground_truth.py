"""What the vehicle really did after each image: acceleration, steering, path. Needs bags.ego_track.

Acceleration: slope of a straight line through the speeds of the next HORIZON_S (least squares). Steering: the mean
measured tire angle, or atan(L * yaw rate / speed) of the kinematic bicycle (Rajamani, Vehicle Dynamics and Control,
eq. 2.1 ff.) from the mean motion; unknown at standstill. Path: the motion integrated by trapezoids, in the frame of the
vehicle at the image.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.bags.ego_track import EgoTrack
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.driving.vehicle import (
    MIN_SPEED_FOR_STEERING,
    VehicleParameters,
    VehicleState,
    bicycle_step,
    steering_of_yaw_rate,
)
from owled_ros.evaluation.record import DIGITS, Truth, rounded_path

HORIZON_S = 0.5  # the action's effect is read from this much of the future
PATH_TIMES_S = (1.0, 2.0, 3.0)
MAX_GAP_S = 0.5  # a hole in the ego motion ends what can be known
MIN_SAMPLES = 3  # ego states within the horizon
STEP_S = 0.1  # of the predicted path


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
    future = _window(track, stamp, PATH_TIMES_S[-1])
    return Truth(
        acceleration=round(acceleration, DIGITS),
        steering=None if steering is None else round(steering, DIGITS),
        source="ego_motion",
        path=rounded_path(_integrate(*future)) if future is not None else None,
    )


def predicted_path(
    speed: float, acceleration: float, steering: float, vehicle: VehicleParameters
) -> list[tuple[float, float]]:
    """Drive the kinematic bicycle with a constant action; returns (x, y) [m] at PATH_TIMES_S in base_link."""
    state = VehicleState(speed=max(speed, 0.0))
    points = []
    steps = round(PATH_TIMES_S[-1] / STEP_S)
    wanted = {round(time / STEP_S) for time in PATH_TIMES_S}
    for step in range(1, steps + 1):
        state = bicycle_step(state, acceleration, steering, STEP_S, vehicle.wheel_base)
        if step in wanted:
            points.append((state.x, state.y))
    return points


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


def _integrate(seconds: np.ndarray, speed: np.ndarray, yaw_rate: np.ndarray) -> list[tuple[float, float]]:
    steps = np.diff(seconds)
    yaw = np.concatenate([[0.0], np.cumsum(steps * 0.5 * (yaw_rate[1:] + yaw_rate[:-1]))])
    heading, pace = 0.5 * (yaw[1:] + yaw[:-1]), 0.5 * (speed[1:] + speed[:-1])
    x = np.concatenate([[0.0], np.cumsum(pace * np.cos(heading) * steps)])
    y = np.concatenate([[0.0], np.cumsum(pace * np.sin(heading) * steps)])
    return [(float(np.interp(time, seconds, x)), float(np.interp(time, seconds, y))) for time in PATH_TIMES_S]


def path_errors(path: list[tuple[float, float]], truth: tuple[tuple[float, float], ...]) -> list[float]:
    """Return the distances [m] between two paths at PATH_TIMES_S."""
    return [math.dist(a, b) for a, b in zip(path, truth, strict=True)]
