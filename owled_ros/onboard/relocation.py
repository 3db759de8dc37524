"""Whether a localisation jumped between two of its states: the vehicle cannot have driven there. Needs nothing."""

from __future__ import annotations

import math

from owled_ros.driving.ego import JUMP_SHARE, NANOSECONDS, EgoState, wrapped


def jump_between(before: EgoState, after: EgoState, place_m: float, heading_rad: float) -> str:
    """Say how far the later pose lies off where speed and yaw rate led; "" within `place_m` [m] and `heading_rad` [rad].

    Half of the way driven, and of the turn made, comes on top: slip and poor speeds are no jump.
    """
    if before.pose is None or after.pose is None:
        return ""
    seconds = (after.stamp - before.stamp) / NANOSECONDS
    driven = 0.5 * (before.speed + after.speed) * seconds
    turned = 0.5 * (before.yaw_rate + after.yaw_rate) * seconds
    middle = before.pose.heading + 0.5 * turned
    expected = (before.pose.x + driven * math.cos(middle), before.pose.y + driven * math.sin(middle))
    off = math.dist(expected, (after.pose.x, after.pose.y))
    if off > place_m + JUMP_SHARE * abs(driven):
        return f"the localisation jumped by {off:.2f} m"
    twisted = abs(wrapped(after.pose.heading - before.pose.heading - turned))
    if twisted > heading_rad + JUMP_SHARE * abs(turned):
        return f"the localisation turned by {twisted:.2f} rad at once"
    return ""
