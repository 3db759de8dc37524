"""Images that nobody should send, through the decoder that every node and bag reader uses: pixels or words, and no memory for lies."""

from __future__ import annotations

import resource
from types import SimpleNamespace
from typing import Any

import hostile_images
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.bags.images import ENCODINGS, decode_image, looks_sound
from owled_ros.errors import OwledError

MAX_PIXELS = 4_000_000
RAW, ENCODED = hostile_images.raw(), hostile_images.encoded()
ALLOWED_MB = 200.0  # 4 million pixels are 12 MB, several times on the way


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pixels_or_words(message: Any) -> np.ndarray | None:
    """Decode; None where it was refused."""
    before, image = peak_mb(), None
    try:
        image, said = decode_image(message, MAX_PIXELS), 100
    except OwledError as error:
        image, said = None, len(str(error))
    assert 10 < said < 20_000
    if image is not None:
        assert looks_sound(message, MAX_PIXELS), "what can be decoded is never held back"
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.shape[0] * image.shape[1] <= MAX_PIXELS
    assert peak_mb() - before < ALLOWED_MB
    return image


def raw_message(shape: dict[str, Any]) -> Any:
    return SimpleNamespace(**{"is_bigendian": 0, **hostile_images.raw_fields(shape)})


@pytest.mark.parametrize("encoding", [*ENCODINGS, *hostile_images.STRANGE])
def test_raw_images_of_every_encoding_and_shape(encoding: str) -> None:
    shapes = {name: shape for name, shape in RAW.items() if shape["encoding"] == encoding}
    assert len(shapes) >= 17
    for name, shape in shapes.items():
        image = pixels_or_words(raw_message(shape))
        if encoding in hostile_images.STRANGE:
            assert image is None, name
        if name.endswith("as it should be") and encoding in ENCODINGS:
            assert image is not None, f"{name} is sound"
        if name.endswith(
            ("step of 4 GB", "all of it", "no data", "no pixel", "step 1", "six bytes", "high without rows")
        ):
            assert image is None, name


@pytest.mark.parametrize("name", ENCODED)
def test_encoded_images(name: str) -> None:
    image = pixels_or_words(SimpleNamespace(format="jpeg", data=ENCODED[name]))
    assert image is None or name in ("two JPEGs", "JPEG of noise behind its header", "PNG without pixels")


@pytest.mark.parametrize("form", hostile_images.FORMATS)
def test_formats_say_nothing_that_counts(form: str) -> None:
    image = pixels_or_words(SimpleNamespace(format=form, data=hostile_images.jpeg()))
    assert (image is None) == ("compressedDepth" in form)


@given(
    encoding=st.sampled_from(ENCODINGS) | st.text(max_size=20),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 20),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 20),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 100),
    is_bigendian=st.integers(0, 255),
    data=st.binary(max_size=2_000),
)
def test_any_raw_message(**fields: Any) -> None:
    pixels_or_words(SimpleNamespace(**fields))


@given(
    form=st.text(max_size=30),
    start=st.sampled_from([b"", *(data[:400] for data in ENCODED.values())]),
    rest=st.binary(max_size=500),
)
def test_any_compressed_message(form: str, start: bytes, rest: bytes) -> None:
    pixels_or_words(SimpleNamespace(format=form, data=start + rest))


@given(data=st.data())
def test_a_sound_jpeg_with_any_bytes_changed(data: st.DataObject) -> None:
    content = bytearray(hostile_images.jpeg())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    pixels_or_words(SimpleNamespace(format="jpeg", data=bytes(content)))
