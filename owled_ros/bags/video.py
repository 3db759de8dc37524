"""Video topics as images: H.264, H.265 and the like, packet by packet. Needs PyAV (`pip install av`), an optional package.

A packet shows something only together with those before it, so every packet is decoded, in the order of the recording, from the
first key frame on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from owled_ros.errors import OwledError

CODECS = {  # what messages say: what the decoder is called
    "h264": "h264", "avc": "h264", "x264": "h264", "h265": "hevc", "hevc": "hevc", "x265": "hevc", "av1": "av1", "vp9": "vp9", "vp8": "vp8",
}  # fmt: skip
HOW_TO = (
    "install PyAV (pip install av), or convert the topic to sensor_msgs/CompressedImage with JPEG, "
    "for example with image_transport republish while the bag plays"
)


def codec_of(message: Any) -> str:
    """Return the video codec of an image message, empty for a still image; raises OwledError for one that is not known."""
    word = str(getattr(message, "format", "") or getattr(message, "encoding", "")).lower()
    codec = next((codec for name, codec in CODECS.items() if name in word), "")
    if not codec and not hasattr(message, "format") and hasattr(message, "pts"):
        raise OwledError(f"video of encoding {word!r} is not known; expected one of {', '.join(CODECS)}")
    return codec


class VideoStream:
    """Decodes the packets of one topic."""

    def __init__(self, codec: str, topic: str) -> None:
        """Open the decoder; raises OwledError where it is not installed."""
        try:
            import av
        except ImportError as error:
            raise OwledError(f"{topic} is a {codec} video; {HOW_TO}") from error
        self._av, self._codec, self._topic = av, codec, topic
        self._context: Any = None
        self._fed = self._shown = 0
        self.fault = ""  # the first one

    @property
    def unreadable(self) -> str:
        """Why not a single image came out; empty when one did, or nothing was fed."""
        if self._shown or not self._fed:
            return ""
        why = self.fault or "it holds no key frame"
        return f"{self._topic} is a {self._codec} video that gives no image in {self._fed} packets ({why})"

    def feed(self, number: int, data: bytes) -> list[tuple[int, np.ndarray]]:
        """Decode a packet; returns what has become visible: (number of its packet, (H, W, 3) uint8 RGB)."""
        self._fed += 1
        packet = self._av.Packet(data)
        packet.pts = packet.dts = number
        return self._decoded(packet)

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """Return the images that the decoder still holds, and start over."""
        left = [] if self._context is None else self._decoded(None)
        self._context = None
        return left

    def _decoded(self, packet: Any) -> list[tuple[int, np.ndarray]]:
        if self._context is None:
            self._context = self._av.CodecContext.create(self._codec, "r")
            self._context.thread_count = 1
            self._context.flags |= self._av.codec.context.Flags.low_delay
        try:
            frames = self._context.decode(packet)
        except (self._av.FFmpegError, ValueError) as error:
            self.fault = self.fault or str(error)
            return []
        shown = [(int(frame.pts), frame.to_ndarray(format="rgb24")) for frame in frames if not frame.is_corrupt]
        self._shown += len(shown)
        return shown
