"""source_node: the world, a bag or a clip as a camera and odometry; in the world the driving node's actions move the ego. Needs rclpy.

Real time: the world's stamps are wall-clock times; a bag or a clip plays in simulated time with /clock. Lockstep: simulated
time, the next image is published when the last one has been answered, so that nothing depends on the machine's speed.
"""

from __future__ import annotations

import threading

import rclpy
from rclpy.node import Node

from owled_ros.errors import OwledError
from owled_ros.nodes.playback import Playback
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.replay import bag_frames, open_bag, replay, replay_recorded, video_frames
from owled_ros.nodes.source_options import read_options
from owled_ros.nodes.spinning import spin_node
from owled_ros.nodes.world_drive import drive_routes


class SourceNode(Node):
    """Plays in its own thread (`play`) while the executor hears the answers."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__("source_node")
        self.options = read_options(self)
        self.exit_code = 0
        self.stop = stop
        self.playback = Playback(self, self.options, stop)

    def play(self) -> None:
        """Wait for the driver, play everything, say how it went."""
        options, playback = self.options, self.playback
        recording = open_bag(options) if options.messages == "recorded" and options.source == "bag" else None
        if recording is not None:
            playback.output.open_recorded(recording)
        playback.say({"event": "waiting", "driver": options.driver})
        while not playback.output.heard or (options.wait_for and not self.count_publishers(options.wait_for)):
            if self.stop.event.wait(0.02):
                return
        playback.say({"event": "started", "source": options.source, "simulated": playback.simulated})
        if options.source == "world":
            drive_routes(playback)
        elif recording is not None:
            replay_recorded(playback, recording)
        else:
            replay(playback, bag_frames(options) if options.source == "bag" else video_frames(options))
        self.stop.event.wait(0.2)  # for the last answer

    def close(self) -> None:
        """Finish film and bag."""
        self.playback.close()


def start(node: SourceNode) -> None:
    """Play in a thread; the process ends when everything is played."""

    def work() -> None:
        try:
            node.play()
        except OwledError as error:
            node.playback.say({"event": "error", "message": str(error)})
            node.exit_code = 1
        except Exception as error:
            if not node.stop():  # publishing fails once the context is shut down
                node.get_logger().error(f"{type(error).__name__}: {error}")
                node.playback.say({"event": "error", "message": f"{type(error).__name__}: {error}"})
                node.exit_code = 1
        rclpy.try_shutdown()

    threading.Thread(target=work, name="play", daemon=True).start()


def main() -> int:
    """Run the node; returns the exit code."""
    return spin_node(SourceNode, start, "source_node.param.yaml")
