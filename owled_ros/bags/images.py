"""Image messages as images (H, W, 3) uint8 RGB. Needs numpy, OpenCV and simplejpeg.

Unlike most decoders it honours `step` (padded rows) and byte order; rgb8 costs nothing, the array is a view.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import simplejpeg

from owled_ros.bags.image_header import START_OF_IMAGE, ends_whole, has_exif, image_size
from owled_ros.driving.frame import check_image
from owled_ros.errors import OwledError

# encoding: (channels, OpenCV conversion to RGB or None); the Bayer names of OpenCV are shifted by one pixel against ROS
BYTE_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BAYER_BG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BAYER_RG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BAYER_GR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BAYER_GB2RGB),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
}
WORD_ENCODINGS = {
    name.replace("8", "16"): value for name, value in BYTE_ENCODINGS.items() if name[-1] == "8" and name[0] in "rbm"
} | {"16UC1": (1, cv2.COLOR_GRAY2RGB), "16UC3": (3, cv2.COLOR_BGR2RGB)}
PLANAR_ENCODINGS = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
ENCODINGS = (*BYTE_ENCODINGS, *WORD_ENCODINGS, *PLANAR_ENCODINGS)
EVEN_WIDTH = ("uyvy", "yuv422", "yuyv", "yuv422_yuy2", *PLANAR_ENCODINGS)  # two pixels share their colour
MAX_PIXELS = 40_000_000  # 8K video has 33 million; 40 million take 120 MB as RGB


def decode_image(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a sensor_msgs Image or CompressedImage; raises OwledError with what is wrong about it.

    Images with more than `max_pixels` are refused before they cost memory.
    """
    try:
        compressed = hasattr(message, "format")
        image = _decode_compressed(message, max_pixels) if compressed else _decode_raw(message, max_pixels)
    except cv2.error as error:
        raise OwledError(
            f"OpenCV cannot convert an image ({str(error).strip()}); expected a colour or grey image"
        ) from error
    check_image(image)
    return image


def looks_sound(message: Any, max_pixels: int = MAX_PIXELS) -> bool:
    """Tell by its fields and first bytes whether a message may hold an image; costs microseconds, decodes nothing."""
    try:
        if hasattr(message, "format"):
            _encoded(message, max_pixels)
        else:
            _pixels(message, max_pixels)
    except OwledError:
        return False
    return True


def _decode_compressed(message: Any, max_pixels: int) -> np.ndarray:
    data = _encoded(message, max_pixels)
    if bytes(data[:2]) == START_OF_IMAGE:
        return _decode_jpeg(data)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise OwledError(
            f"image of format {message.format!r} with {len(message.data)} bytes is damaged; OpenCV cannot decode it"
        )
    return image


def _decode_jpeg(data: np.ndarray) -> np.ndarray:
    """Decode a JPEG, and refuse what the decoder has to make up: OpenCV repairs damaged ones without a word.

    The pixels are those that OpenCV gives, bit by bit; a rotation that the file's Exif part asks for is left to OpenCV.
    """
    content = data.tobytes()
    try:
        image = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True)
    except (ValueError, RuntimeError) as error:
        raise OwledError(f"JPEG of {len(content)} bytes is damaged ({error}); its pixels would be made up") from error
    if has_exif(content):
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    return image


def _encoded(message: Any, max_pixels: int) -> np.ndarray:
    """Return the bytes of a compressed image, (N,) uint8, whose size is known and whose end is there."""
    if "compressedDepth" in message.format:
        raise OwledError(f"image format {message.format!r} is a depth image; choose the topic of a colour camera")
    data = np.frombuffer(message.data, np.uint8)
    size = image_size(data.data)
    if size is None:
        raise OwledError(
            f"image of format {message.format!r} with {data.size} bytes is damaged or of an unknown format; "
            "expected JPEG, PNG, WebP, BMP or TIFF"
        )
    _check_pixels(*size, max_pixels)
    if not ends_whole(data.tobytes()):
        raise OwledError(f"image of {size[0]}x{size[1]} is cut off after {data.size} bytes; its end is missing")
    return data


def _decode_raw(message: Any, max_pixels: int) -> np.ndarray:
    pixels, encoding = _pixels(message, max_pixels), message.encoding
    if encoding in PLANAR_ENCODINGS:
        return cv2.cvtColor(pixels, PLANAR_ENCODINGS[encoding])
    if encoding in BYTE_ENCODINGS:
        channels, conversion = BYTE_ENCODINGS[encoding]
    else:
        channels, conversion = WORD_ENCODINGS[encoding]
        words = np.ascontiguousarray(pixels).view(np.uint16)
        if bool(message.is_bigendian) != (sys.byteorder == "big"):
            words = words.byteswap()
        pixels = (words >> 8).astype(np.uint8)
    pixels = pixels.reshape(message.height, message.width, channels) if channels > 1 else pixels
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def _pixels(message: Any, max_pixels: int) -> np.ndarray:
    """Look at the rows of a raw image, (rows, bytes of a row) uint8; a view of the message."""
    encoding, height, width = message.encoding, message.height, message.width
    if encoding not in ENCODINGS:
        raise OwledError(f"image encoding {encoding!r} is not known; expected one of {', '.join(ENCODINGS)}")
    odd = (encoding in EVEN_WIDTH and width % 2) or (encoding in PLANAR_ENCODINGS and height % 2)
    if odd:
        raise OwledError(
            f"image of {width}x{height} cannot be {encoding}; expected even numbers: pixels share their colour"
        )
    if encoding in PLANAR_ENCODINGS:
        return _rows(message, height * 3 // 2, width, max_pixels)
    if encoding in BYTE_ENCODINGS:
        return _rows(message, height, width * BYTE_ENCODINGS[encoding][0], max_pixels)
    return _rows(message, height, width * WORD_ENCODINGS[encoding][0] * 2, max_pixels)


def _rows(message: Any, height: int, row_bytes: int, max_pixels: int) -> np.ndarray:
    """Look at the rows without their padding, (height, row_bytes) uint8; a view of the message."""
    data = np.frombuffer(message.data, np.uint8)
    step = message.step or row_bytes
    if not height or not row_bytes or step < row_bytes or data.size < step * (height - 1) + row_bytes:
        raise OwledError(
            f"image of {message.width}x{message.height} {message.encoding} with step {message.step} holds {data.size} bytes; "
            f"expected at least {max(step, row_bytes) * height}"
        )
    _check_pixels(message.width, message.height, max_pixels)
    return np.ndarray(
        (height, row_bytes), np.uint8, data, strides=(step, 1)
    )  # the last row may come without its padding


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise OwledError(
            f"image is {width}x{height}, {width * height} pixels; at most {max_pixels} are decoded (parameter max_pixels)"
        )
