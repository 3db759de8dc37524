"""Whether the vehicle can drive a trajectory: the last check before anything is published. Needs numpy.

Looks for what is grossly wrong: another place, unit, order or axis, a number that slipped. Models write places every half
second with one decimal, so a human drive written like that must pass: the tolerances below are what such writing can add
(ROUNDING_M is the width of a rounded place), on top of the limits of the vehicle. Letters: N points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.ego import EgoState
from owled_ros.driving.trajectory import COLUMNS, Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.waypoints import MIN_CHORD_M, MIN_TIME_S

ROUNDING_M = 0.1  # places are known within half of it to each side
START_M = 0.1  # the first point is the origin
START_RAD = 0.05
START_SPEED = 0.5  # [m/s] that the measured and the model's speed may differ by
START_STEERING = 0.05  # [rad] that a measured tire angle may be off, and slip
START_SHARE = 0.05  # of the speed, added to START_SPEED
BACKWARDS = 0.3  # [m/s] backwards that standing with rounded places can look like
SPEED_SLACK = 2.0 * ROUNDING_M / MIN_TIME_S  # [m/s]
ACCELERATION_SLACK = 2.5 * ROUNDING_M / MIN_TIME_S**2  # [m/s2], 4 half widths over the square of the step, and curves
JERK_SLACK = 4.5 * ROUNDING_M / MIN_TIME_S**3  # [m/s3], 8 half widths over its cube, and curves
STEP_M = 0.35  # [m] that a place may lie off where speed and heading lead, added to STEP_SHARE
STEP_SHARE = 0.06  # of the step
SLOW = 1.0  # [m/s], below it a stop may be as hard as it likes and the wheels may turn freely
DIGITS = 3


@dataclass(frozen=True)
class Check:
    """Numbers that must not lie above a limit."""

    name: str
    values: np.ndarray  # (N,)
    limit: float | np.ndarray  # of the vehicle, as it is shown
    slack: float | np.ndarray  # what rounded places can add
    unit: str


def problem_of(trajectory: Trajectory, ego: EgoState, vehicle: VehicleParameters) -> str:
    """Say why the vehicle cannot drive a trajectory: the number that failed, its limit and its time; "" when it can."""
    for check in (_problem_of_numbers, _problem_of_start, _problem_of_places, _problem_of_limits, _problem_of_changes):
        problem = check(trajectory, ego, vehicle)
        if problem:
            return problem
    return ""


def _problem_of_numbers(trajectory: Trajectory, _ego: EgoState, _vehicle: VehicleParameters) -> str:
    values = trajectory.values
    if values.ndim != 2 or values.shape[1] != len(COLUMNS) or len(values) < 2:
        return f"trajectory has the shape {values.shape}; expected at least 2 points of {len(COLUMNS)} numbers"
    for name, column in zip(COLUMNS, values.T, strict=True):
        bad = np.flatnonzero(~np.isfinite(column))
        if len(bad):
            return f"{name} of point {bad[0]} is {column[bad[0]]}; expected a finite number"
    if trajectory.time[0] != 0.0:
        return f"time starts at {trajectory.time[0]:g} s; expected 0"
    late = np.flatnonzero(np.diff(trajectory.time) <= 0.0)
    if len(late):
        before, after = trajectory.time[late[0] : late[0] + 2]
        return f"time goes from {before:g} to {after:g} s; expected strictly rising times"
    return ""


def _problem_of_start(trajectory: Trajectory, ego: EgoState, vehicle: VehicleParameters) -> str:
    """Compare with where the vehicle is, and with what it can reach in the first MIN_TIME_S."""
    off = math.hypot(trajectory.x[0], trajectory.y[0])
    if off > START_M:
        return f"starts {off:.1f} m away from the vehicle; expected at most {START_M:g} m"
    if abs(trajectory.heading[0]) > START_RAD:
        return f"starts with heading {trajectory.heading[0]:+.2f} rad; expected 0 +- {START_RAD:g} rad"
    slack = START_SPEED + START_SHARE * abs(ego.speed)
    first = int(np.searchsorted(trajectory.time, min(MIN_TIME_S, trajectory.duration) - 1e-6))
    seconds = trajectory.time[first]
    way = trajectory.x[first]  # along the vehicle; a curve makes it a little shorter
    mean = float(way / seconds)
    low = ego.speed - 0.5 * vehicle.max_deceleration * seconds - slack
    high = ego.speed + 0.5 * vehicle.max_acceleration * seconds + slack
    if not low <= mean <= high or abs(trajectory.speed[0] - ego.speed) > slack:
        shown = mean if not low <= mean <= high else trajectory.speed[0]
        return (
            f"starts with {shown:.1f} m/s in the first {seconds:g} s while the vehicle drives {ego.speed:.1f} m/s; "
            f"expected {low:.1f} to {high:.1f} m/s"
        )
    return _problem_of_first_steering(trajectory, ego, vehicle)


def _problem_of_first_steering(trajectory: Trajectory, ego: EgoState, vehicle: VehicleParameters) -> str:
    """Compare the first curvature with the measured tire angle: the wheels turn no faster than they can."""
    if ego.steering_tire_angle is None or trajectory.speed[:2].min() < SLOW:
        return ""
    first = math.atan(vehicle.wheel_base * trajectory.curvature[0])
    seconds = max(MIN_TIME_S, trajectory.time[1])  # the first curvature is that of the first chord
    slack = START_STEERING + vehicle.wheel_base * float(_unsure_curvature(trajectory.speed[:1])[0])
    reach = vehicle.max_steering_rate * seconds + slack
    if abs(first - ego.steering_tire_angle) <= reach:
        return ""
    return (
        f"starts with the wheels at {first:+.2f} rad while they stand at {ego.steering_tire_angle:+.2f} rad; "
        f"expected a change of at most {reach:.2f} rad in the first {seconds:g} s"
    )


def _problem_of_places(trajectory: Trajectory, _ego: EgoState, _vehicle: VehicleParameters) -> str:
    """Every place lies where speed and heading lead from the one before."""
    middle = 0.5 * (trajectory.heading[1:] + trajectory.heading[:-1])
    way = 0.5 * (trajectory.speed[1:] + trajectory.speed[:-1]) * np.diff(trajectory.time)
    off = np.hypot(np.diff(trajectory.x) - way * np.cos(middle), np.diff(trajectory.y) - way * np.sin(middle))
    return _beyond(
        Check("distance from where speed and heading lead", off, STEP_M + STEP_SHARE * np.abs(way), 0.0, "m"),
        trajectory.time[1:],
    )


def _problem_of_limits(trajectory: Trajectory, _ego: EgoState, vehicle: VehicleParameters) -> str:
    speed, acceleration, curvature = trajectory.speed, trajectory.acceleration, trajectory.curvature
    unsure = _unsure_curvature(speed)
    sharpest = math.tan(vehicle.max_steering_tire_angle) / vehicle.wheel_base
    lateral = np.abs(curvature) * speed**2
    checks = (
        Check("speed", speed, vehicle.max_speed, SPEED_SLACK, "m/s"),
        Check("speed backwards", np.append(0.0, -speed[1:]), 0.0, BACKWARDS, "m/s"),
        Check("acceleration", acceleration, vehicle.max_acceleration, ACCELERATION_SLACK, "m/s2"),
        Check("deceleration", -acceleration, vehicle.max_deceleration, ACCELERATION_SLACK, "m/s2"),
        Check("curvature", np.abs(curvature), sharpest, unsure, "1/m"),
        Check("lateral acceleration", lateral, vehicle.max_lateral_acceleration, unsure * speed**2, "m/s2"),
    )
    return next(filter(None, (_beyond(check, trajectory.time) for check in checks)), "")


def _problem_of_changes(trajectory: Trajectory, _ego: EgoState, vehicle: VehicleParameters) -> str:
    """Jerk and steering rate: the range of values within MIN_TIME_S; not where the vehicle (nearly) stands."""
    steering = np.arctan(vehicle.wheel_base * trajectory.curvature)
    unsure = 2.0 * vehicle.wheel_base * _unsure_curvature(trajectory.speed)
    between = np.maximum(MIN_TIME_S, MIN_CHORD_M / np.maximum(trajectory.speed, SLOW))  # [s] between two curvatures
    checks = (
        Check("jerk", _changes(trajectory, trajectory.acceleration), vehicle.max_jerk, JERK_SLACK, "m/s3"),
        Check("steering rate", _changes(trajectory, steering), vehicle.max_steering_rate, unsure / between, "rad/s"),
    )
    return next(filter(None, (_beyond(check, trajectory.time) for check in checks)), "")


def _changes(trajectory: Trajectory, values: np.ndarray) -> np.ndarray:
    """Return the range of values within MIN_TIME_S (or one step where that is longer) from each point on, per second, (N,)."""
    time, changes = trajectory.time, np.zeros(len(trajectory))
    for start in range(len(time) - 1):
        end = max(start + 2, int(np.searchsorted(time, time[start] + MIN_TIME_S + 1e-6)))
        if trajectory.speed[start:end].min() >= SLOW:
            changes[start] = np.ptp(values[start:end]) / max(MIN_TIME_S, time[end - 1] - time[start])
    return changes


def _unsure_curvature(speed: np.ndarray) -> np.ndarray:
    """Return how far rounded places can move a curvature: of 3 places, one chord of driving.waypoints apart, (N,)."""
    chord = np.maximum(MIN_CHORD_M, MIN_TIME_S * np.abs(speed))
    return 2.0 * math.sqrt(2.0) * ROUNDING_M / chord**2


def _beyond(check: Check, time: np.ndarray) -> str:
    over = check.values - (check.limit + check.slack)
    if not (over > 0.0).any():
        return ""
    worst = int(np.argmax(over))
    limit = float(np.broadcast_to(check.limit, over.shape)[worst])
    return (
        f"{check.name} is {check.values[worst]:.{DIGITS}g} {check.unit} at {time[worst]:g} s; "
        f"the limit is {limit:.{DIGITS}g} {check.unit}"
    )
