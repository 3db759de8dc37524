"""The images of every camera, now and in the recent past: a ring per camera; each image is decoded once and shrunk once. Needs numpy.

Images are stored as they come (`add`, from the executor's thread). Where a profile looks at past images, a thread of its own
decodes and shrinks them as they come, so that no frame waits for that; otherwise they are decoded when a frame needs them.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from owled_ros.driving.ego import NANOSECONDS
from owled_ros.driving.frame import View
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.driving.prediction import Reason
from owled_ros.onboard.ring import ImageRing, Sight
from owled_ros.onboard.withheld import WithheldError

DIGEST_WAIT_S = 0.5


@dataclass(frozen=True)
class Arrival:
    """An image message as it came in."""

    message: Any
    stamp: int  # [ns]
    arrived: float  # [s] monotonic
    frame_id: str = ""
    camera: str = ""  # empty: the main camera


class ImageViews:
    """Rings for the cameras of the profile that drives, and of one that is about to."""

    def __init__(self, decode: Callable[[Any], np.ndarray]) -> None:
        self.frame_ids: Mapping[str, str] = {}  # camera: the frame_id that its images must have
        self._decode = decode
        self._rings: dict[tuple[CameraNeed, float, bool], ImageRing] = {}  # need, past [s], main camera
        self._first_ids: dict[str, str] = {}  # camera: frame_id of its first image
        self._changed = threading.Condition()
        self._digest: threading.Thread | None = None
        self._closed = False

    @property
    def held_bytes(self) -> int:
        """Memory of every image that is kept."""
        with self._changed:
            return sum(ring.held_bytes for ring in self._rings.values())

    def follow(self, *wanted: InputNeeds) -> None:
        """Keep what these profiles need from now on; what was kept for them stays."""
        keys = [key for needs in wanted if not needs.single for key in _keys(needs)]
        with self._changed:
            self._rings = {key: self._rings.get(key) or ImageRing(key[0], key[1]) for key in keys}
        if any(past_s > 0.0 for _, past_s, _ in keys) and self._digest is None:
            self._digest = threading.Thread(target=self._run, name="image history", daemon=True)
            self._digest.start()

    def clear(self) -> None:
        """Forget every image, as when the clock restarts or the node stops to listen."""
        with self._changed:
            self._first_ids.clear()
            for ring in self._rings.values():
                ring.clear()

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def add(self, arrival: Arrival) -> None:
        """Store an image of a camera; one that nobody needs is forgotten."""
        with self._changed:
            for (need, _, main), ring in self._rings.items():
                if main if not arrival.camera else need.name == arrival.camera and not main:
                    ring.add(Sight(arrival.message, arrival.stamp, arrival.frame_id))
                    self._changed.notify_all()

    def gather(
        self, needs: InputNeeds, arrival: Arrival, tolerance_s: float, wait_s: float
    ) -> tuple[np.ndarray, tuple[View, ...]]:
        """Return the main camera's image and every view in the order of the prompt; raises WithheldError for what is missing."""
        if needs.single:
            sight = Sight(arrival.message, arrival.stamp, arrival.frame_id)
            self._check_identity(needs.cameras[0].name, sight)
            sight.develop(self._decode, needs.cameras[0], past=False)
            return _current(sight, ""), ()
        keys = _keys(needs)
        with self._changed:
            rings = [self._rings.get(key) or ImageRing(key[0], key[1]) for key in keys]
        self._await_others(rings[1:], arrival.stamp, arrival.arrived + wait_s)
        views: list[View] = []
        main: np.ndarray | None = None
        for ring in rings:
            found = self._of_camera(ring, needs, arrival, main is None, round(tolerance_s * NANOSECONDS))
            main = found[-1].image if main is None else main
            views.extend(found)
        assert main is not None
        return main, tuple(views)

    def _of_camera(
        self, ring: ImageRing, needs: InputNeeds, arrival: Arrival, main: bool, tolerance: int
    ) -> list[View]:
        """Return the views of one camera, oldest first."""
        need, offsets = ring.need, needs.image_offsets_s[:-1]
        now = self._main(ring, arrival) if main else self._other(ring, arrival.stamp, tolerance)
        self._check_identity(need.name, now)
        now.develop(self._decode, need, past=bool(offsets))
        image = _current(now, need.name)
        near = min(tolerance, _half_interval(needs.image_offsets_s))
        views = [self._past(ring, arrival.stamp, offset, now, near) for offset in offsets]
        return [*views, View(need.name, image, now.stamp, now.frame_id)]

    def _main(self, ring: ImageRing, arrival: Arrival) -> Sight:
        with self._changed:
            found = ring.near(arrival.stamp, 0)
        # none when it was thinned out, or cleared in between
        return found[0] if found else Sight(arrival.message, arrival.stamp, arrival.frame_id)

    def _other(self, ring: ImageRing, stamp: int, tolerance: int) -> Sight:
        """Return the nearest image that can be decoded."""
        name = ring.need.name
        with self._changed:
            found, nearest = ring.near(stamp, tolerance), ring.nearest(stamp)
        if nearest is None:
            raise WithheldError(Reason.MISSING_VIEW, f"camera {name} has sent no image")
        if not found:
            side = "older" if nearest.stamp < stamp else "newer"
            raise WithheldError(
                Reason.STALE_VIEW,
                f"the nearest image of camera {name} is {abs(nearest.stamp - stamp) / NANOSECONDS:.3f} s {side} than "
                f"the main camera's; the limit is {tolerance / NANOSECONDS:g} s",
            )
        return self._first_usable(found, ring)

    def _past(self, ring: ImageRing, stamp: int, offset: float, now: Sight, tolerance: int) -> View:
        name = ring.need.name
        with self._changed:
            found = ring.near(stamp - round(offset * NANOSECONDS), tolerance)
        if not found:
            limit = tolerance / NANOSECONDS
            raise WithheldError(
                Reason.NO_HISTORY, f"camera {name} has no image of {offset:g} s ago within {limit:g} s (yet)"
            )
        sight = self._first_usable(found, ring)
        if sight.past is None:
            raise WithheldError(
                Reason.NO_HISTORY, f"the image of camera {name} {offset:g} s ago is of no use: {sight.problem}"
            )
        for what, before, after in (("size", sight.size, now.size), ("frame_id", sight.frame_id, now.frame_id)):
            if before != after:
                raise WithheldError(
                    Reason.NO_HISTORY,
                    f"camera {name} changed its {what} from {before} to {after} less than {offset:g} s ago",
                )
        return View(name, sight.past, sight.stamp, sight.frame_id)

    def _first_usable(self, found: list[Sight], ring: ImageRing) -> Sight:
        """Return the first that can be decoded, or the first where none can."""
        for sight in found:
            sight.develop(self._decode, ring.need, past=ring.past_s > 0.0)
            if not sight.problem:
                return sight
        return found[0]

    def _check_identity(self, camera: str, sight: Sight) -> None:
        """Refuse a camera that sends another one's images: of another frame_id than it should, or that another camera had at first."""
        wanted = self.frame_ids.get(camera, sight.frame_id)
        if sight.frame_id != wanted:
            raise WithheldError(
                Reason.MISSING_VIEW,
                f"camera {camera} sends images of frame_id {sight.frame_id!r}; expected {wanted!r} (cameras.frame_ids)",
            )
        if not sight.frame_id:
            return
        first = self._first_ids.setdefault(camera, sight.frame_id)
        others = [name for name, frame_id in self._first_ids.items() if name != camera and frame_id == sight.frame_id]
        if sight.frame_id != first and others:
            raise WithheldError(
                Reason.MISSING_VIEW,
                f"camera {camera} sends images of frame_id {sight.frame_id!r}, which are those of camera {others[0]}; "
                f"its own were {first!r}: the topics are exchanged",
            )

    def _await_others(self, others: list[ImageRing], stamp: int, until: float) -> None:
        """Wait while a better match may still come from one of the other cameras."""
        with self._changed:
            while any(ring.better_to_come(stamp) for ring in others) and not self._closed:
                left = until - time.monotonic()
                if left <= 0.0 or not self._changed.wait(left):
                    return

    def _run(self) -> None:
        """Decode and shrink what comes, oldest first."""
        while True:
            with self._changed:
                if self._closed:
                    return
                waiting = [(ring.waiting(), ring.need) for ring in self._rings.values()]
                fresh = [(sight, need) for sight, need in waiting if sight is not None]
                if not fresh:
                    self._changed.wait(DIGEST_WAIT_S)
                    continue
            for sight, need in fresh:
                sight.develop(self._decode, need, past=True)


def _keys(needs: InputNeeds) -> list[tuple[CameraNeed, float, bool]]:
    return [(need, needs.image_past_s, place == 0) for place, need in enumerate(needs.cameras)]


def _half_interval(offsets_s: tuple[float, ...]) -> int:
    """Return [ns] within which no image can stand for two moments."""
    intervals = [before - after for before, after in itertools.pairwise(offsets_s)]
    return round(0.5 * min(intervals) * NANOSECONDS) - 1 if intervals else 0


def _current(sight: Sight, camera: str) -> np.ndarray:
    if sight.current is None:
        prefix = f"camera {camera}: " if camera else ""
        raise WithheldError(Reason.BAD_IMAGE, f"{prefix}{sight.problem}")
    return sight.current
