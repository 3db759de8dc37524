"""The newest objects, traffic lights and route, and what of them belongs to a frame. Needs driving.perceived.

The node and the reader of bags both put the surroundings of a frame together here. Objects are carried on with their velocity to
the frame's stamp and turned into its base_link: with the vehicle's pose where they come in its frame (Autoware: map), or with
the motion since where they come in base_link; so is the route. Lights stand along it where their place is told, by themselves or by a
table of stop lines that the map's numbers name.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.needs import InputNeeds, SurroundingsNeed
from owled_ros.driving.number_table import is_table
from owled_ros.driving.perceived import road_users_of, traffic_lights_of
from owled_ros.driving.perceived_tables import stop_lines_in
from owled_ros.driving.route_line import AHEAD_M, STEP_M, RouteLine, distance_along, places_of
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, TrafficLight, nearest_first
from owled_ros.errors import OwledError

BASE_FRAME = "base_link"
KEPT_ROUTES = 20  # messages; planners send 10 a second, and each may hold thousands of places
KEPT = 100  # messages of each kind; perception sends 10 a second, and bags are read half a second ahead


class SurroundingsError(OwledError):
    """What the profile asks for is not there; `stale` where it is only too old."""

    def __init__(self, words: str, stale: bool = False) -> None:
        super().__init__(words)
        self.stale = stale


@dataclass(frozen=True)
class Localised:
    """The vehicle at the frame's stamp and, where objects are older, at theirs."""

    frame_id: str  # of the poses: that of the odometry; empty where it has none
    state_at: Callable[[int], EgoState | None]


class Around:
    """Heard in one thread, asked in another; messages are looked into only when a frame needs them."""

    def __init__(self) -> None:
        self._objects: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        self._lights: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        self._routes: deque[tuple[int, Any]] = deque(maxlen=KEPT_ROUTES)
        self._stop_lines: tuple[int, Any] | None = None
        self._line: tuple[Any, RouteLine] | None = None  # of the route message that was looked at last
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._objects.clear()
            self._lights.clear()
            self._routes.clear()
            self._stop_lines = None

    def hear_objects(self, stamp: int, message: Any) -> None:
        """Take objects, stamp in [ns]."""
        self._hear(self._objects, stamp, message)

    def hear_lights(self, stamp: int, message: Any) -> None:
        """Take traffic lights, stamp in [ns]."""
        self._hear(self._lights, stamp, message)

    def hear_route(self, stamp: int, message: Any) -> None:
        """Take a route as points, stamp in [ns]."""
        self._hear(self._routes, stamp, message)

    def hear_stop_lines(self, stamp: int, message: Any) -> None:
        """Take a table of stop lines, stamp in [ns]: the newest one counts, however old it is."""
        with self._lock:
            self._stop_lines = (stamp, message)

    def at(self, stamp: int, needs: InputNeeds, vehicle: Localised) -> Surroundings | None:
        """Return what is around at `stamp` [ns], as far as it is asked for; None where nothing is.

        Raises:
            SurroundingsError: something required is missing, too old or not to be used.
        """
        if (needs.objects, needs.lights, needs.route) == (None, None, None):
            return None
        objects = self._known(
            "objects", self._objects, stamp, needs.objects, lambda at, item: _placed(item, at, stamp, vehicle)
        )
        route = self._known(
            "route points", self._routes, stamp, needs.route, lambda at, item: self._ahead(item, at, stamp, vehicle)
        )
        lights = self._known(
            "traffic lights", self._lights, stamp, needs.lights,
            lambda at, item: traffic_lights_of(item) if needs.route is None else self._along(item, at, stamp, vehicle, route or ()),
        )  # fmt: skip
        return Surroundings(objects, lights, route or ())

    def _ahead(self, message: Any, at: int, stamp: int, vehicle: Localised) -> tuple[Pose, ...]:
        """Return the route ahead of the vehicle; the line of a message that comes once is made once."""
        known = self._line
        if known is None or known[0] is not message:
            known = self._line = (message, RouteLine(places_of(message)))
        return known[1].ahead(_origin(_frame_of(message), at, stamp, vehicle))

    def _along(
        self, message: Any, at: int, stamp: int, vehicle: Localised, route: tuple[Pose, ...]
    ) -> tuple[TrafficLight, ...]:
        """Return the lights with their distance along the route, as far as their place is told."""
        lights = traffic_lights_of(message)
        if is_table(message):
            origin = _origin(_frame_of(message), at, stamp, vehicle)
            return tuple(_ahead_of(item, () if item.place is None else (item.place,), origin, route) for item in lights)
        with self._lock:
            told = self._stop_lines
        if told is None:
            return lights
        places = stop_lines_in(told[1])
        origin = _origin(_frame_of(told[1]), told[0], stamp, vehicle)
        return tuple(_ahead_of(item, places.get(item.group, ()), origin, route) for item in lights)

    def _hear(self, kept: deque[tuple[int, Any]], stamp: int, message: Any) -> None:
        with self._lock:
            if kept and stamp < kept[-1][0] - NANOSECONDS:  # the clock restarted
                kept.clear()
            kept.append((stamp, message))

    def _known(
        self,
        what: str,
        kept: deque[tuple[int, Any]],
        stamp: int,
        need: SurroundingsNeed | None,
        convert: Callable[[int, Any], Any],
    ) -> Any:
        if need is None:
            return None
        try:
            at, message = self._newest(what, kept, stamp, need)
            return convert(at, message)
        except OwledError as error:
            if not need.required:
                return None
            if isinstance(error, SurroundingsError):
                raise
            raise SurroundingsError(f"the {what} are of no use: {error}") from error

    def _newest(self, what: str, kept: deque[tuple[int, Any]], stamp: int, need: SurroundingsNeed) -> tuple[int, Any]:
        """Return the newest message that is not of the future of the frame."""
        with self._lock:
            past = [item for item in kept if item[0] <= stamp]
            any_came = bool(kept)
        if not any_came:
            raise SurroundingsError(f"the model asks for {what} and none have come")
        newest = max(past, key=lambda item: item[0], default=None)
        age = math.inf if newest is None else (stamp - newest[0]) / NANOSECONDS
        if newest is None or age > need.max_age_s:
            known = "all newer than the image" if newest is None else f"{age:.3f} s older than the image"
            raise SurroundingsError(f"the {what} are {known}; the limit is {need.max_age_s:g} s", stale=True)
        return newest


