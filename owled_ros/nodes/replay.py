"""Recorded images and ego states, or a camera clip, in simulated time; played by source_node. Needs cv2, and rosbags for bags."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from owled_ros.driving.frame import NANOSECONDS, EgoState, Frame
from owled_ros.errors import OwledError
from owled_ros.nodes.camera_output import Shown
from owled_ros.nodes.source_options import SourceOptions
from owled_ros.nodes.world_drive import FIRST_STAMP, await_answer

if TYPE_CHECKING:
    from owled_ros.nodes.source_node import SourceNode

CLOCK_PERIOD_S = 0.02


def replay(node: SourceNode, frames: Iterator[Frame]) -> None:
    """Play recorded images with their ego states, in simulated time."""
    first: int | None = None
    started = 0.0
    for number, frame in enumerate(frames):
        first = frame.stamp if first is None else first
        played_s = (frame.stamp - first) / NANOSECONDS
        if node.stop() or (node.options.seconds and played_s > node.options.seconds):
            return
        if node.options.pace == "realtime":
            started = started or time.monotonic() - played_s
            _wait_and_tick(node, frame.stamp, started + played_s)
        shown = Shown(
            frame.stamp,
            frame.image,
            frame.ego,
            time.monotonic(),
            0.0,
            0,
            None,
            None,
            {"time": round(played_s, 2), "number": number},
        )
        for again in range(50 if number == 0 else 1):  # the first image may meet a node whose clock has not started
            node.output.tick(frame.stamp)
            node.output.move(frame.ego)
            node.output.show(shown)
            if number == 0 or node.options.pace == "lockstep":
                _await_first(node, again) if number == 0 else await_answer(node)
            if node.output.answered.is_set() or node.stop():
                break
        node.keep_ego(frame.ego, (0.0, 0.0, 0.0))
        node.keep(shown)


def _await_first(node: SourceNode, again: int) -> None:
    if (
        node.output.answered.wait(0.3)
        and (node.output.last_answer or {}).get("reason") in ("CLOCK_JUMP", "NO_EGO")
        and again < 10
    ):
        node.output.answered.clear()


def _wait_and_tick(node: SourceNode, stamp: int, due: float) -> None:
    """Let simulated time run until an image is due [s] monotonic."""
    while (left := due - time.monotonic()) > 0 and not node.stop():
        node.output.tick(stamp - round(left * NANOSECONDS))
        time.sleep(min(left, CLOCK_PERIOD_S))


def bag_frames(options: SourceOptions) -> Iterator[Frame]:
    from owled_ros.bags.frames import read_frames

    return read_frames(Path(options.path))


def video_frames(options: SourceOptions) -> Iterator[Frame]:
    """Read a clip; it has no ego state, so a constant speed is reported."""
    clip = cv2.VideoCapture(options.path)
    if not clip.isOpened():
        raise OwledError(
            f"{options.path} cannot be read as a video; expected a file that OpenCV plays, for example mp4"
        )
    period = NANOSECONDS / (clip.get(cv2.CAP_PROP_FPS) or 30.0)
    number = 0
    try:
        while True:
            there, image = clip.read()
            if not there:
                return
            stamp = FIRST_STAMP + round(number * period)
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp, EgoState(stamp, options.video_speed_mps))
            number += 1
    finally:
        clip.release()
