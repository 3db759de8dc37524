"""The images of one camera around the moment that is being put together. Needs bags.images, and bags.video for video topics.

Images wait encoded; one that is shown is decoded once and shrunk once, to what the model looks at now and to what it looks
at later. What no frame can show any more is forgotten. Videos are decoded as they come.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosbags.interfaces import Connection

from owled_ros.bags.conversions import VIDEO_TYPES
from owled_ros.bags.images import decode_image
from owled_ros.bags.message_types import IMAGE
from owled_ros.bags.messages import MessageDecoder
from owled_ros.bags.video import VideoStream, codec_of
from owled_ros.driving.needs import CameraNeed
from owled_ros.driving.shrinking import shrunk
from owled_ros.errors import OwledError


@dataclass
class HeldImage:
    """One image message; what it was decoded to, once someone looked at it."""

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

    def __init__(self, need: CameraNeed, decode: MessageDecoder, keeps_past: bool) -> None:
        self.need = need
        self._decode, self._keeps_past = decode, keeps_past
        self._held: list[HeldImage] = []
        self._is_video: bool | None = None  # None until the first message
        self._stream: VideoStream | None = None
        self._in_stream: dict[int, HeldImage] = {}  # packets whose image has not come out
        self._unreadable = ""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Memory [bytes]."""
        return sum(held.size for held in self._held)

    @property
    def unreadable(self) -> str:
        """Why no image of this camera can be decoded here at all."""
        return self._unreadable or (self._stream.unreadable if self._stream is not None else "")

    def add(self, held: HeldImage) -> None:
        """Store an image in its place."""
        bisect.insort(self._held, held, key=_stamp)
        if self._is_video is None or self._is_video:
            self._add_video(held)

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
        if self._is_video:
            raise OwledError(self.unreadable or self._video_fault())
        message = self._decode(held.connection, held.data)
        held.frame_id = _frame_id(message)
        self._keep(held, decode_image(message))
        return held.past if past and held.past is not None else held.now  # type: ignore[return-value]

    def settle(self, stamp: int) -> None:
        """Drop what only the present needed, for images older than `stamp` [ns]."""
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

    def finish(self) -> None:
        """Nothing more comes: let a video show what it still holds."""
        if self._stream is not None:
            self._show(self._stream.finish())

    def clear(self) -> None:
        """Forget everything."""
        self.finish()
        self._held.clear()
        self._in_stream.clear()

    def _add_video(self, held: HeldImage) -> None:
        """Decode what belongs to a video; find out with the first message whether it does."""
        kind = held.connection.msgtype
        if self._is_video is None and kind == IMAGE:
            self._is_video = False
            return
        try:
            message = self._decode(held.connection, held.data)
            if self._is_video is None:
                codec = codec_of(message)
                self._is_video = bool(codec) or kind in VIDEO_TYPES
                if not self._is_video:
                    return
                self._stream = VideoStream(codec, held.connection.topic)
        except OwledError as error:
            if kind in VIDEO_TYPES or self._is_video:
                self._is_video, self._unreadable = True, self._unreadable or str(error)
            return
        if self._stream is None:
            return
        held.frame_id = _frame_id(message)
        self._in_stream[held.index] = held
        self._show(self._stream.feed(held.index, bytes(message.data)))
        held.data = b""

    def _show(self, images: list[tuple[int, np.ndarray]]) -> None:
        for number, image in images:
            for earlier in [index for index in self._in_stream if index < number]:
                del self._in_stream[earlier]  # what was not shown in its turn never will be
            held = self._in_stream.pop(number, None)
            if held is not None:
                self._keep(held, image)

    def _keep(self, held: HeldImage, image: np.ndarray) -> None:
        held.now = shrunk(image, self.need.max_pixels)
        if self._keeps_past:
            held.past = shrunk(held.now, self.need.past_max_pixels)

    def _video_fault(self) -> str:
        fault = self._stream.fault if self._stream is not None else ""
        return f"an image of the video did not come out ({fault or 'before its first key frame, or a packet was lost'})"


def _stamp(held: HeldImage) -> int:
    return held.stamp


def _frame_id(message: Any) -> str:
    return str(message.header.frame_id if hasattr(message, "header") else message.frame_id)
