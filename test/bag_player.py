"""Plays a bag as `ros2 bag play --clock 100` does: recorded bytes in real time on their topics, and /clock; waits for nobody.

    python bag_player.py BAG [SECONDS_BEFORE_THE_FIRST_MESSAGE]
It shares nothing with source_node, so what works with it does not work by agreement.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import rclpy
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

TYPES = {"sensor_msgs/msg/Image": Image, "nav_msgs/msg/Odometry": Odometry}
CLOCK_PERIOD_S = 0.01


def play(path: Path, delay_s: float) -> None:
    """Publish every message at its time."""
    node = rclpy.create_node("rosbag2_player")
    clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=1))

    def tick(stamp: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(stamp, 10**9)
        clock.publish(message)

    with Reader(path) as bag:
        connections = [connection for connection in bag.connections if connection.msgtype in TYPES]
        publishers = {
            connection.topic: node.create_publisher(TYPES[connection.msgtype], connection.topic, QoSProfile(depth=10))
            for connection in connections
        }
        time.sleep(delay_s)
        print("playing", flush=True)
        started, first, last = time.monotonic(), bag.start_time, bag.start_time
        for connection, stamp, data in bag.messages(connections):
            while (left := started + (stamp - first) / 1e9 - time.monotonic()) > 0:
                tick(stamp - round(left * 1e9))
                time.sleep(min(left, CLOCK_PERIOD_S))
            publishers[connection.topic].publish(bytes(data))
            last = stamp
        tick(last)
        time.sleep(0.3)


if __name__ == "__main__":
    rclpy.init()
    play(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    rclpy.try_shutdown()
