"""The parameters of source_node; values come from config/source_node.param.yaml. Needs rclpy."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from owled_ros.nodes.parameters import Entry, declare, read_values


@dataclass(frozen=True)
class SourceOptions:
    """What is played, how fast, and what is kept; see ENTRIES."""

    source: str
    path: str
    messages: str
    image_topic: str
    ego_topic: str
    ego_from: str
    pace: str
    seed: int
    routes: int
    turns: bool
    seconds: float
    rate_hz: float
    ego_rate_hz: float
    width_px: int
    height_px: int
    video_speed_mps: float
    action_timeout_s: float
    answer_timeout_s: float
    driver: str
    wait_for: str
    record: str
    film: str
    film_width_px: int
    perception_noise_m: float
    perception_dropped: float


ENTRIES = (
    Entry("source", "str", "What is played.", choices=("world", "bag", "video"), read_only=True),
    Entry("path", "str", "The bag or the clip.", read_only=True),
    Entry("messages", "str", "Bag: images and ego states as they are read, or the recorded messages as they were.", choices=("decoded", "recorded"), read_only=True),
    Entry("image_topic", "str", "Camera of the bag; empty: the only one; for several NAME=TOPIC,NAME=TOPIC.", read_only=True),
    Entry("ego_topic", "str", "Ego motion of the bag; empty: chosen by type.", read_only=True),
    Entry("ego_from", "str", "twist, pose, gnss, can or can:FIELD:UNIT; empty: by the topic's type.", read_only=True),
    Entry("pace", "str", "By the wall clock, or the next image when the last one is answered.", choices=("realtime", "lockstep"), read_only=True),
    Entry("seed", "int", "Seed of the first route.", 0, 2**31 - 1, read_only=True),
    Entry("routes", "int", "Routes to drive, one after the other.", 1, 100_000, read_only=True),
    Entry("turns", "bool", "World: turn left and right at junctions, told by navigation commands.", read_only=True),
    Entry("seconds", "float", "End after this long [s] of driving; 0: at the end of the source.", 0.0, 1e6, read_only=True),
    Entry("rate_hz", "float", "Images of the world [Hz].", 0.1, 100.0, read_only=True),
    Entry("ego_rate_hz", "float", "Odometry of the world [Hz].", 1.0, 500.0, read_only=True),
    Entry("width_px", "int", "Width of the world's images [px].", 16, 7680, read_only=True),
    Entry("height_px", "int", "Height of the world's images [px].", 16, 4320, read_only=True),
    Entry("video_speed_mps", "float", "Speed [m/s] reported beside a clip, which has none.", 0.0, 60.0, read_only=True),
    Entry("action_timeout_s", "float", "An older action [s] is no longer applied: the vehicle brakes.", 0.01, 10.0, read_only=True),
    Entry("answer_timeout_s", "float", "Lockstep: how long [s] an answer is waited for.", 0.1, 600.0, read_only=True),
    Entry("driver", "str", "Full name of the node that drives.", read_only=True),
    Entry("wait_for", "str", "Play only once this topic has a publisher, for example an evaluator that is ready; empty: once the driver listens.", read_only=True),
    Entry("record", "str", "New bag directory; empty: no recording.", read_only=True),
    Entry("film", "str", "New directory for the overlay film and image; empty: none.", read_only=True),
    Entry("film_width_px", "int", "Width of the film [px].", 160, 3840, read_only=True),
    Entry("perception.noise_m", "float", "World: deviation [m] of both coordinates of an object on /perception/objects.", 0.0, 10.0, read_only=True),
    Entry("perception.dropped", "float", "World: share of objects that are missed, drawn anew for every image.", 0.0, 1.0, read_only=True),
)  # fmt: skip


def read_options(node: Node) -> SourceOptions:
    """Declare and read the parameters."""
    declare(node, ENTRIES)
    return SourceOptions(**read_values(node, ENTRIES))
