"""The images of one camera around the moment that is being put together. Needs bags.images.

Images wait encoded; one that is shown is decoded once and shrunk once, to what the model looks at now and to what it looks
at later. What no frame can show any more is forgotten.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosbags.interfaces import Connection

from owled_ros.bags.images import decode_image
from owled_ros.driving.needs import CameraNeed
from owled_ros.driving.shrinking import shrunk

Decode = Callable[[Connection, bytes | memoryview], Any]


@dataclass
class HeldImage:
    """One image message; what it was decoded to, once somebody looked at it."""

    stamp: int  # [ns]
    index: int  # of the message among those of its camera
    received: int  # [ns]
    connection: Connection
    data: bytes | memoryview  # empty once everything that may be shown is decoded
    frame_id: str = ""
    now: np.ndarray | None = None
    past: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Memory [bytes]."""
        decoded = {id(image): image.nbytes for image in (self.now, self.past) if image is not None}
        return len(self.data) + sum(decoded.values())


class CameraImages:
    """Images of one camera in the order of their stamps."""

    def __init__(self, need: CameraNeed, decode: Decode, keeps_past: bool) -> None:
        self.need = need
        self._decode, self._keeps_past = decode, keeps_past
        self._held: list[HeldImage] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Memory [bytes]."""
        return sum(held.size for held in self._held)

    def add(self, held: HeldImage) -> None:
        """Store an image in its place."""
        bisect.insort(self._held, held, key=_stamp)

    def has(self, stamp: int) -> bool:
        """Tell whether an image of this stamp [ns] is there."""
        place = bisect.bisect_left(self._held, stamp, key=_stamp)
        return place < len(self._held) and self._held[place].stamp == stamp

    def after(self, stamp: int | None) -> HeldImage | None:
        """Return the first image behind a stamp [ns], the first of all without one."""
        place = 0 if stamp is None else bisect.bisect_right(self._held, stamp, key=_stamp)
        return self._held[place] if place < len(self._held) else None

    def nearest(self, stamp: int, tolerance: int) -> HeldImage | None:
        """Return the image nearest to a stamp [ns], within the tolerance [ns]."""
        place = bisect.bisect_left(self._held, stamp, key=_stamp)
        near = self._held[max(place - 1, 0) : place + 1]
        best = min(near, key=lambda held: abs(held.stamp - stamp), default=None)
        return best if best is not None and abs(best.stamp - stamp) <= tolerance else None

    def image(self, held: HeldImage, past: bool) -> np.ndarray:
        """Return the image as it is shown now, or in the past; raises OwledError when it cannot be decoded."""
        known = held.past if past else held.now
        if known is not None:
            return known
        message = self._decode(held.connection, held.data)
        image = decode_image(message)
        held.frame_id = str(message.header.frame_id)
        held.now = shrunk(image, self.need.max_pixels)
        if self._keeps_past:
            held.past = shrunk(held.now, self.need.past_max_pixels)
        return held.past if past and held.past is not None else held.now

    def settle(self, stamp: int) -> None:
        """Let go of what only the present needed, for images older than `stamp` [ns]."""
        for held in self._held:
            if held.stamp >= stamp:
                return
            if held.past is not None:
                held.now, held.data = None, b""

    def forget_before(self, stamp: int) -> None:
        """Forget images older than `stamp` [ns]."""
        del self._held[: bisect.bisect_left(self._held, stamp, key=_stamp)]

    def forget_oldest(self) -> None:
        """Forget the oldest image."""
        del self._held[:1]

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()


def _stamp(held: HeldImage) -> int:
    return held.stamp
