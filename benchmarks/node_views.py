"""What several cameras and past images cost driving_node: processor time per cycle beside one camera and one image; and its memory.

    ./owled python benchmarks/node_views.py [--seconds 20] [--cameras 3] [--images 4] [--compressed]

Cameras at 10 Hz, 1280x720, with a model that answers at once: what is left is the node's own cost. Processor time counts, not
latency, because publisher and node share the machine; the shrinking to the profile's budget is part of it. Needs ROS 2 and psutil.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from instant_node import image_message, run_node

NODE = "/driving_node"
STRIDE_S = 0.5
BUDGETS = (400_000, 100_000)  # [px] now, past
SETTLE_S = 4.0
NAMES = ("front", "left", "right", "back")
LIMIT = 3.0


def needs_of(cameras: int, images: int) -> Any:
    """Return what a model of so many views must be shown."""
    from owled_ros.driving.needs import CameraNeed, InputNeeds

    budgets = BUDGETS if cameras * images > 1 else (None, None)
    return InputNeeds(
        tuple(CameraNeed(name, *budgets) for name in NAMES[:cameras]),
        tuple(STRIDE_S * step for step in reversed(range(images))),
    )


class Cameras:
    """Publishes images of every camera and odometry, and counts the actions that come back."""

    def __init__(self, compressed: bool) -> None:
        import rclpy
        from nav_msgs.msg import Odometry
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CompressedImage, Image

        from owled_ros.msg import PredictedAction, PredictedTrajectory

        rclpy.init()
        self.node, self._rclpy = rclpy.create_node("cameras"), rclpy
        quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        end, kind = ("/compressed", CompressedImage) if compressed else ("", Image)
        topics = [f"{NODE}/input/image", *(f"{NODE}/input/{name}/image" for name in NAMES[1:])]
        self.publishers = [self.node.create_publisher(kind, topic + end, quality) for topic in topics]
        self._odometry, self._odometry_kind = (
            self.node.create_publisher(Odometry, f"{NODE}/input/odometry", 50),
            Odometry,
        )
        self.actions = 0
        self.withheld: Counter[str] = Counter()
        self.node.create_subscription(PredictedTrajectory, f"{NODE}/output/withheld", self._on_withheld, 10)
        self.node.create_subscription(PredictedAction, f"{NODE}/output/action", self._on_action, 10)
        noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8), (0, 0), 3)
        self._message = image_message(noise, compressed)

    def _on_action(self, _: Any) -> None:
        self.actions += 1

    def _on_withheld(self, message: Any) -> None:
        self.withheld[message.reason_text] += 1

    def cycle(self, cameras: int) -> None:
        """Send one image of every camera with the same stamp, the first camera last."""
        now = self.node.get_clock().now().to_msg()
        odometry = self._odometry_kind()
        odometry.header.stamp, odometry.twist.twist.linear.x = now, 8.0
        self._odometry.publish(odometry)
        self._message.header.stamp = now
        for publisher in reversed(self.publishers[:cameras]):
            self._message.header.frame_id = publisher.topic_name
            publisher.publish(self._message)

    def drive(self, cameras: int, seconds: float, rate: float) -> None:
        start = time.monotonic()
        for number in range(round(seconds * rate)):
            self.cycle(cameras)
            while (left := start + (number + 1) / rate - time.monotonic()) > 0:
                self._rclpy.spin_once(self.node, timeout_sec=left)

    def wait(self, cameras: int) -> None:
        while any(publisher.get_subscription_count() == 0 for publisher in self.publishers[:cameras]):
            self._rclpy.spin_once(self.node, timeout_sec=0.05)


def measure(cameras: int, images: int, chosen: argparse.Namespace, sender: Cameras) -> tuple[float, float]:
    """Return processor time [ms] per cycle, and how much private memory [MB] grew in the second half."""
    import psutil

    from owled_ros.demo.processes import Child, node_environment, reaped

    this = str(Path(__file__).resolve())
    values = ["-p", "max_frame_age_s:=5.0", "-p", "deadline_s:=5.0", "-p", "description_rate_hz:=0.0"]
    values += ["-p", f"image_transport:={'compressed' if chosen.compressed else 'raw'}"]
    log = Path(tempfile.mkdtemp(prefix="node_views_")) / "node.log"
    role = (this, "--role", "node", "--cameras", str(cameras), "--images", str(images))
    child = Child(role, values, node_environment(chosen.domain), log)
    with reaped(child):
        sender.wait(cameras)
        sender.drive(cameras, SETTLE_S, chosen.rate)
        process = psutil.Process(child.process.pid)
        spent, actions, memory = cpu_s(process), sender.actions, []
        sender.withheld.clear()
        for _ in range(2):
            sender.drive(cameras, chosen.seconds / 2, chosen.rate)
            memory.append(process.memory_full_info().uss / 1e6)
        answered = sender.actions - actions
        cost = (cpu_s(process) - spent) / (chosen.seconds * chosen.rate) * 1e3
    print(
        f"{cameras} cameras x {images} images: {cost:6.2f} ms processor time per cycle, {answered} actions for "
        f"{round(chosen.seconds * chosen.rate)} cycles, private memory {memory[1]:.1f} MB ({memory[1] - memory[0]:+.1f} MB in half the time)"
    )
    for words, count in sender.withheld.most_common(3):
        print(f"    {count} withheld: {words}")
    return cost, memory[1] - memory[0]


def cpu_s(process: Any) -> float:
    """Return the processor time [s] of a process."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=("bench", "node"), default="bench", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--compressed", action="store_true")
    parser.add_argument("--domain", type=int, default=35)
    chosen, rest = parser.parse_known_args()
    if chosen.role == "node":
        sys.argv = [sys.argv[0], *rest]
        run_node(needs_of(chosen.cameras, chosen.images) if chosen.cameras * chosen.images > 1 else None)
        return
    from owled_ros.demo.processes import node_environment

    os.environ.update(node_environment(chosen.domain))
    sender = Cameras(chosen.compressed)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, 1280x720 {'JPEG' if chosen.compressed else 'rgb8'}, {chosen.rate:g} Hz"
    )
    one, _ = measure(1, 1, chosen, sender)
    many, _ = measure(chosen.cameras, chosen.images, chosen, sender)
    print(f"ratio {many / one:.2f}; at most {LIMIT:g} is wanted")


if __name__ == "__main__":
    main()
