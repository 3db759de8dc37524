"""Vehicle parameters and the bicycle, by hand."""

import math

import pytest

from owled_ros.driving.vehicle import (
    Controls,
    VehicleParameters,
    VehicleState,
    bicycle_step,
    controls_of,
    steering_of_yaw_rate,
)


def test_controls_are_shares_of_the_limits():
    vehicle = VehicleParameters(max_steering_tire_angle=0.6, max_acceleration=2.0, max_deceleration=6.0)
    assert controls_of(1.0, 0.3, vehicle) == Controls(0.5, 0.0, 0.5)
    assert controls_of(-3.0, -0.6, vehicle) == Controls(0.0, 0.5, -1.0)
    assert controls_of(-99.0, 9.0, vehicle) == Controls(0.0, 1.0, 1.0)


def test_straight_on_the_distance_is_the_mean_speed_times_time():
    # 10 m/s, 2 m/s2, 1 s: 11 m
    pose = bicycle_step(VehicleState(speed=10.0), 2.0, 0.0, 1.0, 2.8)
    assert (pose.x, pose.y, pose.speed) == (pytest.approx(11.0), 0.0, 12.0)


def test_a_circle_closes():
    wheel_base, angle = 2.8, 0.2
    radius = wheel_base / math.tan(angle)
    pose, steps = VehicleState(speed=5.0), 2000
    for _ in range(steps):
        pose = bicycle_step(pose, 0.0, angle, 2 * math.pi * radius / 5.0 / steps, wheel_base)
    assert math.hypot(pose.x, pose.y) < 1e-3
    assert pose.heading == pytest.approx(2 * math.pi)


def test_braking_ends_at_standstill():
    assert bicycle_step(VehicleState(speed=1.0), -6.0, 0.0, 1.0, 2.8).speed == 0.0


def test_the_tire_angle_of_a_yaw_rate_gives_that_yaw_rate_back():
    angle = steering_of_yaw_rate(0.2, 8.0, 2.8)
    assert bicycle_step(VehicleState(speed=8.0), 0.0, angle, 1.0, 2.8).heading == pytest.approx(0.2)
    assert steering_of_yaw_rate(0.2, 0.1, 2.8) == 0.0
