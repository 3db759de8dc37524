"""Image decoding against rosbags-image and numbers worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.image import message_to_cvimage

from owled_ros.bags.images import BYTE_ENCODINGS, decode_image
from owled_ros.errors import OwledError

GENERATOR = np.random.default_rng(0)


def raw(encoding: str, data: np.ndarray, width: int, height: int, step: int = 0, bigendian: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        encoding=encoding, width=width, height=height, step=step, is_bigendian=bigendian, data=data.reshape(-1)
    )


@pytest.mark.parametrize("encoding", [name for name in BYTE_ENCODINGS if not name.startswith("8U")])
def test_every_byte_encoding_equals_rosbags_image(encoding):
    channels = BYTE_ENCODINGS[encoding][0]
    data = GENERATOR.integers(0, 256, (8, 10 * channels), dtype=np.uint8)
    message = raw(encoding, data, 10, 8, 10 * channels)
    try:
        expected = message_to_cvimage(message, "rgb8")
    except cv2.error:  # rosbags-image converts UYVY to RGB only by way of BGR
        expected = message_to_cvimage(message, "bgr8")[..., ::-1]
    assert np.array_equal(decode_image(message), expected)


def test_padded_rows_are_cut_off():
    # 2x2 rgb8 with step 8: two bytes of padding behind every row of six
    data = np.array([1, 2, 3, 4, 5, 6, 99, 99, 7, 8, 9, 10, 11, 12, 99, 99], np.uint8)
    expected = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]
    assert decode_image(raw("rgb8", data, 2, 2, 8)).tolist() == expected
    assert decode_image(raw("rgb8", data[:-2], 2, 2, 8)).tolist() == expected  # the last padding may be missing


@pytest.mark.parametrize("bigendian", [0, 1])
def test_words_keep_their_high_byte(bigendian):
    words = np.array([[0x1234, 0xABCD], [0x00FF, 0xFF00]], ">u2" if bigendian else "<u2")
    image = decode_image(raw("mono16", words.view(np.uint8), 2, 2, 4, bigendian))
    assert image[..., 0].tolist() == [[0x12, 0xAB], [0x00, 0xFF]]


def test_nv12_of_a_grey_image_is_grey():
    data = np.full((6, 4), 128, np.uint8)  # luma 128 for 4 rows, chroma 128 for 2
    image = decode_image(raw("nv12", data, 4, 4))
    assert np.ptp(image) <= 2


def test_rgb8_costs_no_copy():
    data = np.zeros(12, np.uint8)
    assert np.shares_memory(decode_image(raw("rgb8", data, 2, 2, 6)), data)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images_come_as_rgb(suffix):
    bgr = np.zeros((16, 16, 3), np.uint8)
    bgr[...] = (200, 100, 50)
    data = cv2.imencode(suffix, bgr)[1].reshape(-1)
    assert np.abs(decode_image(SimpleNamespace(format="x", data=data)).astype(int) - (50, 100, 200)).max() <= 3


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (raw("rgb8", np.zeros(5, np.uint8), 2, 2, 6), "holds 5 bytes"),
        (raw("rgb8", np.zeros(12, np.uint8), 2, 2, 5), "expected at least"),
        (raw("rgb8", np.zeros(0, np.uint8), 0, 0, 0), "0x0"),
        (raw("rgb8", np.zeros(3, np.uint8), 1, 1, 3), "at least 2x2"),
        (raw("32FC1", np.zeros(16, np.uint8), 2, 2, 8), "'32FC1' is not known"),
        (SimpleNamespace(format="jpeg", data=np.zeros(0, np.uint8)), "damaged"),
        (SimpleNamespace(format="jpeg", data=np.zeros(50, np.uint8)), "damaged"),
        (SimpleNamespace(format="16UC1; compressedDepth", data=np.zeros(50, np.uint8)), "depth"),
    ],
)
def test_images_that_cannot_be_read_say_why(message, text):
    with pytest.raises(OwledError, match=text):
        decode_image(message)
