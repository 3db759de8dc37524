"""Rings of images and what a frame gets out of them: matched by stamp, decoded once, bounded; every missing view has its own words."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.driving.frame import View
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.driving.prediction import Reason
from owled_ros.driving.shrinking import shrunk
from owled_ros.onboard import ring as ring_module
from owled_ros.onboard.ring import ImageRing, Sight
from owled_ros.onboard.views import Arrival, ImageViews
from owled_ros.onboard.withheld import WithheldError

SECOND = 1_000_000_000
START = 1_000 * SECOND
TWO = InputNeeds((CameraNeed("front", 600, 150), CameraNeed("left")), (0.5, 0.0))
NOW_ONLY = InputNeeds((CameraNeed("front"), CameraNeed("left")))


def at(seconds: float) -> int:
    return START + round(seconds * SECOND)


class Decoder:
    """Takes (width, height, grey) as a message, and counts."""

    def __init__(self) -> None:
        self.decoded: list[Any] = []
        self._lock = threading.Lock()

    def __call__(self, message: Any) -> np.ndarray:
        with self._lock:
            self.decoded.append(message)
        if message == "broken":
            raise ValueError("three bytes too few")
        width, height, grey = message
        return np.full((height, width, 3), grey, np.uint8)


def arrival(seconds: float, camera: str = "", message: Any = (40, 30, 0), frame_id: str = "") -> Arrival:
    return Arrival(message, at(seconds), time.monotonic(), frame_id or camera or "front", camera)


def views(needs: InputNeeds = TWO) -> tuple[ImageViews, Decoder]:
    decoder = Decoder()
    made = ImageViews(decoder)
    made.follow(needs)
    return made, decoder


def fill(made: ImageViews, until: float = 1.0, left: bool = True) -> Arrival:
    """Send both cameras at 10 Hz; grey counts the tenths of a second. Returns the newest image of the front camera."""
    for step in range(round(until * 10) + 1):
        if left:
            made.add(arrival(step / 10 - 0.02, "left", (20, 10, 100 + step)))
        newest = arrival(step / 10, message=(40, 30, step))
        made.add(newest)
    return newest


def gather(made: ImageViews, newest: Arrival, needs: InputNeeds = TWO) -> tuple[np.ndarray, tuple[View, ...]]:
    return made.gather(needs, newest, 0.1, 0.0)


def refused(made: ImageViews, newest: Arrival, needs: InputNeeds = TWO) -> tuple[Reason, str]:
    with pytest.raises(WithheldError) as caught:
        gather(made, newest, needs)
    return caught.value.reason, str(caught.value)


def test_views_are_matched_by_stamp_camera_by_camera_oldest_first() -> None:
    made, _ = views()
    image, found = gather(made, fill(made))
    # front at 0.5 and 1.0 s, left at 0.48 and 0.98 s
    assert [(view.camera, view.stamp) for view in found] == [
        ("front", at(0.5)), ("front", at(1.0)), ("left", at(0.48)), ("left", at(0.98)),
    ]  # fmt: skip
    assert [int(view.image[0, 0, 0]) for view in found] == [5, 10, 105, 110]
    assert found[1].image is image
    # 40x30 = 1200 pixels: a half of them for now (28x21), an eighth for the past (14x10); left stays as it is
    assert [view.image.shape[:2] for view in found] == [(10, 14), (21, 28), (10, 20), (10, 20)]
    made.close()


def test_every_image_is_decoded_once_whoever_looks_at_it() -> None:
    made, decoder = views()
    newest = fill(made, 2.0)
    for _ in range(3):
        gather(made, newest)
    assert len(decoder.decoded) == len(set(decoder.decoded))
    made.close()


def test_without_history_only_what_a_frame_shows_is_decoded() -> None:
    made, decoder = views(NOW_ONLY)
    newest = fill(made)
    assert decoder.decoded == []
    gather(made, newest, NOW_ONLY)
    assert sorted(decoder.decoded) == [(20, 10, 110), (40, 30, 10)]


def test_one_camera_and_one_image_keep_nothing() -> None:
    made, decoder = views(InputNeeds())
    newest = fill(made)
    image, found = gather(made, newest, InputNeeds())
    assert (found, made.held_bytes, image.shape) == ((), 0, (30, 40, 3))
    assert decoder.decoded == [(40, 30, 10)]


def test_missing_late_and_stale_cameras_are_named() -> None:
    made, _ = views(NOW_ONLY)
    newest = fill(made, left=False)
    assert refused(made, newest, NOW_ONLY) == (Reason.MISSING_VIEW, "camera left has sent no image")
    made.add(arrival(0.7, "left"))
    reason, words = refused(made, newest, NOW_ONLY)
    assert reason is Reason.STALE_VIEW
    assert "camera left is 0.300 s older" in words
    made.add(arrival(1.0, "left", "broken"))
    assert refused(made, newest, NOW_ONLY) == (Reason.BAD_IMAGE, "camera left: three bytes too few")
    made.add(arrival(1.05, "left"))
    assert len(gather(made, newest, NOW_ONLY)[1]) == 2, "the nearest image is the one 0.05 s away"


def test_a_past_that_is_not_there_yet_is_said_with_its_age() -> None:
    made, _ = views()
    reason, words = refused(made, fill(made, 0.3))
    assert (reason, words) == (Reason.NO_HISTORY, "camera front has no image of 0.5 s ago within 0.1 s (yet)")
    made.close()


def test_a_camera_that_is_too_slow_never_shows_one_image_twice() -> None:
    fast = InputNeeds((CameraNeed("front"),), (0.1, 0.0))
    made, _ = views(fast)
    for step in range(5):
        newest = arrival(step * 0.2)
        made.add(newest)
    with pytest.raises(WithheldError, match=r"no image of 0.1 s ago within 0.05 s"):
        made.gather(fast, newest, 1.0, 0.0)
    made.close()


def test_one_damaged_image_does_not_take_its_neighbours_away() -> None:
    made, _ = views(InputNeeds((CameraNeed("front"),), (0.5, 0.0)))
    for step in range(11):
        newest = arrival(step / 10, message="broken" if step == 5 else (40, 30, step))
        made.add(newest)
    found = made.gather(InputNeeds((CameraNeed("front"),), (0.5, 0.0)), newest, 0.1, 0.0)[1]
    assert [int(view.image[0, 0, 0]) for view in found] in ([4, 10], [6, 10])
    made.close()


def test_another_size_or_frame_does_not_mix_with_the_past() -> None:
    made, _ = views()
    fill(made)
    newest = arrival(1.1, message=(80, 60, 1))
    made.add(arrival(1.1, "left"))
    made.add(newest)
    reason, words = refused(made, newest)
    assert reason is Reason.NO_HISTORY
    assert "camera front changed its size from (40, 30) to (80, 60)" in words
    made.close()


def test_exchanged_cameras_are_refused() -> None:
    made, _ = views(NOW_ONLY)
    gather(made, fill(made), NOW_ONLY)
    made.add(arrival(1.1, "left", frame_id="front"))
    newest = arrival(1.1, frame_id="left")
    reason, words = refused(made, newest, NOW_ONLY)
    assert reason is Reason.MISSING_VIEW
    assert "the topics are exchanged" in words
    made.frame_ids = {"front": "camera_front"}
    assert "expected 'camera_front'" in refused(made, newest, NOW_ONLY)[1]


def test_cameras_may_share_a_frame() -> None:
    made, _ = views(NOW_ONLY)
    for seconds in (0.0, 0.1):
        made.add(arrival(seconds, "left", frame_id="camera"))
        assert len(gather(made, arrival(seconds, frame_id="camera"), NOW_ONLY)[1]) == 2


def test_an_image_that_is_about_to_come_is_waited_for() -> None:
    made, _ = views(NOW_ONLY)
    for step in range(3):
        made.add(arrival(step / 10, "left", (20, 10, step)))
    newest = arrival(0.3)
    late = threading.Timer(0.05, made.add, [arrival(0.3, "left", (20, 10, 3))])
    late.start()
    assert int(made.gather(NOW_ONLY, newest, 0.15, 5.0)[1][1].image[0, 0, 0]) == 3
    # the next one would come at 0.4 s, the last came at 0.3 s: for an image of 0.32 s there is nothing to wait for
    started = time.monotonic()
    made.gather(NOW_ONLY, arrival(0.32), 0.15, 5.0)
    assert time.monotonic() - started < 2.0


def test_a_model_that_is_about_to_drive_finds_its_history() -> None:
    made, _ = views(InputNeeds())
    made.follow(InputNeeds(), TWO)
    newest = fill(made)
    assert gather(made, newest, InputNeeds())[1] == ()
    made.follow(TWO)
    assert len(gather(made, newest)[1]) == 4
    made.close()


def test_faster_cameras_are_thinned_out_and_the_newest_is_always_there() -> None:
    ring = ImageRing(CameraNeed("front"), 1.5)
    for step in range(600):  # 10 s at 60 Hz
        ring.add(Sight((2, 2, 0), at(step / 60), ""))
        newest = ring.nearest(at(step / 60))
        assert newest is not None
        assert newest.stamp == at(step / 60)
        newest.develop(lambda _: np.zeros((2, 2, 3), np.uint8), ring.need, True)
    assert len(ring) <= 2.5 / 0.045 + 2
    for offset in (0.5, 1.0, 1.5):
        found = ring.nearest(at(599 / 60 - offset))
        assert found is not None
        assert abs(found.stamp - at(599 / 60 - offset)) <= 0.025 * SECOND


def test_bytes_are_bounded_and_undecoded_images_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "MAX_BYTES", 10 * 3 * 100)
    ring = ImageRing(CameraNeed("front"), 60.0)
    for step in range(100):
        sight = Sight((10, 10, 0), at(step / 10), "")
        sight.develop(lambda _: np.zeros((10, 10, 3), np.uint8), ring.need, True)
        ring.add(sight)
    assert ring.held_bytes <= 10 * 3 * 100
    waiting = ImageRing(CameraNeed("front"), 60.0)
    for step in range(100):
        waiting.add(Sight((10, 10, 0), at(step / 10), ""))
    assert (len(waiting), waiting.left_out) == (ring_module.MAX_WAITING, 100 - ring_module.MAX_WAITING)


def test_a_clock_that_begins_anew_clears_a_ring() -> None:
    ring = ImageRing(CameraNeed("front"), 1.0)
    for seconds in (5.0, 5.1, 5.05, 1.0):
        ring.add(Sight((2, 2, 0), at(seconds), ""))
    assert len(ring) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=60), st.integers(0, 5_000))
def test_the_nearest_image_is_the_nearest(stamps: list[int], wanted: int) -> None:
    ring = ImageRing(CameraNeed("front"), 60.0)
    for milliseconds in stamps:
        ring.add(Sight((2, 2, 0), START + milliseconds * 1_000_000, ""))
    kept = [sight.stamp for sight in ring._sights]
    assert kept == sorted(set(kept))
    found = ring.nearest(START + wanted * 1_000_000)
    assert found is not None
    assert abs(found.stamp - START - wanted * 1_000_000) == min(
        abs(stamp - START - wanted * 1_000_000) for stamp in kept
    )


@given(st.integers(2, 3_000), st.integers(2, 3_000), st.integers(64, 1 << 22))
@settings(max_examples=30, deadline=None)
def test_shrinking_keeps_the_shape_and_the_budget(width: int, height: int, budget: int) -> None:
    image = np.broadcast_to(np.uint8(7), (height, width, 3))
    small = shrunk(np.ascontiguousarray(image), budget)
    if width * height <= budget:
        assert small.shape == image.shape
    else:
        assert small.shape[0] * small.shape[1] <= max(budget, 2 * max(small.shape[:2]))
