"""Image messages as nobody should send them: raw ones by their fields, encoded ones by their bytes. Needs numpy, OpenCV."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any

import cv2
import numpy as np

from owled_ros.bags.images import ENCODINGS

SIDE = 64  # [px], of what is sound about a message
MOST = 2**32 - 1
STRANGE = (
    "",
    "rgb9",
    "\0",
    "RGB8",
    "32FC1",
    "64FC4",
    "8UC2",
    "bayer_rggb12",
    "rgb8; rm -rf /",
    "%s%n",
    "ü" * 300,
    "a" * 10_000,
)
BOMB_SIDE = 18_000  # [px]


def raw() -> dict[str, dict[str, Any]]:
    """Name the fields of raw images: every encoding in every shape that cannot be."""
    shapes: dict[str, dict[str, Any]] = {
        "as it should be": {},
        "one column more": {"width": SIDE + 1},
        "one row more": {"height": SIDE + 1},
        "odd both ways": {"width": SIDE - 1, "height": SIDE - 1},
        "step of 4 GB": {"step": 0xF0000000},
        "step 0": {"step": 0},
        "step 1": {"step": 1},
        "step 3 more": {"step": SIDE * 8 + 3},
        "one row of giants": {"width": SIDE * 2**20, "height": 1, "step": 0},
        "all of it": {"width": MOST, "height": MOST, "step": MOST},
        "high without rows": {"height": MOST, "width": 2, "step": 0},
        "no pixel": {"width": 0, "height": 0},
        "one pixel": {"width": 1, "height": 1, "step": 8},
        "a byte missing": {"cut": 1},
        "no data": {"cut": None},
        "six bytes": {"cut": -6, "step": 0xF0000000, "height": 2},
        "other byte order": {"is_bigendian": 255},
    }
    return {
        f"{encoding[:12]!r} {name}": {"encoding": encoding, **shape}
        for encoding in (*ENCODINGS, *STRANGE)
        for name, shape in shapes.items()
    }


def raw_fields(shape: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a sensor_msgs/Image."""
    fields: dict[str, Any] = {"width": SIDE, "height": SIDE, "step": SIDE * 8, **shape}
    cut = fields.pop("cut", 0)
    rows = SIDE * 3 // 2 if fields["encoding"].startswith("nv") else SIDE
    data = b"\x5a" * (rows * SIDE * 8)
    fields["data"] = b"" if cut is None else data[: -cut if cut < 0 else len(data) - cut]
    return fields


def encoded() -> dict[str, bytes]:
    """Name what a CompressedImage may hold."""
    whole = jpeg()
    made = {
        "nothing": b"",
        "one byte": b"\xff",
        "a signature": b"\xff\xd8",
        "signature and end": b"\xff\xd8\xff\xd9",
        "half a JPEG": whole[: len(whole) // 2],
        "JPEG without its end": whole[:-2],
        "JPEG of 65535 x 65535": sized_jpeg(65535, 65535),
        "JPEG of no size": sized_jpeg(0, 0),
        "JPEG of endless markers": b"\xff\xd8" + b"\xff" * 100_000,
        "JPEG of endless comments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 50_000,
        "JPEG with a segment of length 0": b"\xff\xd8" + b"\xff\xe0\x00\x00" * 1000,
        "JPEG of noise behind its header": whole[:700] + bytes(noise(5_000)) + b"\xff\xd9",
        "two JPEGs": whole + whole,
        "PNG bomb": png_bomb(),
        "PNG that lies about its size": png(2**31 - 1, 2**31 - 1, b"\0" * 64),
        "PNG without pixels": png(SIDE, SIDE, b""),
        "PNG with a chunk of 4 GB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", MOST) + b"IHDR" + b"\0" * 64,
        "BMP of negative height": bmp(SIDE, -(2**31)),
        "BMP of giants": bmp(2**31 - 1, 2**31 - 1),
        "WebP of giants": b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff" * 6,
        "TIFF whose directory is itself": b"II*\0" + struct.pack("<I", 4) + b"\xff" * 32,
        "TIFF of 65535 entries": b"II*\0" + struct.pack("<IH", 8, 65535) + b"\0" * 40,
        "GIF": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0" * 32,
        "a web page": b"<!DOCTYPE html><svg width='99999' height='99999'/>",
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "noise": bytes(noise(20_000)),
    }  # fmt: skip
    return made


FORMATS = (
    "jpeg",
    "",
    "png",
    "compressedDepth",
    "16UC1; compressedDepth png",
    "\0",
    "rgb8; jpeg compressed bgr8",
    "x" * 100_000,
)


@functools.cache
def jpeg() -> bytes:
    """Encode an image that is sound."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    image = np.stack([rows * 3, columns * 3, (rows * columns) % 255], -1).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


def sized_jpeg(width: int, height: int) -> bytes:
    """Let a sound JPEG say another size."""
    data = bytearray(jpeg())
    place = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, place + 5, height, width)
    return bytes(data)


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Make a PNG of stated size around whatever pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@functools.cache
def png_bomb() -> bytes:
    """Make a whole PNG of BOMB_SIDE squared in a few bytes: pixels that are all alike, as far as anybody needs to read them."""
    return png(BOMB_SIDE, BOMB_SIDE, bytes(BOMB_SIDE * 3 + 1) * 64)


def bmp(width: int, height: int) -> bytes:
    """Make the header of a BMP."""
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + b"\0" * 46
    )


def noise(count: int) -> np.ndarray:
    """Return the same random bytes every time."""
    return np.random.default_rng(7).integers(0, 256, count, np.uint8)
