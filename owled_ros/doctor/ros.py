"""Is there a ROS 2 that works, which middleware, and are this package's messages built? Needs the standard library only."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from owled_ros.doctor.findings import Finding, Severity
from owled_ros.python_child import run_child

TESTED_DISTROS = ("jazzy",)


def check_ros() -> Finding:
    """Is there a rclpy, and where from?"""
    distro = os.environ.get("ROS_DISTRO")
    spec = importlib.util.find_spec("rclpy")
    if spec is None or spec.origin is None:
        return Finding(
            "ros",
            Severity.FAIL,
            "no rclpy",
            "Source a ROS 2, or start with ./owled: it brings the wheels. Bags and pruning work without.",
        )
    problem = run_child(
        "import rclpy; rclpy.init(); rclpy.create_node('owled_doctor').destroy_node(); rclpy.shutdown()"
    )[1]
    source = f"ROS 2 {distro}" if distro else "Jazzy wheels from PyPI"
    found = f"{source}, {Path(spec.origin).parent}"
    if problem:
        return Finding(
            "ros",
            Severity.FAIL,
            f"{found}: {problem}",
            "rclpy is there but no node can be made: check RMW_IMPLEMENTATION and the sourced set-up.",
        )
    if distro and distro not in TESTED_DISTROS:
        return Finding(
            "ros",
            Severity.WARN,
            found,
            f"Tested with {', '.join(TESTED_DISTROS)}; docs/install.md has the table of platforms.",
        )
    return Finding("ros", Severity.OK, found)


def check_rmw() -> Finding:
    """Which middleware the nodes will use."""
    name, problem = run_child("from rclpy.utilities import get_rmw_implementation_identifier as g; print(g())")
    if problem:
        return Finding(
            "rmw", Severity.FAIL, problem, "Install the middleware that RMW_IMPLEMENTATION names, or unset it."
        )
    if name != "rmw_fastrtps_cpp":
        return Finding(
            "rmw", Severity.OK, name, "The shipped transport profile is for Fast DDS; give yours room for images too."
        )
    return Finding("rmw", Severity.OK, name)


def check_messages() -> Finding:
    """Are the interfaces of this package built?"""
    problem = run_child("from owled_ros.msg import PredictedAction; PredictedAction()")[1]
    if problem:
        return Finding(
            "messages",
            Severity.FAIL,
            problem,
            "Start with ./owled, or build with colcon and source install/setup.bash.",
        )
    return Finding("messages", Severity.OK, "built")
