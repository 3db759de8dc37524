"""The last images of one camera, in order of their stamps; bounded in time, number and bytes. Needs numpy.

Not thread-safe: whoever owns the ring (onboard.views) holds a lock. Only decoding, which takes long, has one of its own.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from owled_ros.driving.ego import LATE_S, NANOSECONDS
from owled_ros.driving.needs import CameraNeed
from owled_ros.driving.shrinking import shrunk

SPACING_S = 0.045  # [s] between two images that are kept: faster cameras are thinned out
KEPT_S = 1.0  # [s] that images are kept for frames that are late
MAX_BYTES = 256 << 20  # [bytes] per camera
MAX_WAITING = 16  # images of one camera that wait to be decoded; older ones are left out


class Sight:
    """One image: the message until it is decoded, then what is left of it."""

    def __init__(self, message: Any, stamp: int, frame_id: str) -> None:
        self.stamp, self.frame_id = stamp, frame_id
        self.size: tuple[int, int] | None = None  # (width, height) [px], as it was sent
        self.current: np.ndarray | None = None  # (H, W, 3) uint8 RGB, as small as the image of now may be
        self.past: np.ndarray | None = None  # as small as a past image may be
        self.problem = ""  # why it cannot be used
        self.fresh = True  # not decoded yet
        self._message = message
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Memory that it keeps."""
        message, current, past = self._message, self.current, self.past
        held = 0 if message is None else len(getattr(message, "data", b""))
        held += 0 if current is None else current.nbytes
        return held + (0 if past is None or past is current else past.nbytes)

    def develop(self, decode: Callable[[Any], np.ndarray], need: CameraNeed, past: bool) -> None:
        """Decode and shrink, once, whoever comes first; what goes wrong is kept in words."""
        with self._lock:
            if not self.fresh:
                return
            message, self._message = self._message, None
            try:
                image = decode(message)
                self.size = (image.shape[1], image.shape[0])
                self.current = shrunk(image, need.max_pixels)
                if past:
                    self.past = shrunk(self.current, need.past_max_pixels)
            except Exception as error:  # whatever a decoder meets, the image is of no use and the words are kept
                self.problem = str(error) or type(error).__name__
                self.current = self.past = None
            self.fresh = False

    def outdated(self) -> None:
        """Keep only what a past image needs."""
        self.current = None


class ImageRing:
    """Sights of one camera, oldest first."""

    def __init__(self, need: CameraNeed, past_s: float) -> None:
        self.need, self.past_s = need, past_s
        self.left_out = 0  # images that were never decoded, because newer ones came
        self._sights: list[Sight] = []

    def __len__(self) -> int:
        return len(self._sights)

    @property
    def held_bytes(self) -> int:
        """Memory of all images."""
        return sum(sight.held_bytes for sight in self._sights)

    def clear(self) -> None:
        """Forget everything."""
        self._sights.clear()

    def add(self, sight: Sight) -> None:
        """Put an image in its place; one far behind the newest starts over."""
        sights = self._sights
        if sights and sight.stamp < sights[-1].stamp - round(LATE_S * NANOSECONDS):
            sights.clear()
        if not sights or sight.stamp > sights[-1].stamp:
            self._thin_out()
            sights.append(sight)
        else:
            place = bisect.bisect_left(sights, sight.stamp, key=_stamp)
            same = sights[place].stamp == sight.stamp
            sights[place : place + same] = [sight]
        self._trim()

    def nearest(self, stamp: int) -> Sight | None:
        """Return the image whose stamp is nearest."""
        place = bisect.bisect_left(self._sights, stamp, key=_stamp)
        near = self._sights[max(place - 1, 0) : place + 1]
        return min(near, key=lambda sight: abs(sight.stamp - stamp)) if near else None

    def near(self, stamp: int, tolerance: int) -> list[Sight]:
        """Return the images within `tolerance` [ns], nearest first."""
        first = bisect.bisect_left(self._sights, stamp - tolerance, key=_stamp)
        last = bisect.bisect_right(self._sights, stamp + tolerance, key=_stamp)
        return sorted(self._sights[first:last], key=lambda sight: abs(sight.stamp - stamp))

    def waiting(self) -> Sight | None:
        """Return the oldest image that has not been decoded."""
        fresh = [sight for sight in self._sights if sight.fresh]
        return fresh[0] if fresh else None

    def better_to_come(self, stamp: int) -> bool:
        """Tell whether the next image, if it comes as the last ones did, will be nearer to `stamp` than the newest."""
        if len(self._sights) < 2:
            return False
        newest = self._sights[-1].stamp
        period = min(newest - self._sights[-2].stamp, round(LATE_S * NANOSECONDS))
        return newest < stamp and abs(newest + period - stamp) < stamp - newest

    def _thin_out(self) -> None:
        """Drop the newest where it stands too near to its predecessor; a still newer one comes."""
        if len(self._sights) > 1:
            before, newest = self._sights[-2:]
            if newest.stamp - before.stamp < round(SPACING_S * NANOSECONDS):
                self._sights.pop()

    def _trim(self) -> None:
        sights = self._sights
        newest = sights[-1].stamp
        kept = newest - round(KEPT_S * NANOSECONDS)
        oldest = min(kept, newest - round((self.past_s + KEPT_S) * NANOSECONDS))
        del sights[: bisect.bisect_left(sights, oldest, key=_stamp)]
        if self.past_s > 0.0:
            for sight in sights[: bisect.bisect_left(sights, kept, key=_stamp)]:
                sight.outdated()
            self._leave_out()
        while len(sights) > 1 and self.held_bytes > MAX_BYTES:
            del sights[0]

    def _leave_out(self) -> None:
        """Forget undecoded images beyond the last few: decoding does not keep up."""
        fresh = [place for place, sight in enumerate(self._sights) if sight.fresh]
        for place in reversed(fresh[:-MAX_WAITING]):
            del self._sights[place]
            self.left_out += 1


def _stamp(sight: Sight) -> int:
    return sight.stamp
