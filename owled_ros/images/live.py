"""Live image messages as images: our own decoder, and a sound cv_bridge for encodings that it does not know. Needs cv2.

cv_bridge is tried in a child process first (a build against another NumPy can crash, or return wrong pixels silently), and
never gets padded rows: some versions shear them (see docs/node.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from owled_ros.bags.images import ENCODINGS, MAX_PIXELS, decode_image, looks_sound
from owled_ros.driving.frame import check_image
from owled_ros.errors import OwledError
from owled_ros.images.bridge_check import cv_bridge_problem, has_cv_bridge

OWN = "own"
Decoder = Callable[[Any], np.ndarray]


def make_decoder(choice: str, max_pixels: int = MAX_PIXELS) -> tuple[Decoder, str]:
    """Return the decoder and its name; choice "auto" looks for a sound cv_bridge once, "own" does not."""
    if choice == "auto" and has_cv_bridge() and not cv_bridge_problem():
        return functools.partial(decode_with_bridge, max_pixels=max_pixels), "own, cv_bridge for unusual encodings"
    return functools.partial(decode_image, max_pixels=max_pixels), OWN


def may_hold_image(message: Any, max_pixels: int, any_encoding: bool) -> bool:
    """Tell quickly whether a message may hold an image; with `any_encoding` a cv_bridge knows what our decoder does not."""
    known = hasattr(message, "format") or message.encoding in ENCODINGS
    return (any_encoding and not known) or looks_sound(message, max_pixels)


def decode_with_bridge(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode what our decoder knows with it, everything else with cv_bridge; (H, W, 3) uint8 RGB."""
    if hasattr(message, "format") or message.encoding in ENCODINGS:
        return decode_image(message, max_pixels)
    if message.width * message.height > max_pixels or message.step * message.height > len(message.data):
        raise OwledError(
            f"image of {message.width}x{message.height} with step {message.step} holds {len(message.data)} bytes; "
            f"expected whole rows, and at most {max_pixels} pixels"
        )
    from cv_bridge import CvBridge, CvBridgeError

    try:
        image = np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except (CvBridgeError, TypeError, ValueError, KeyError) as error:
        raise OwledError(
            f"cv_bridge cannot decode {message.encoding!r} ({error}); expected a colour or grey image"
        ) from error
    check_image(image)
    return image
