"""What driving_node costs: camera stamp to published action beside a bare rclpy subscriber, both in one run.

    ./owled python benchmarks/node_latency.py [--images 200] [--seconds 60] [--threads 1] [--width 1280 --height 720]

Part 1: raw images go in turn to a bare subscriber that answers at once, and to driving_node with a model that answers
at once: the difference of the medians is the node's own cost. Part 2: images at a camera's rate to driving_node with the
bundled model. Needs ROS 2 and the built messages; starts its own processes in a ROS domain of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from instant_node import image_message, run_node

ROLES = ("bench", "bare", "instant")
BARE_TOPIC, NODE_TOPIC = "/bare/image", "/driving_node/input/image"
PATIENCE_S = 1.0


class Camera:
    """Publishes prepared images and odometry, and notes when actions come back."""

    def __init__(self, width: int, height: int, images: list[np.ndarray] | None = None) -> None:
        import rclpy
        from nav_msgs.msg import Odometry
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        from owled_ros.msg import PredictedAction

        rclpy.init()
        self.node = rclpy.create_node("camera_bench")
        self._rclpy = rclpy
        quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._images = {topic: self.node.create_publisher(Image, topic, quality) for topic in (BARE_TOPIC, NODE_TOPIC)}
        self._odometry = self.node.create_publisher(Odometry, "/driving_node/input/odometry", 10)
        self.came: dict[int, float] = {}  # stamp: time of arrival [ns]
        for topic in ("/bare/action", "/driving_node/output/action"):
            self.node.create_subscription(PredictedAction, topic, self._on_action, 10)
        images = images or [np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)]
        self._messages = [image_message(image) for image in images]
        self._sent = 0

    def wait_for(self, topic: str, timeout: float = 300.0) -> None:
        end = time.monotonic() + timeout
        while self._images[topic].get_subscription_count() == 0:
            if time.monotonic() > end:
                raise SystemExit(f"nobody listens to {topic}")
            self._rclpy.spin_once(self.node, timeout_sec=0.05)

    def send_ego(self) -> None:
        from nav_msgs.msg import Odometry

        message = Odometry()
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.twist.twist.linear.x = 8.0
        self._odometry.publish(message)

    def send(self, topic: str) -> int:
        message = self._messages[self._sent % len(self._messages)]
        self._sent += 1
        stamp = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = stamp // 10**9, stamp % 10**9
        self._images[topic].publish(message)
        return stamp

    def listen(self, seconds: float, stamp: int | None = None) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and (stamp is None or stamp not in self.came):
            self._rclpy.spin_once(self.node, timeout_sec=left)

    def latency_ms(self, stamp: int) -> float | None:
        return (self.came[stamp] - stamp) / 1e6 if stamp in self.came else None

    def _on_action(self, message: Any) -> None:
        self.came[message.header.stamp.sec * 10**9 + message.header.stamp.nanosec] = time.time_ns()


def run_bare() -> None:
    """Answer every image at once, with nothing in between: the floor of a Python subscriber."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    from owled_ros.msg import PredictedAction

    rclpy.init()
    node = rclpy.create_node("bare")
    publisher = node.create_publisher(PredictedAction, "/bare/action", 1)

    def on_image(message: Image) -> None:
        answer = PredictedAction(valid=True)
        answer.header.stamp = message.header.stamp
        publisher.publish(answer)

    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(Image, BARE_TOPIC, on_image, quality)
    rclpy.spin(node)


def spread(values: list[float]) -> str:
    if not values:
        return "no answer"
    p50, p95, p99 = (float(np.percentile(values, share)) for share in (50, 95, 99))
    return f"p50 {p50:6.2f} ms  p95 {p95:6.2f} ms  p99 {p99:6.2f} ms  n {len(values)}"


def measure_cost(camera: Camera, images: int) -> None:
    """Part 1."""
    results: dict[str, list[float]] = {BARE_TOPIC: [], NODE_TOPIC: []}
    for number in range(2 * images + 20):
        topic = (BARE_TOPIC, NODE_TOPIC)[number % 2]
        camera.send_ego()
        camera.listen(0.03)
        stamp = camera.send(topic)
        camera.listen(PATIENCE_S, stamp)
        latency = camera.latency_ms(stamp)
        if number >= 20 and latency is not None:
            results[topic].append(latency)
        camera.listen(0.02)
    print(f"bare subscriber           {spread(results[BARE_TOPIC])}")
    print(f"driving_node, no model    {spread(results[NODE_TOPIC])}")
    own = float(np.median(results[NODE_TOPIC]) - np.median(results[BARE_TOPIC]))
    print(f"own cost (difference of medians) {own:.2f} ms")


def measure_model(camera: Camera, seconds: float, rate: float) -> None:
    """Part 2."""
    stamps, start = [], time.monotonic()
    period = 1.0 / rate
    for number in range(round(seconds * rate)):
        for step in range(5):
            camera.listen(max(start + (number + step / 5) * period - time.monotonic(), 0.0))
            camera.send_ego()
        camera.listen(max(start + (number + 0.9) * period - time.monotonic(), 0.0))
        stamps.append(camera.send(NODE_TOPIC))
    camera.listen(1.0)
    latencies = [camera.latency_ms(stamp) for stamp in stamps[int(2 * rate) :]]
    known = [value for value in latencies if value is not None]
    print(f"driving_node, bundled model  {spread(known)}")
    print(f"sent {len(latencies)}, without an action (dropped or withheld) {len(latencies) - len(known)}")


def world_images(width: int, height: int, count: int = 20) -> list[np.ndarray]:
    """Render images of the world, so that the model is asked what it knows."""
    from owled_ros.scenes.camera import Camera as WorldCamera
    from owled_ros.scenes.player import expert_driver, play
    from owled_ros.scenes.world import World

    images = []
    for moment, _ in play(World(5), expert_driver, WorldCamera().resized(width, height)):
        assert moment.image is not None
        images.append(moment.image)
        if len(images) == count:
            break
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=ROLES, default="bench", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="of part 2; 0: only part 1")
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--model", default="")
    parser.add_argument("--domain", type=int, default=33)
    chosen, rest = parser.parse_known_args()
    if chosen.role != "bench":
        sys.argv = [sys.argv[0], *rest]
        {"bare": run_bare, "instant": run_node}[chosen.role]()
        return
    from owled_ros.demo.processes import Child, node_environment, reaped

    environment = node_environment(chosen.domain)
    os.environ.update(environment)
    folder = Path(tempfile.mkdtemp(prefix="node_latency_"))
    this = str(Path(__file__).resolve())
    camera = Camera(chosen.width, chosen.height, world_images(chosen.width, chosen.height))
    print(f"{os.cpu_count()} cores, {chosen.width}x{chosen.height} rgb8, load {os.getloadavg()[0]:.1f}")
    bare = Child((this, "--role", "bare"), [], environment, folder / "bare.log")
    instant = Child((this, "--role", "instant"), [], environment, folder / "instant.log")
    with reaped(bare, instant):
        camera.wait_for(BARE_TOPIC)
        camera.wait_for(NODE_TOPIC)
        measure_cost(camera, chosen.images)
    if chosen.seconds > 0:
        values = ["-p", f"threads:={chosen.threads}", *(["-p", f"model_path:={chosen.model}"] if chosen.model else [])]
        driver = Child(("-m", "owled_ros.nodes", "driving_node"), values, environment, folder / "driving_node.log")
        with reaped(driver):
            camera.wait_for(NODE_TOPIC)
            measure_model(camera, chosen.seconds, chosen.rate)


if __name__ == "__main__":
    main()
