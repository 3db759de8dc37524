"""Video topics: every kind of message that carries one, decoded as it comes; refused with a way out where that is not possible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from odd_bags import drive, header, make, time_of, write

from owled_ros.bags.frames import ReadOptions, ReadStatistics, read_frames, read_samples
from owled_ros.bags.video import codec_of
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.errors import OwledError

COMPRESSED, VIDEO, PACKET = (
    "sensor_msgs/msg/CompressedImage", "foxglove_msgs/msg/CompressedVideo", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
)  # fmt: skip


def packets(codec: str, count: int = 40) -> list[bytes]:
    """Encode images whose grey value is 4 times their number, one packet each, a key frame every 10."""
    av = pytest.importorskip("av")
    name = {"h264": "libx264", "hevc": "libx265"}[codec]
    context = av.CodecContext.create(name, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base, context.gop_size, context.max_b_frames = Fraction(1, 10), 10, 0
    context.options = {"tune": "zerolatency", "x265-params": "keyint=10:bframes=0:log-level=none"}
    context.options.update({"preset": "ultrafast"})
    found = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number + 20, np.uint8), format="rgb24")
        frame.pts = number
        found += [bytes(packet) for packet in context.encode(frame)]
    found += [bytes(packet) for packet in context.encode(None)]
    assert len(found) == count
    return found


def row_of(kind: str, codec: str, data: list[bytes]) -> tuple[str, str, Callable[[int, int], object]]:
    word = {"h264": "h264", "hevc": "h265"}[codec]

    def row(stamp: int, number: int) -> object:
        content = np.frombuffer(data[number], np.uint8)
        if kind == VIDEO:
            return make(kind, timestamp=time_of(stamp), frame_id="eye", format=word, data=content)
        if kind == PACKET:
            return make(kind, header=header(stamp, "eye"), encoding=f"lib{word.replace('h', 'x')}", data=content)
        return make(kind, header=header(stamp, "eye"), format=word, data=content)

    return "/cam/video", kind, row


@pytest.mark.parametrize("kind", [COMPRESSED, VIDEO, PACKET])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_every_kind_of_video_message_gives_its_images(tmp_path, kind, codec):
    bag = write(tmp_path / "bag", row_of(kind, codec, packets(codec)), drive())
    frames = list(read_frames(bag))
    assert [round(float(frame.image.mean())) for frame in frames] == pytest.approx(
        [4 * number + 20 for number in range(40)], abs=3
    )
    assert {frame.frame_id for frame in frames} == {"eye"}
    chosen = [sample.frame.image.mean() for sample in read_samples(bag, only={7, 33})]
    assert chosen == pytest.approx([48.0, 152.0], abs=3)


def test_a_video_that_begins_between_two_key_frames_costs_the_images_before_the_next(tmp_path):
    data = packets("h264", 50)[5:45]
    statistics = ReadStatistics()
    bag = write(tmp_path / "bag", row_of(VIDEO, "h264", data), drive())
    indices = [sample.index for sample in read_samples(bag, statistics=statistics)]
    assert indices == list(range(5, 40))
    assert statistics.undecodable == 5
    assert "5 that cannot be decoded (an image of the video did not come out" in statistics.notes[0]


def test_a_past_of_video_images_is_shrunk(tmp_path):
    needs = InputNeeds((CameraNeed("front", 32 * 24, 16 * 12),), image_offsets_s=(0.5, 0.0))
    frames = list(
        read_frames(write(tmp_path / "bag", row_of(VIDEO, "h264", packets("h264")), drive()), ReadOptions(needs=needs))
    )
    assert len(frames) == 36  # 0.1 s of tolerance: the image of 0.4 s shows 0.5 s ago
    assert [view.image.shape[:2] for view in frames[20].views] == [(12, 16), (24, 32)]
    assert frames[20].views[1].image.mean() - frames[20].views[0].image.mean() == pytest.approx(20.0, abs=3)


@pytest.mark.parametrize("only", [None, set(range(0, 40, 4))])
@pytest.mark.parametrize("kind", [COMPRESSED, VIDEO, PACKET])
def test_without_pyav_the_way_out_is_said(tmp_path: Path, monkeypatch, kind, only):
    monkeypatch.setitem(sys.modules, "av", None)
    bag = write(tmp_path / "bag", row_of(kind, "h264", [bytes(200)] * 40), drive())
    with pytest.raises(
        OwledError, match=r"/cam/video is a h264 video; install PyAV \(pip install av\), or convert the topic"
    ):
        list(read_samples(bag, only=only))


@pytest.mark.parametrize("only", [None, set(range(0, 40, 4))])
def test_a_video_that_gives_nothing_says_so(tmp_path, only):
    pytest.importorskip("av")
    bag = write(tmp_path / "bag", row_of(COMPRESSED, "h264", [bytes(200)] * 40), drive())
    with pytest.raises(OwledError, match=r"is a h264 video that gives no image in 40 packets"):
        list(read_samples(bag, only=only))


def test_codecs_are_told_from_the_words_of_the_messages():
    words = {
        "h264": "h264",
        "avc1.64001f": "h264",
        "libx264": "h264",
        "h264_nvenc": "h264",
        "hevc_vaapi": "hevc",
        "H265": "hevc",
        "av1": "av1",
    }
    assert {word: codec_of(make(COMPRESSED, format=word)) for word in words} == words
    assert codec_of(make(COMPRESSED, format="rgb8; jpeg compressed bgr8")) == ""
    with pytest.raises(OwledError, match="video of encoding 'wavelets' is not known"):
        codec_of(make(PACKET, encoding="wavelets"))