def made_up_surroundings(needs: InputNeeds) -> Surroundings | None:
    """Make what a profile asks for: a car ahead on a road without traffic lights; for warm-ups and for trying a profile."""
    if (needs.objects, needs.lights, needs.route) == (None, None, None):
        return None
    car = RoadUser(20.0, 0.0, 0.0, 4.5, 1.8, 5.0, 0.0, RoadUserClass.CAR, 1.5)
    route = () if needs.route is None else tuple(Pose(x * STEP_M, 0.0, 0.0) for x in range(round(AHEAD_M / STEP_M)))
    return Surroundings(None if needs.objects is None else (car,), None if needs.lights is None else (), route)


def _placed(message: Any, at: int, stamp: int, vehicle: Localised) -> tuple[RoadUser, ...]:
    """Bring objects into base_link of the frame, nearest first; raises OwledError where it is not known how."""
    origin = _origin(_frame_of(message), at, stamp, vehicle)
    seconds = (stamp - at) / NANOSECONDS
    return nearest_first(tuple(item.moved(seconds).seen_from(origin) for item in road_users_of(message)))


def _ahead_of(
    light: TrafficLight, places: tuple[tuple[float, float], ...], origin: Pose, route: tuple[Pose, ...]
) -> TrafficLight:
    """Place a light that is told for several lanes at the one of the route."""
    for place in places:
        here = Pose(*place, 0.0).seen_from(origin)
        distance = distance_along(route, (here.x, here.y))
        light = replace(light, place=(here.x, here.y), distance=distance)
        if distance is not None:
            break
    return light


def _frame_of(message: Any) -> str:
    return str(message.header.frame_id).strip("/")


def _origin(frame: str, at: int, stamp: int, vehicle: Localised) -> Pose:
    """Return the vehicle at `stamp`, in the frame of objects of the time `at`."""
    now = vehicle.state_at(stamp)
    if frame == BASE_FRAME:
        if at == stamp:
            return Pose(0.0, 0.0, 0.0)
        then = vehicle.state_at(at)
        if now is None or then is None:
            raise OwledError(f"nothing tells how the vehicle moved since they were seen, {(stamp - at) / 1e9:g} s ago")
        return _way(then, now, (stamp - at) / NANOSECONDS)
    if frame != vehicle.frame_id.strip("/"):
        told = f"that of the odometry is {vehicle.frame_id}" if vehicle.frame_id else "the odometry names none"
        raise OwledError(f"they are in frame {frame!r}; expected {BASE_FRAME} or the frame of the odometry ({told})")
    if now is None or now.pose is None:
        raise OwledError(f"they are in frame {frame!r} and the odometry has no pose in it")
    return now.pose


def _way(then: EgoState, now: EgoState, seconds: float) -> Pose:
    """Return the vehicle now as seen from then: by the poses, or by mean speed and yaw rate."""
    if then.pose is not None and now.pose is not None:
        return now.pose.seen_from(then.pose)
    speed, turned = 0.5 * (then.speed + now.speed), 0.5 * (then.yaw_rate + now.yaw_rate) * seconds
    return Pose(speed * seconds * math.cos(turned / 2), speed * seconds * math.sin(turned / 2), turned)
