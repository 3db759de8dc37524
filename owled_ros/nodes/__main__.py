"""Run a node by name: `python -m owled_ros.nodes driving_node --ros-args ...`. Needs rclpy, after the signals are handled."""

from __future__ import annotations

import sys

from owled_ros.nodes.process import run

if __name__ == "__main__":
    name = sys.argv.pop(1)
    run(f"owled_ros.nodes.{name}")
