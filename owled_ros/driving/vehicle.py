"""What a predicted action means for one vehicle: normalised commands and the kinematic bicycle. Needs nothing.

Model: kinematic bicycle, reference point on the rear axle (Rajamani, Vehicle Dynamics and Control, eq. 2.1 ff.).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_SPEED_FOR_STEERING = 0.5  # [m/s], below it the yaw rate says nothing about the wheels


@dataclass(frozen=True)
class VehicleParameters:
    """Geometry and limits of a vehicle."""

    wheel_base: float = 2.8  # [m]
    max_steering_tire_angle: float = 0.6  # [rad]
    max_acceleration: float = 2.0  # [m/s2], full throttle
    max_deceleration: float = 6.0  # [m/s2], full brake, positive
    max_speed: float = 50.0  # [m/s]
    max_lateral_acceleration: float = 5.0  # [m/s2]
    max_steering_rate: float = 0.7  # [rad/s], of the tires
    max_jerk: float = 10.0  # [m/s3], along the path
    front_overhang: float = 0.9  # [m], from the front axle to the bumper
    rear_overhang: float = 1.0  # [m], from the rear axle to the bumper
    width: float = 1.8  # [m], of the whole vehicle


@dataclass(frozen=True)
class Controls:
    """Normalised commands."""

    throttle: float  # [0, 1]
    brake: float  # [0, 1]
    steering: float  # [-1, 1], left positive


@dataclass(frozen=True)
class VehicleState:
    """Rear axle centre in a fixed frame."""

    x: float = 0.0  # [m]
    y: float = 0.0  # [m]
    heading: float = 0.0  # [rad]
    speed: float = 0.0  # [m/s]


def controls_of(acceleration: float, steering_tire_angle: float, vehicle: VehicleParameters) -> Controls:
    """Normalise an acceleration [m/s2] and a tire angle [rad]; values beyond the limits saturate."""
    return Controls(
        throttle=_clip(acceleration / vehicle.max_acceleration, 0.0, 1.0),
        brake=_clip(-acceleration / vehicle.max_deceleration, 0.0, 1.0),
        steering=_clip(steering_tire_angle / vehicle.max_steering_tire_angle, -1.0, 1.0),
    )


def bicycle_step(
    state: VehicleState, acceleration: float, steering_tire_angle: float, dt: float, wheel_base: float
) -> VehicleState:
    """Advance the kinematic bicycle by `dt` [s] with constant commands; the vehicle does not roll backwards."""
    speed = max(0.0, state.speed + acceleration * dt)
    mean_speed = 0.5 * (state.speed + speed)
    turned = mean_speed * math.tan(steering_tire_angle) / wheel_base * dt
    heading = state.heading + 0.5 * turned
    return VehicleState(
        x=state.x + mean_speed * math.cos(heading) * dt,
        y=state.y + mean_speed * math.sin(heading) * dt,
        heading=state.heading + turned,
        speed=speed,
    )


def steering_of_yaw_rate(yaw_rate: float, speed: float, wheel_base: float) -> float:
    """Return the tire angle [rad] that turns a vehicle of this speed [m/s] at this yaw rate [rad/s]; 0 at standstill."""
    if speed < MIN_SPEED_FOR_STEERING:
        return 0.0
    return math.atan(wheel_base * yaw_rate / speed)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
