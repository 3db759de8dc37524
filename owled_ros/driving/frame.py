"""One camera image with the ego state of the same moment: what every part of the package sees. Needs numpy.

Frames: base_link, x forward, y left; angles left positive. Stamps are nanoseconds of the message clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from owled_ros.errors import OwledError

NANOSECONDS = 1_000_000_000
MIN_IMAGE_SIDE = 2  # [px]


@dataclass(frozen=True)
class EgoState:
    """Motion of the vehicle at one moment."""

    stamp: int  # [ns]
    speed: float  # [m/s], forward positive
    yaw_rate: float = 0.0  # [rad/s], left positive

    def is_finite(self) -> bool:
        """Tell whether every number can be used."""
        return math.isfinite(self.speed) and math.isfinite(self.yaw_rate)


@dataclass(frozen=True)
class Frame:
    """An image, its stamp and the ego state interpolated to that stamp."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    stamp: int  # [ns]
    ego: EgoState
    frame_id: str = ""

    def __post_init__(self) -> None:
        check_image(self.image)


def check_image(image: np.ndarray) -> None:
    """Raise OwledError unless the array is an image (H, W, 3) uint8 of at least 2 by 2 pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise OwledError(f"image has shape {image.shape} and type {image.dtype}; expected (height, width, 3) uint8 RGB")
    if min(image.shape[:2]) < MIN_IMAGE_SIDE:
        raise OwledError(
            f"image is {image.shape[1]}x{image.shape[0]}; expected at least {MIN_IMAGE_SIDE}x{MIN_IMAGE_SIDE}"
        )


class EgoHistory:
    """The last ego states in order of their stamps; answers with the state at any recent moment."""

    def __init__(self, capacity: int = 200) -> None:
        self._states: deque[EgoState] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._states)

    def add(self, state: EgoState) -> bool:
        """Store a state; a stamp that runs backwards clears the history first. Returns False when it did."""
        jumped = bool(self._states) and state.stamp < self._states[-1].stamp
        if jumped:
            self._states.clear()
        self._states.append(state)
        return not jumped

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()

    @property
    def newest(self) -> EgoState | None:
        """The state with the latest stamp."""
        return self._states[-1] if self._states else None

    def at(self, stamp: int, max_gap: int) -> EgoState | None:
        """Interpolate linearly to `stamp` [ns]; beyond the ends the nearest state holds for `max_gap` [ns], then None."""
        after = None
        for state in reversed(self._states):
            if state.stamp <= stamp:
                return _between(state, after, stamp, max_gap)
            after = state
        if after is not None and after.stamp - stamp <= max_gap:
            return EgoState(stamp, after.speed, after.yaw_rate)
        return None


def _between(before: EgoState, after: EgoState | None, stamp: int, max_gap: int) -> EgoState | None:
    if after is None or after.stamp - before.stamp > 2 * max_gap:
        nearest = before
        if after is not None and after.stamp - stamp < stamp - before.stamp:
            nearest = after
        return EgoState(stamp, nearest.speed, nearest.yaw_rate) if abs(stamp - nearest.stamp) <= max_gap else None
    share = (stamp - before.stamp) / max(after.stamp - before.stamp, 1)
    return EgoState(
        stamp,
        before.speed + share * (after.speed - before.speed),
        before.yaw_rate + share * (after.yaw_rate - before.yaw_rate),
    )
