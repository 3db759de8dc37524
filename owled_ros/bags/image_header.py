"""The size of an encoded image from its first bytes, before anything is decoded. Needs nothing.

Formats that image topics carry: JPEG, PNG, WebP, BMP, TIFF. A few bytes can ask for gigabytes, so what states no size here is
not decoded at all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
EXIF_SEGMENT = 0xE1
SIZES_IN = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG start-of-frame markers (ITU-T T.81, table B.1)
BARE = frozenset(range(0xD0, 0xDA)) | {0x01}  # JPEG markers without a length
WIDTH_TAG, HEIGHT_TAG, SHORT = 256, 257, 3  # TIFF 6.0, section 8


def image_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return (width, height) [px]; None for bytes that are no image of a known format."""
    head = bytes(data[:32])
    for signature, read in READERS:
        if head.startswith(signature):
            try:
                return read(data)
            except (struct.error, IndexError):  # cut off
                return None
    return None


def ends_whole(data: bytes) -> bool:
    """Tell whether a JPEG or PNG holds its end; decoders fill up silently what a truncated one misses."""
    if data.startswith(START_OF_IMAGE):
        return data.rfind(END_OF_IMAGE) > _scan_of(data)
    return not data.startswith(PNG_SIGNATURE) or data.rfind(PNG_END) > 0


def has_exif(data: bytes) -> bool:
    """Tell whether a JPEG has an Exif part, which may ask for a rotation."""
    return any(marker == EXIF_SEGMENT and data[place + 2 : place + 6] == b"Exif" for marker, place in _segments(data))


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    for marker, place in _segments(data):
        if marker in SIZES_IN:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
    return None


def _scan_of(data: bytes) -> int:
    """Return where the compressed pixels of a JPEG begin; its length where there are none."""
    return next((place for marker, place in _segments(data) if marker == START_OF_SCAN), len(data))


def _segments(data: bytes | memoryview) -> list[tuple[int, int]]:
    """List (marker, place of its length) up to the first scan."""
    found: list[tuple[int, int]] = []
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
        elif marker in BARE:
            place += 2
        else:
            found.append((marker, place + 2))
            if marker == START_OF_SCAN:
                break
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return found


def _png_size(data: bytes | memoryview) -> tuple[int, int] | None:
    return struct.unpack_from(">II", data, 16) if bytes(data[12:16]) == b"IHDR" else None


def _bmp_size(data: bytes | memoryview) -> tuple[int, int] | None:
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height stands for rows from the top


def _webp_size(data: bytes | memoryview) -> tuple[int, int] | None:
    kind = bytes(data[12:16])
    if bytes(data[8:12]) != b"WEBP":
        return None
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        wide, high = bytes(data[24:27]), bytes(data[27:30])
        return int.from_bytes(wide, "little") + 1, int.from_bytes(high, "little") + 1
    return None


def _tiff_size(data: bytes | memoryview) -> tuple[int, int] | None:
    order = "<" if bytes(data[:2]) == b"II" else ">"
    directory = struct.unpack_from(f"{order}I", data, 4)[0]
    found = {}
    for entry in range(struct.unpack_from(f"{order}H", data, directory)[0]):
        place = directory + 2 + 12 * entry
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in (WIDTH_TAG, HEIGHT_TAG):
            found[tag] = struct.unpack_from(f"{order}{'H' if kind == SHORT else 'I'}", data, place + 8)[0]
    return (found[WIDTH_TAG], found[HEIGHT_TAG]) if len(found) == 2 else None


READERS: tuple[tuple[bytes, Callable[[bytes | memoryview], tuple[int, int] | None]], ...] = (
    (START_OF_IMAGE, _jpeg_size),
    (PNG_SIGNATURE, _png_size),
    (b"BM", _bmp_size),
    (b"RIFF", _webp_size),
    (b"II*\x00", _tiff_size),
    (b"MM\x00*", _tiff_size),
)
