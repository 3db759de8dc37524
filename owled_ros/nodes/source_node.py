"""source_node: the world, a bag or a clip as a camera and odometry; in the world the driving node's actions move the ego. Needs rclpy.

Real time: the world's stamps are wall-clock times; a bag or a clip plays in simulated time with /clock. Lockstep: simulated
time, the next image is published when the last one has been answered, so that nothing depends on the machine's speed.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node

from owled_ros.driving.frame import NANOSECONDS, EgoState
from owled_ros.driving.overlay import Overlay, PinholeView
from owled_ros.errors import OwledError
from owled_ros.nodes.camera_output import CameraOutput, Shown
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.replay import bag_frames, open_bag, replay, replay_recorded, video_frames
from owled_ros.nodes.source_options import read_options
from owled_ros.nodes.spinning import spin_node
from owled_ros.nodes.world_drive import drive_routes
from owled_ros.onboard.film import Film, Scribe
from owled_ros.scenes.camera import Camera

ROUTE_GAP = 10 * NANOSECONDS  # between two routes: a bag's readers tell drives apart by it
ACTION_TOPIC, ACTION_TYPE = "/driving_node/output/action", "owled_ros/msg/PredictedAction"
IMAGE_TOPIC = "/camera/image/compressed"


class SourceNode(Node):
    """Plays in its own thread (`play`) while the executor hears the answers."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__("source_node")
        self.options = options = read_options(self)
        self.exit_code = 0
        self.stop = stop
        self.slipped_s = 0.0
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
        self.output = CameraOutput(self, options.driver, self.say, self._sketch, self.simulated)
        self._shift = 0  # [ns], between the stamps on the wire and those in the recording
        if self._bag is not None:
            self.output.on_action = self._keep_action

    def say(self, event: dict[str, Any]) -> None:
        """Write an event for whoever started this node."""
        with contextlib.suppress(BrokenPipeError):  # who started this node is gone, and will have it ended
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    def play(self) -> None:
        """Wait for the driver, play everything, say how it went."""
        recording = (
            open_bag(self.options) if self.options.messages == "recorded" and self.options.source == "bag" else None
        )
        if recording is not None:
            self.output.open_recorded(recording)
        self.say({"event": "waiting", "driver": self.options.driver})
        topic = self.options.wait_for
        while not self.output.heard or (topic and not self.count_publishers(topic)):
            if self.stop.event.wait(0.02):
                return
        self.say({"event": "started", "source": self.options.source, "simulated": self.simulated})
        if self.options.source == "world":
            drive_routes(self)
        elif recording is not None:
            replay_recorded(self, recording)
        else:
            replay(self, bag_frames(self.options) if self.options.source == "bag" else video_frames(self.options))
        self.stop.event.wait(0.2)  # for the last answer

    def close(self) -> None:
        """Finish film and bag."""
        self._scribe.close()
        for part in (self._film, self._bag):
            if part is not None:
                part.close()
        images = 0 if self._film is None else self._film.images
        self.say(
            {"event": "end", "film_images": images, "left_out": self._scribe.left_out, "problem": self._scribe.problem,
             "slipped_s": round(self.slipped_s, 3)}
        )  # fmt: skip

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

        self._scribe.do(write, wait=self.options.pace == "lockstep")

    def keep_ego(self, ego: EgoState, pose: tuple[float, float, float]) -> None:
        """Record the motion."""
        bag, stamp = self._bag, ego.stamp + self._shift
        if bag is not None:
            self._scribe.do(lambda: bag.odometry(stamp, ego, pose=pose), wait=True)

    def separate_routes(self) -> None:
        """Leave a gap in the recording."""
        self._shift += ROUTE_GAP

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


def start(node: SourceNode) -> None:
    """Play in a thread; the process ends when everything is played."""

    def work() -> None:
        try:
            node.play()
        except OwledError as error:
            node.say({"event": "error", "message": str(error)})
            node.exit_code = 1
        except Exception as error:
            if not node.stop():  # publishing fails once the context is shut down
                node.get_logger().error(f"{type(error).__name__}: {error}")
                node.say({"event": "error", "message": f"{type(error).__name__}: {error}"})
                node.exit_code = 1
        rclpy.try_shutdown()

    threading.Thread(target=work, name="play", daemon=True).start()


def main() -> int:
    """Run the node; returns the exit code."""
    return spin_node(SourceNode, start, "source_node.param.yaml")
