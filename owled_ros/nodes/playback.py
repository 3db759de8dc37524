"""What every source plays with: its options, camera, clock, film and recording, and the wait for an answer. Needs rclpy.

source_node makes one and hands it to world_drive or replay, which know nothing of the node.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.node import Node

from owled_ros.driving.frame import NANOSECONDS, EgoState
from owled_ros.driving.overlay import Overlay, PinholeView
from owled_ros.nodes.camera_output import CameraOutput, Shown
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.source_options import SourceOptions
from owled_ros.onboard.film import Film, Scribe
from owled_ros.scenes.camera import Camera

FIRST_STAMP = 1_000 * NANOSECONDS  # of simulated time
ROUTE_GAP = 10 * NANOSECONDS  # between two routes: a bag's readers tell drives apart by it
ACTION_TOPIC, ACTION_TYPE = "/driving_node/output/action", "owled_ros/msg/PredictedAction"
IMAGE_TOPIC = "/camera/image/compressed"
FIRST_TRIES, FIRST_WAIT_S = 50, 0.3
FORGIVEN_TRIES = 10  # so often an answer for want of clock or odometry is none


class Playback:
    """Publishes, hears, films and records for whoever plays."""

    def __init__(self, node: Node, options: SourceOptions, stop: StopRequest) -> None:
        self.options, self.stop = options, stop
        self.slipped_s = 0.0  # by which the world fell behind the wall clock
        self.simulated = options.source != "world" or options.pace == "lockstep"
        self.camera = Camera().resized(options.width_px, options.height_px)
        self._scribe = Scribe()
        view = PinholeView(
            2.0 * math.atan(0.5 * self.camera.width / self.camera.fx),
            self.camera.mount_height,
            self.camera.pitch,
            self.camera.mount_forward,
        )
        self._film = Film(Path(options.film), options.rate_hz, options.film_width_px, view) if options.film else None
        self._bag = _open_bag(options.record)
        self.output = CameraOutput(node, options.driver, self.say, self._sketch, self.simulated)
        self._shift = 0  # [ns], between the stamps on the wire and those in the recording
        if self._bag is not None:
            self.output.on_action = self._keep_action

    def say(self, event: dict[str, Any]) -> None:
        """Write an event for whoever started this node."""
        with contextlib.suppress(BrokenPipeError):  # who started this node is gone, and will have it ended
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    def await_answer(self) -> None:
        """Lockstep: wait for the answer to the last image; without a valid one the last action is void."""
        end = time.monotonic() + self.options.answer_timeout_s
        while not self.output.answered.wait(0.05):
            if self.stop() or time.monotonic() > end:
                break
        answer = self.output.last_answer
        if answer is None or not answer.valid:
            self.output.forget_action()

    def show_first(self, send: Callable[[], None]) -> None:
        """Send the first image until a driving node that has heard the clock and the odometry has answered it, and was heard."""
        for again in range(FIRST_TRIES):
            self.output.forgiving = again < FORGIVEN_TRIES
            send()
            if self.output.answered.wait(FIRST_WAIT_S) or self.stop():
                break
        self.output.forgiving = False

    def keep(self, shown: Shown) -> None:
        """Record an image with its truth."""
        bag, shift = self._bag, self._shift
        if bag is None:
            return

        def write() -> None:
            bag.image(shown.stamp + shift, shown.image, IMAGE_TOPIC, encoding="jpeg")
            if shown.expert is not None:
                bag.expert_action(shown.stamp + shift, shown.expert)
            if shown.scene is not None:
                bag.scene_truth(shown.stamp + shift, shown.scene)
            if shown.around is not None:
                bag.surroundings(shown.stamp + shift, shown.around)
            if shown.command is not None:
                bag.navigation_command(shown.stamp + shift, shown.command)

        self._scribe.do(write, wait=self.options.pace == "lockstep")

    def keep_ego(self, ego: EgoState, pose: tuple[float, float, float], acceleration: float | None = None) -> None:
        """Record the motion, and its acceleration [m/s2] where it is known."""
        bag, stamp = self._bag, ego.stamp + self._shift
        if bag is not None:
            if acceleration is not None:
                self._scribe.do(lambda: bag.acceleration(stamp, acceleration), wait=True)
            self._scribe.do(lambda: bag.odometry(stamp, ego, pose=pose), wait=True)

    def separate_routes(self) -> None:
        """Leave a gap in the recording."""
        self._shift += ROUTE_GAP

    def close(self) -> None:
        """Finish film and bag."""
        self.output.finish()
        self._scribe.close()
        for part in (self._film, self._bag):
            if part is not None:
                part.close()
        images = 0 if self._film is None else self._film.images
        self.say(
            {"event": "end", "film_images": images, "left_out": self._scribe.left_out, "problem": self._scribe.problem,
             "slipped_s": round(self.slipped_s, 3)}
        )  # fmt: skip

    def _keep_action(self, stamp: int, data: bytes) -> None:
        bag, shifted = self._bag, stamp + self._shift
        if bag is not None:
            self._scribe.do(lambda: bag.raw(ACTION_TOPIC, ACTION_TYPE, shifted, data))

    def _sketch(self, shown: Shown, overlay: Overlay) -> None:
        film = self._film
        if film is not None:
            self._scribe.do(lambda: film.add(shown.image, overlay), wait=False)


def _open_bag(path: str) -> Any:
    if not path:
        return None
    from owled_ros.bags.write import BagWriter

    return BagWriter(Path(path))
