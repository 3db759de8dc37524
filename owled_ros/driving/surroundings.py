"""What is around the vehicle as another perception tells it: road users, traffic lights, the route ahead. Needs nothing.

Frames: base_link of the frame's stamp, x forward, y left; angles left positive. Text profiles say it in words
(driving.surroundings_words); a model with an encoder of its own takes the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

from owled_ros.driving.answer import Light
from owled_ros.driving.ego import Pose, wrapped


class RoadUserClass(IntEnum):
    """What a road user is. Values equal autoware_perception_msgs/ObjectClassification."""

    UNKNOWN = 0
    CAR = 1
    TRUCK = 2
    BUS = 3
    TRAILER = 4
    MOTORCYCLE = 5
    BICYCLE = 6
    PEDESTRIAN = 7
    ANIMAL = 8
    HAZARD = 9
    OVER_DRIVABLE = 10
    UNDER_DRIVABLE = 11


@dataclass(frozen=True)
class RoadUser:
    """One object; places and velocities in one frame, over ground."""

    x: float  # [m], of its centre
    y: float  # [m]
    heading: float | None  # [rad]; None where it is unknown it
    length: float  # [m], along its heading
    width: float  # [m]
    velocity_x: float | None  # [m/s], over ground; None where the direction is not known
    velocity_y: float | None
    kind: RoadUserClass = RoadUserClass.UNKNOWN
    height: float = 0.0  # [m]; 0: unknown

    @property
    def distance(self) -> float:
        """From the origin to the centre [m]."""
        return math.hypot(self.x, self.y)

    @property
    def speed(self) -> float | None:
        """Over ground [m/s]; None where it is not known."""
        return (
            None if self.velocity_x is None or self.velocity_y is None else math.hypot(self.velocity_x, self.velocity_y)
        )

    def moved(self, seconds: float) -> RoadUser:
        """Carry it on with its velocity."""
        if self.velocity_x is None or self.velocity_y is None:
            return self
        return replace(self, x=self.x + self.velocity_x * seconds, y=self.y + self.velocity_y * seconds)

    def seen_from(self, origin: Pose) -> RoadUser:
        """Express it in the frame of a pose that is given in the same frame."""
        place = Pose(self.x, self.y, self.heading or 0.0).seen_from(origin)
        turned = replace(self, x=place.x, y=place.y, heading=None if self.heading is None else place.heading)
        if self.velocity_x is None or self.velocity_y is None:
            return turned
        cos, sin = math.cos(origin.heading), math.sin(origin.heading)
        return replace(
            turned,
            velocity_x=cos * self.velocity_x + sin * self.velocity_y,
            velocity_y=cos * self.velocity_y - sin * self.velocity_x,
        )


@dataclass(frozen=True)
class TrafficLight:
    """One group of lamps that say the same; which lane it is for only the map knows."""

    group: int  # id of the map
    light: Light  # UNKNOWN where it is not known
    distance: float | None = None  # [m] ahead along the route; None: whoever saw it does not tell
    place: tuple[float, float] | None = None  # [m] x and y of its lane beside the lamp or at its stop line


@dataclass(frozen=True)
class Surroundings:
    """Everything around at one moment; None: not asked for, or not known and not required."""

    objects: tuple[RoadUser, ...] | None = None  # nearest first
    lights: tuple[TrafficLight, ...] | None = None
    route: tuple[Pose, ...] = ()  # where the route leads, nearest first


def agreed_light(lights: tuple[TrafficLight, ...]) -> Light:
    """Return the state that all groups agree on; NONE without a group, UNKNOWN where they differ."""
    found = {item.light for item in lights}
    return Light.NONE if not found else found.pop() if len(found) == 1 else Light.UNKNOWN


def nearest_first(objects: tuple[RoadUser, ...]) -> tuple[RoadUser, ...]:
    """Sort by distance."""
    return tuple(sorted(objects, key=lambda item: item.distance))


def pointing_where_it_goes(heading: float, forward: float, known: bool) -> float:
    """Turn a heading [rad] round whose sign is unknown and against which the object moves [m/s]."""
    return wrapped(heading + math.pi) if not known and forward < 0.0 else heading
