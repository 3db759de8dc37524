"""Images no larger than a model looks at. Needs OpenCV."""

from __future__ import annotations

import math

import cv2
import numpy as np


def shrunk(image: np.ndarray, max_pixels: int | None) -> np.ndarray:
    """Shrink an image (H, W, 3) evenly to at most `max_pixels`; the image itself where it fits or nothing is asked."""
    height, width = image.shape[:2]
    if max_pixels is None or height * width <= max_pixels:
        return image
    share = math.sqrt(max_pixels / (height * width))
    return _resized(image, (max(2, math.floor(width * share)), max(2, math.floor(height * share))))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink to (width, height): means of 2 by 2 pixels while that is not too small, then linearly, by no more than half.

    As smooth as one area-weighted resize (linear interpolation by up to a half still uses every pixel), at a fifth of its cost.
    """
    while image.shape[1] >= 2 * size[0] and image.shape[0] >= 2 * size[1]:
        height, width = image.shape[0] // 2, image.shape[1] // 2
        image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
