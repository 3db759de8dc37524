"""Trajectories from motions: actions, speeds and curvatures, accelerations and curvatures; and back. Needs numpy.

The unicycle on arcs: within a step the speed changes linearly and the curvature is constant, so that places are exact. A
vehicle does not roll backwards: its speed ends at 0. Letters: N steps.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.driving.answer import Action
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters, VehicleState, bicycle_step

HORIZON_S = 3.0  # that an action is held for
STEP_S = 0.1  # of a rolled out action


def roll_out(
    action: Action, speed: float, vehicle: VehicleParameters, horizon_s: float = HORIZON_S, step_s: float = STEP_S
) -> Trajectory:
    """Drive the kinematic bicycle with a held action from `speed` [m/s].

    Nobody holds the throttle until the vehicle leaves the road: at its highest speed or lateral acceleration it continues evenly.
    """
    curvature = math.tan(action.steering_tire_angle) / vehicle.wheel_base
    state = VehicleState(speed=max(speed, 0.0))
    rows = [(0.0, 0.0, 0.0, 0.0, speed, action.acceleration, curvature)]
    for step in range(1, round(horizon_s / step_s) + 1):
        acceleration = action.acceleration
        if acceleration > 0.0:
            acceleration = min(acceleration, max(0.0, _highest_speed(curvature, vehicle) - state.speed) / step_s)
        before = state.speed
        state = bicycle_step(state, acceleration, action.steering_tire_angle, step_s, vehicle.wheel_base)
        standing = state.speed == 0.0 and before == 0.0
        rows.append(
            (step * step_s, state.x, state.y, state.heading, state.speed, 0.0 if standing else acceleration, curvature)
        )
    return Trajectory(np.array(rows, np.float64))  # (N + 1, 7)


def from_speed_curvature(pairs: np.ndarray, step_s: float, speed: float) -> Trajectory:
    """Drive through (speed [m/s], curvature [1/m]) at the end of every step, (N, 2), from `speed` now."""
    speeds = np.concatenate([[speed], pairs[:, 0]])
    curvatures = np.concatenate([[pairs[0, 1]], pairs[:, 1]])
    accelerations = np.diff(speeds) / step_s
    return _driven(
        step_s,
        speeds,
        np.append(accelerations, accelerations[-1]),
        curvatures,
        0.5 * (curvatures[1:] + curvatures[:-1]),
    )


def from_acceleration_curvature(pairs: np.ndarray, step_s: float, speed: float) -> Trajectory:
    """Drive with (acceleration [m/s2], curvature [1/m]) during every step, (N, 2), from `speed` now."""
    speeds = [speed]
    for acceleration in pairs[:, 0]:
        speeds.append(max(min(speeds[-1], 0.0), speeds[-1] + float(acceleration) * step_s))
    last = pairs[-1]
    return _driven(
        step_s, np.array(speeds), np.append(pairs[:, 0], last[0]), np.append(pairs[:, 1], last[1]), pairs[:, 1]
    )


def action_of_pedals(accelerator: float, brake: float, steering: float, vehicle: VehicleParameters) -> Action:
    """Return what pedals [0, 1] and steering [-1, 1], left positive, do to a vehicle."""
    return Action(
        accelerator * vehicle.max_acceleration - brake * vehicle.max_deceleration,
        steering * vehicle.max_steering_tire_angle,
    )


def speed_curvature_of(trajectory: Trajectory, step_s: float, count: int) -> np.ndarray:
    """Return (speed, curvature) at the end of `count` steps, (N, 2)."""
    return trajectory.sample(step_s * np.arange(1, count + 1)).values[:, [4, 6]]


def acceleration_curvature_of(trajectory: Trajectory, step_s: float, count: int) -> np.ndarray:
    """Return the mean (acceleration, curvature) during `count` steps, (N, 2)."""
    nodes = trajectory.sample(step_s * np.arange(count + 1))
    driven = 0.5 * (nodes.speed[1:] + nodes.speed[:-1]) * step_s
    turned = np.diff(nodes.heading)
    curvatures = np.divide(turned, driven, out=nodes.curvature[:-1].copy(), where=driven > 0.1 * step_s)
    return np.column_stack([np.diff(nodes.speed) / step_s, curvatures])


def _highest_speed(curvature: float, vehicle: VehicleParameters) -> float:
    if abs(curvature) * vehicle.max_speed**2 <= vehicle.max_lateral_acceleration:
        return vehicle.max_speed
    return math.sqrt(vehicle.max_lateral_acceleration / abs(curvature))


def _driven(
    step_s: float, speeds: np.ndarray, accelerations: np.ndarray, curvatures: np.ndarray, within: np.ndarray
) -> Trajectory:
    """Put arcs of constant curvature `within` (N,) each step end to end; everything else is given at the points, (N + 1,)."""
    driven = 0.5 * (speeds[1:] + speeds[:-1]) * step_s
    turned = driven * within
    heading = np.concatenate([[0.0], np.cumsum(turned)])
    chord = driven * np.sinc(turned / (2.0 * np.pi))  # sin(turned / 2) / (turned / 2) of the arc
    direction = heading[:-1] + 0.5 * turned
    x = np.concatenate([[0.0], np.cumsum(chord * np.cos(direction))])
    y = np.concatenate([[0.0], np.cumsum(chord * np.sin(direction))])
    time = step_s * np.arange(len(speeds))
    return Trajectory(np.column_stack([time, x, y, heading, speeds, accelerations, curvatures]))
