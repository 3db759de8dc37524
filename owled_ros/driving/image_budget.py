"""Images as a model is shown them: cropped, of a size, within a number of pixels. Needs numpy and OpenCV."""

from __future__ import annotations

import math

import cv2
import numpy as np

from owled_ros.driving.frame import MIN_IMAGE_SIDE
from owled_ros.driving.profile_parts import Camera, Crop
from owled_ros.driving.shrinking import shrunk
from owled_ros.errors import OwledError


def prepared(image: np.ndarray, camera: Camera, past: bool = False) -> np.ndarray:
    """Prepare an image (H, W, 3) of a camera; one that is as it should be is given back itself."""
    image = cropped(image, camera.crop)
    if camera.size is not None:
        return resized(image, camera.size)
    image = shrunk(image, camera.max_pixels)
    return shrunk(image, camera.past_max_pixels) if past else image


def cropped(image: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut off the sides; no row or column is left that lies partly outside."""
    if crop == Crop():
        return image
    height, width = image.shape[:2]
    top, left = math.ceil(crop.top * height), math.ceil(crop.left * width)
    bottom, right = math.floor((1 - crop.bottom) * height), math.floor((1 - crop.right) * width)
    if min(bottom - top, right - left) < MIN_IMAGE_SIDE:
        raise OwledError(f"the profile's crop leaves nothing of an image of {width}x{height}; expected a larger image")
    return image[top:bottom, left:right]


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring an image to (width, height) [px], whatever its shape was."""
    if image.shape[1::-1] == size:
        return image
    shrinks = image.shape[1] >= size[0] and image.shape[0] >= size[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
