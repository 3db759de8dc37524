"""Everything that is on the road at one moment: what the renderer draws and the expert judges. Needs numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from owled_ros.driving.answer import Light, ObjectKind, Scene, SceneObject
from owled_ros.driving.vehicle import VehicleState
from owled_ros.scenes.look import Building, Colour, Look, Tree
from owled_ros.scenes.road import POLE_AFTER_LINE, POLE_OFFSET, Road
from owled_ros.scenes.turning import in_a_turn

CAR_RANGE = 50.0  # [m] from the camera, beyond it nothing is reported
PEDESTRIAN_RANGE = 32.0  # at 192 pixels a person farther away is four pixels wide at most
LIGHT_RANGE = 45.0
LIGHT_NEAREST = 7.5  # nearer, its lamps are above the image
FRONT_OVERHANG = 3.7  # [m] from the ego's rear axle to its front bumper
EGO_WIDTH = 1.8
EGO_LENGTH = 4.5
NOBODY = (0.0, 4.0)  # [m] before and behind a turn where nobody stands on its sidewalks
WIDER = 0.6  # [m] that oncoming cars keep farther off in a turn: the crossing street's lanes lie 4 m apart


@dataclass
class Car:
    """A car; `s` and `offset` are its centre."""

    kind: ObjectKind
    s: float  # [m]
    offset: float  # [m]
    heading: float = 0.0  # [rad] against the road, pi for oncoming
    speed: float = 0.0  # [m/s]
    length: float = 4.4
    width: float = 1.8
    height: float = 1.5
    colour: Colour = (150, 30, 30)
    braking: bool = False
    box: bool = False  # a van instead of a saloon


@dataclass
class Pedestrian:
    """A person."""

    s: float
    offset: float
    heading: float = 0.0  # [rad] against the road
    crossing: bool = False  # on the roadway
    stride: float = 0.0  # [-1, 1], how far the legs are apart
    height: float = 1.8
    width: float = 0.8
    top: Colour = (200, 40, 40)
    trousers: Colour = (40, 40, 70)
    skin: Colour = (225, 180, 150)

    @property
    def kind(self) -> ObjectKind:
        """What the scene calls this person."""
        return ObjectKind.CROSSING if self.crossing else ObjectKind.SIDEWALK


@dataclass
class TrafficLight:
    """The light of a junction, on a pole behind its stop line."""

    stop_line: float  # s [m]
    state: Light = Light.GREEN

    @property
    def s(self) -> float:
        """Where the pole stands [m]."""
        return self.stop_line + POLE_AFTER_LINE


@dataclass(frozen=True)
class Arm:
    """A street that leaves a junction and is not taken."""

    line: float  # s [m] of the stop line on the route
    road: Road  # with its own `s`, from the middle of the junction on
    begin: float  # [m] of it, where its sidewalks begin
    scenery: tuple[Building | Tree, ...] = ()


@dataclass
class Stage:
    """One moment of a drive."""

    road: Road
    look: Look
    ego: VehicleState  # rear axle
    ego_s: float  # [m] of the rear axle
    scenery: tuple[Building | Tree, ...] = ()
    cars: list[Car] = field(default_factory=list)
    pedestrians: list[Pedestrian] = field(default_factory=list)
    lights: list[TrafficLight] = field(default_factory=list)
    arms: tuple[Arm, ...] = ()  # of junctions where the route may turn

    def place(self, actor: Car | Pedestrian | TrafficLight) -> tuple[float, float, float]:
        """Return x, y [m] and the direction of the road [rad] where somebody or a light is.

        Where the route turns, lights and crossing cars keep to the straight frame of their junction, and cars that come around
        the corner the other way keep to their lane.
        """
        road, offset = self.road, POLE_OFFSET if isinstance(actor, TrafficLight) else actor.offset
        if road.ways:
            if isinstance(actor, TrafficLight):
                road = road.straightened(actor.stop_line)
            elif actor.kind is ObjectKind.CROSS_TRAFFIC:
                road = road.straightened(max((line for line in road.stop_lines if line <= actor.s), default=0.0))
            elif actor.kind is ObjectKind.ONCOMING and in_a_turn(road.junctions(), actor.s):
                offset += WIDER
        x, y, along = road.pose_at(actor.s)
        return x - math.sin(along) * offset, y + math.cos(along) * offset, along


@dataclass(frozen=True)
class SeenObject:
    """A visible car or pedestrian, with the little more that a driver reads off the image."""

    kind: ObjectKind
    distance: float  # [m] along the road from the camera to its near end
    offset: float  # [m] from the lane centre, left positive
    braking: bool = False


@dataclass(frozen=True)
class Seen:
    """What the camera shows, nearest first; the only knowledge of the other road users that the expert has."""

    cars: tuple[SeenObject, ...] = ()
    pedestrians: tuple[SeenObject, ...] = ()
    light: Light = Light.NONE
    light_distance: float | None = None  # [m] to the pole

    def scene(self) -> Scene:
        """Return the description in the answer's terms."""
        return Scene(
            tuple(SceneObject(item.kind, item.distance) for item in self.cars),
            tuple(SceneObject(item.kind, item.distance) for item in self.pedestrians),
            self.light,
            self.light_distance,
        )


def ego_front(ego_s: float) -> float:
    """Return where the ego's bumper is [m]."""
    return ego_s + FRONT_OVERHANG


def half_extent(car: Car) -> float:
    """Return half of the car's extent [m] along the road."""
    return abs(math.cos(car.heading)) * car.length / 2 + abs(math.sin(car.heading)) * car.width / 2
