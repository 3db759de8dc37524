"""The newest objects and traffic lights, and what of them belongs to a frame. Needs driving.perceived.

The node and the reader of bags both put the surroundings of a frame together here. Objects are carried on with their velocity to
the frame's stamp and turned into its base_link: with the vehicle's pose where they come in its frame (Autoware: map), or with
the motion since where they come in base_link.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.needs import InputNeeds, SurroundingsNeed
from owled_ros.driving.perceived import road_users_of, traffic_lights_of
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, nearest_first
from owled_ros.errors import OwledError

BASE_FRAME = "base_link"
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
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._objects.clear()
            self._lights.clear()

    def hear_objects(self, stamp: int, message: Any) -> None:
        """Take objects, stamp in [ns]."""
        self._hear(self._objects, stamp, message)

    def hear_lights(self, stamp: int, message: Any) -> None:
        """Take traffic lights, stamp in [ns]."""
        self._hear(self._lights, stamp, message)

    def at(self, stamp: int, needs: InputNeeds, vehicle: Localised) -> Surroundings | None:
        """Return what is around at `stamp` [ns], as far as it is asked for; None where nothing is.

        Raises:
            SurroundingsError: something required is missing, too old or not to be used.
        """
        if needs.objects is None and needs.lights is None:
            return None
        objects = self._known(
            "objects", self._objects, stamp, needs.objects, lambda at, item: _placed(item, at, stamp, vehicle)
        )
        lights = self._known(
            "traffic lights", self._lights, stamp, needs.lights, lambda _, item: traffic_lights_of(item)
        )
        return Surroundings(objects, lights)

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
    if needs.objects is None and needs.lights is None:
        return None
    car = RoadUser(20.0, 0.0, 0.0, 4.5, 1.8, 5.0, 0.0, RoadUserClass.CAR, 1.5)
    return Surroundings(None if needs.objects is None else (car,), None if needs.lights is None else ())


def _placed(message: Any, at: int, stamp: int, vehicle: Localised) -> tuple[RoadUser, ...]:
    """Bring objects into base_link of the frame, nearest first; raises OwledError where it is not known how."""
    frame = str(message.header.frame_id).strip("/")
    origin = _origin(frame, at, stamp, vehicle)
    seconds = (stamp - at) / NANOSECONDS
    return nearest_first(tuple(item.moved(seconds).seen_from(origin) for item in road_users_of(message)))


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
