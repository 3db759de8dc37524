"""What a model is shown at one moment: images of one or several cameras, the ego state and its past, the command, what is around.

Needs numpy. Frames: base_link, x forward, y left; angles left positive. Stamps are nanoseconds of the message clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from owled_ros.driving.ego import NANOSECONDS, EgoHistory, EgoState, Pose
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.surroundings import Surroundings
from owled_ros.errors import OwledError

__all__ = ["NANOSECONDS", "EgoHistory", "EgoState", "Frame", "Pose", "View", "check_image"]
MIN_IMAGE_SIDE = 2  # [px]


@dataclass(frozen=True)
class View:
    """One image of one camera, now or in the past."""

    camera: str  # its name in the profile
    image: np.ndarray  # (H, W, 3) uint8, RGB
    stamp: int  # [ns]
    frame_id: str = ""

    def __post_init__(self) -> None:
        check_image(self.image)


@dataclass(frozen=True)
class Frame:
    """One moment; a model of one camera and one image needs no more than the first four fields."""

    image: np.ndarray  # (H, W, 3) uint8, RGB: the newest image of the first camera
    stamp: int  # [ns], of that image
    ego: EgoState  # at the stamp
    frame_id: str = ""
    views: tuple[
        View, ...
    ] = ()  # every image in the order of the prompt (camera by camera, oldest first); empty: only `image`
    past: tuple[EgoState, ...] = ()  # in the order of the profile's offsets, poses in base_link of the stamp
    command: NavigationCommand | None = None
    around: Surroundings | None = None  # None: the profile does not ask for it

    def __post_init__(self) -> None:
        check_image(self.image)

    @property
    def images(self) -> tuple[np.ndarray, ...]:
        """Every image in the order of the prompt."""
        return tuple(view.image for view in self.views) or (self.image,)

    def showing(self, images: Sequence[np.ndarray]) -> Frame:
        """Return the same moment with other images, as many as `images` has."""
        if len(images) != len(self.images):
            raise OwledError(f"{len(images)} images for a frame of {len(self.images)}")
        views = tuple(replace(view, image=image) for view, image in zip(self.views, images, strict=False))
        newest = next((index for index, view in enumerate(self.views) if view.image is self.image), 0)
        return replace(self, image=images[newest], views=views)


def check_image(image: np.ndarray) -> None:
    """Raise OwledError unless the array is an image (H, W, 3) uint8 of at least 2 by 2 pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise OwledError(f"image has shape {image.shape} and type {image.dtype}; expected (height, width, 3) uint8 RGB")
    if min(image.shape[:2]) < MIN_IMAGE_SIDE:
        raise OwledError(
            f"image is {image.shape[1]}x{image.shape[0]}; expected at least {MIN_IMAGE_SIDE}x{MIN_IMAGE_SIDE}"
        )
