"""Recorded images and ego states, or a camera clip, in simulated time; played by source_node. Needs cv2, and rosbags for bags."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from owled_ros.driving.frame import NANOSECONDS, EgoState, Frame
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.errors import OwledError
from owled_ros.nodes.camera_output import Shown
from owled_ros.nodes.playback import FIRST_STAMP, Playback
from owled_ros.nodes.source_options import SourceOptions

if TYPE_CHECKING:
    from owled_ros.bags.messages import MessageDecoder
    from owled_ros.bags.reading import ReadOptions
    from owled_ros.bags.recorded import Recorded, Recording

CLOCK_PERIOD_S = 0.02
BLANK_SIZE = (90, 160)  # [px], height and width of what the film shows of a damaged image


def replay_recorded(playback: Playback, recording: Recording) -> None:
    """Publish the recorded messages as they were, in simulated time."""
    from owled_ros.bags.ego_source import EgoSource
    from owled_ros.bags.messages import MessageDecoder
    from owled_ros.bags.recorded import EGO

    decode, source = MessageDecoder(), EgoSource(recording.topics)
    pacing, ego, number = _Pacing(playback), EgoState(0, 0.0), 0
    for message in recording.messages():
        if not pacing.goes_on(message.clock):
            return
        playback.output.tick(message.clock)
        if message.part == EGO:
            with contextlib.suppress(OwledError, ValueError):  # the driving node will say what it thinks of it
                ego = source.state_of(decode(message.connection, message.data), message.stamp)
                playback.keep_ego(ego, (0.0, 0.0, 0.0))
        if message.camera == recording.cameras[0]:
            shown = _recorded_image(decode, message, ego, pacing.played_s, number)
            number += 1
            playback.output.expect(shown)
            playback.output.send(message)
            if playback.options.pace == "lockstep":
                playback.await_answer()
            playback.keep(shown)
        else:
            playback.output.send(message)


def _recorded_image(decode: MessageDecoder, message: Recorded, ego: EgoState, played_s: float, number: int) -> Shown:
    from owled_ros.bags.recorded import image_of

    try:
        image = image_of(decode, message)
    except OwledError:
        image = np.zeros((*BLANK_SIZE, 3), np.uint8)
    facts = {"time": round(played_s, 2), "number": number}
    return Shown(message.stamp, image, ego, time.monotonic(), 0.0, 0, None, None, facts)


class _Pacing:
    """Lets simulated time run as the wall clock does, or as fast as answers come."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback
        self._first: int | None = None
        self._started = time.monotonic()
        self.played_s = 0.0

    def goes_on(self, stamp: int) -> bool:
        """Wait until a stamp [ns] is due; False at the end of what is to be played."""
        playback = self._playback
        if self._first is None:
            self._first, self._started = stamp, time.monotonic()
        self.played_s = (stamp - self._first) / NANOSECONDS
        if playback.stop() or (playback.options.seconds and self.played_s > playback.options.seconds):
            return False
        if playback.options.pace == "realtime":
            _wait_and_tick(playback, stamp, self._started + self.played_s)
        return True


def replay(playback: Playback, frames: Iterator[Frame]) -> None:
    """Play recorded images with their ego states, in simulated time."""
    pacing, command = _Pacing(playback), None
    for number, frame in enumerate(frames):
        if not pacing.goes_on(frame.stamp):
            return
        played_s = pacing.played_s
        if frame.command is not None and frame.command != command:
            command = frame.command
            playback.output.command(command)
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
        send = functools.partial(_send, playback, frame, shown)
        if number == 0:
            playback.show_first(send)
        else:
            send()
        if playback.options.pace == "lockstep":
            playback.await_answer()
        playback.keep_ego(frame.ego, _pose_of(frame.ego))
        playback.keep(shown)


def _send(playback: Playback, frame: Frame, shown: Shown) -> None:
    playback.output.tick(frame.stamp)
    playback.output.move(frame.ego, _pose_of(frame.ego))
    playback.output.show(shown, frame.views[1:])


def _pose_of(ego: EgoState) -> tuple[float, float, float]:
    return (0.0, 0.0, 0.0) if ego.pose is None else (ego.pose.x, ego.pose.y, ego.pose.heading)


def _wait_and_tick(playback: Playback, stamp: int, due: float) -> None:
    """Let simulated time run until an image is due [s] monotonic."""
    while (left := due - time.monotonic()) > 0 and not playback.stop():
        playback.output.tick(stamp - round(left * NANOSECONDS))
        time.sleep(min(left, CLOCK_PERIOD_S))


def bag_frames(options: SourceOptions) -> Iterator[Frame]:
    """Read a bag: the images of every camera that is named, and the ego states."""
    from owled_ros.bags.frames import read_frames

    return read_frames(Path(options.path), _reading(options))


def open_bag(options: SourceOptions) -> Recording:
    """Open a bag whose messages are played as they were; raises OwledError when driving_node cannot hear them."""
    from owled_ros.bags.recorded import open_recording

    return open_recording(Path(options.path), _reading(options))


def _reading(options: SourceOptions) -> ReadOptions:
    from owled_ros.bags.camera_topics import named_cameras
    from owled_ros.bags.reading import ReadOptions

    names = named_cameras(options.image_topic)
    needs = InputNeeds(tuple(CameraNeed(name) for name in names)) if names else InputNeeds()
    return ReadOptions(options.image_topic, options.ego_topic, options.ego_from, needs=needs)


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
