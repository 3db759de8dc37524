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
    size = (max(2, math.floor(width * share)), max(2, math.floor(height * share)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
