"""Image messages as images: no copy for rgb8, and cv_bridge only for what our decoder does not know."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from sensor_msgs.msg import Image

from owled_ros.bags.images import decode_image
from owled_ros.errors import OwledError
from owled_ros.images import live
from owled_ros.nodes.conversions import rgb_to_compressed, rgb_to_image, stamp_of

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_round_trip_and_no_copy() -> None:
    message = rgb_to_image(IMAGE, 1_500_000_007, "camera")
    assert stamp_of(message) == 1_500_000_007
    decoded = decode_image(message)
    assert (decoded == IMAGE).all()
    assert decoded.base is not None, "a view of the message"
    smooth = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    packed = decode_image(rgb_to_compressed(smooth, 7, "camera"))
    assert np.abs(packed.astype(int) - smooth).max() < 6


class Bridge:
    """Stands in for a sound cv_bridge that knows one encoding more."""

    def imgmsg_to_cv2(self, message: Any, wanted: str) -> np.ndarray:
        if message.encoding != "special":
            raise ValueError("unknown")
        return np.full((message.height, message.width, 3), 9, np.uint8)


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("cv_bridge")
    module.CvBridge, module.CvBridgeError = Bridge, RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)


def choose(monkeypatch: pytest.MonkeyPatch, problem: str, choice: str = "auto") -> Any:
    monkeypatch.setattr(live, "has_cv_bridge", lambda: True)
    monkeypatch.setattr(live, "cv_bridge_problem", lambda: problem)
    return live.make_decoder(choice)[0]


def test_a_sound_bridge_serves_what_we_do_not_know(monkeypatch: pytest.MonkeyPatch, bridge: None) -> None:
    decode = choose(monkeypatch, "")
    special = Image(height=4, width=6, encoding="special")
    assert (decode(special) == 9).all()
    assert (decode(rgb_to_image(IMAGE, 0, "")) == IMAGE).all()
    with pytest.raises(OwledError, match="cv_bridge cannot decode"):
        decode(Image(height=4, width=6, encoding="other"))


def test_an_unsound_or_unwanted_bridge_is_not_used(monkeypatch: pytest.MonkeyPatch, bridge: None) -> None:
    for decode in (choose(monkeypatch, "padded rows are sheared"), choose(monkeypatch, "", "own")):
        with pytest.raises(OwledError, match="is not known"):
            decode(Image(height=4, width=6, encoding="special"))


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "bgra8", "bayer_rggb8", "mono16"])
def test_both_decoders_give_the_same_pixels(encoding: str) -> None:
    cv_bridge = pytest.importorskip("cv_bridge")
    channels = {"rgb8": 3, "bgr8": 3, "bgra8": 4}.get(encoding, 1) * (2 if encoding.endswith("16") else 1)
    data = np.random.default_rng(0).integers(0, 255, (8, 10 * channels), np.uint8)
    message = Image(height=8, width=10, encoding=encoding, step=10 * channels, data=data.tobytes())
    theirs = np.asarray(cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8"))
    assert np.abs(theirs.astype(int) - decode_image(message)).max() <= 1
