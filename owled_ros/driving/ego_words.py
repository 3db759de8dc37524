"""Ego states and their past in words: values for the templates of a profile. Needs driving.profile_parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from owled_ros.driving.ego import NANOSECONDS, EgoState
from owled_ros.driving.profile_parts import PLACE_FIELDS, History, Number
from owled_ros.driving.templates import Value, fields_of, fill
from owled_ros.driving.vehicle import MIN_SPEED_FOR_STEERING
from owled_ros.errors import OwledError

PLAIN = Number()


def written(name: str, value: float, numbers: Mapping[str, Number]) -> float:
    """Give a number as the profile writes it: scaled, held within limits, rounded."""
    if not math.isfinite(value):
        raise OwledError(f"the prompt cannot say {name}: its value is {value}; expected a finite number")
    return numbers.get(name, PLAIN).of(float(value))


def motion_values(ego: EgoState, numbers: Mapping[str, Number]) -> dict[str, Value]:
    """Give speed, yaw rate, accelerations, curvature and tire angle; what is not known has no value."""
    curvature = ego.yaw_rate / ego.speed if abs(ego.speed) >= MIN_SPEED_FOR_STEERING else 0.0
    known = {
        "speed": ego.speed,
        "yaw_rate": ego.yaw_rate,
        "lateral_acceleration": ego.speed * ego.yaw_rate,
        "curvature": curvature,
    }
    if ego.acceleration is not None:
        known["acceleration"] = ego.acceleration
    if ego.steering_tire_angle is not None:
        known["steering_tire_angle"] = ego.steering_tire_angle
    return {name: written(name, value, numbers) for name, value in known.items()}


def place_values(ego: EgoState, numbers: Mapping[str, Number]) -> dict[str, Value]:
    """Give the place, and velocity and acceleration along its axes; `ego.pose` is in base_link of now."""
    if ego.pose is None:
        return {}
    cos, sin = math.cos(ego.pose.heading), math.sin(ego.pose.heading)
    known = {
        "x": ego.pose.x,
        "y": ego.pose.y,
        "heading": ego.pose.heading,
        "velocity_x": ego.speed * cos,
        "velocity_y": ego.speed * sin,
    }
    if ego.acceleration is not None:
        sideways = ego.speed * ego.yaw_rate
        known["acceleration_x"] = ego.acceleration * cos - sideways * sin
        known["acceleration_y"] = ego.acceleration * sin + sideways * cos
    return {name: written(name, value, numbers) for name, value in known.items()}


def history_text(
    history: History, past: Sequence[EgoState], now: EgoState, numbers: Mapping[str, Number], stamp: int
) -> str:
    """Write past states, oldest first in `past`, and the present one where the profile wants it."""
    if len(past) != history.count:
        raise OwledError(f"the profile asks for {history.count} past ego states, the frame has {len(past)}")
    states = [*past, now] if history.now else list(past)
    wants_place = bool(set(fields_of(history.line)) & set(PLACE_FIELDS))
    lines = []
    for number, state in enumerate(states, 1):
        age = 0.0 if state is now else (stamp - state.stamp) / NANOSECONDS
        values: dict[str, Value] = {**motion_values(state, numbers), "age": age, "time": 0.0 - age, "step": number}
        if wants_place:
            values |= place_values(state, numbers)
        lines.append(fill(history.line, values))
    return history.separator.join(lines if history.order == "oldest_first" else reversed(lines))
