"""Image decoding against rosbags-image and numbers worked by hand."""

from __future__ import annotations

import struct
import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.image import message_to_cvimage

from owled_ros.bags.image_header import image_size
from owled_ros.bags.images import BYTE_ENCODINGS, ENCODINGS, decode_image
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


SUFFIXES = [".png", ".jpg", ".webp", ".bmp", ".tiff"]


def encoded(suffix: str, width: int = 53, height: int = 37) -> np.ndarray:
    image = GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, image)[1].reshape(-1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_size_is_known_before_anything_is_decoded(suffix, monkeypatch):
    data = encoded(suffix)
    assert image_size(data.tobytes()) == (53, 37)
    assert decode_image(SimpleNamespace(format="x", data=data)).shape == (37, 53, 3)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(OwledError, match="53x37, 1961 pixels; at most 1960 are decoded"):
        decode_image(SimpleNamespace(format="x", data=data), 1960)


def test_a_png_of_a_few_bytes_that_asks_for_gigabytes_is_refused():
    data = bytearray(encoded(".png").tobytes())
    struct.pack_into(">II", data, 16, 1 << 30, 1 << 30)
    with pytest.raises(OwledError, match="1073741824x1073741824"):
        decode_image(SimpleNamespace(format="png", data=bytes(data)))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_off_image_is_refused_although_the_decoder_would_fill_it_up(suffix, share):
    data = encoded(suffix)
    with pytest.raises(OwledError):
        decode_image(SimpleNamespace(format="x", data=data[: int(share * data.size)]))


def test_a_jpeg_may_carry_something_behind_its_end():
    data = np.concatenate([encoded(".jpg"), np.zeros(100, np.uint8)])
    assert decode_image(SimpleNamespace(format="jpeg", data=data)).shape == (37, 53, 3)


@given(
    st.sampled_from(SUFFIXES),
    st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 255)), max_size=8),
    st.integers(0, 5_000),
)
@settings(max_examples=200, deadline=None)
def test_damaged_images_are_images_or_are_refused_with_words(suffix, changes, length):
    data = bytearray(cv2.imencode(suffix, np.full((37, 53, 3), 90, np.uint8))[1].tobytes()[:length])
    for place, value in changes:
        if place < len(data):
            data[place] = value
    try:
        image = decode_image(SimpleNamespace(format="x", data=bytes(data)), 100_000)
    except OwledError:
        return
    assert image.shape[0] * image.shape[1] <= 100_000


def test_a_row_step_of_gigabytes_costs_no_memory():
    few = np.arange(6, dtype=np.uint8)
    tracemalloc.start()
    try:
        image = decode_image(raw("rgb8", np.tile(few, 3), 2, 2, 12))
        with pytest.raises(OwledError, match="with step 4026531840 holds 6 bytes"):
            decode_image(raw("rgb8", few, 2, 2, 0xF0000000))
        with pytest.raises(OwledError, match="at least 2x2"):
            decode_image(raw("rgb8", few, 2, 1, 0xF0000000))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert image.tolist() == [[[0, 1, 2], [3, 4, 5]]] * 2


@given(st.sampled_from(ENCODINGS), st.integers(0, 9), st.integers(0, 9), st.integers(0, 40), st.integers(0, 400))
@settings(max_examples=400, deadline=None)
def test_raw_images_of_every_size_are_images_or_are_refused_with_words(encoding, width, height, step, size):
    """Odd sides of nv12, uyvy and yuyv among them: OpenCV raises for these."""
    try:
        image = decode_image(raw(encoding, np.zeros(size, np.uint8), width, height, step))
    except OwledError:
        return
    assert image.shape == (height, width, 3)


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "uyvy", "yuyv"])
def test_odd_sides_of_shared_colours_are_named(encoding):
    with pytest.raises(OwledError, match="expected even numbers"):
        decode_image(raw(encoding, np.zeros(200, np.uint8), 5, 4))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (raw("rgb8", np.zeros(12, np.uint8), 4_000_000_000, 4_000_000_000, 4_000_000_000), "expected at least"),
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
