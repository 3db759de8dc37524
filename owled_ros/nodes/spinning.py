"""Run one node until the process is asked to end. Needs rclpy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from owled_ros.nodes.process import StopRequest, watch_signals

PACKAGE = "owled_ros"
AnyNode = TypeVar("AnyNode", bound=Node)


def spin_node(
    make: Callable[[StopRequest], AnyNode], start: Callable[[AnyNode], int | None], parameter_file: str = ""
) -> int:
    """Make a node, start it, spin until a signal or a shutdown; returns the exit code.

    `start` runs before spinning; an exit code ends the process, None goes on. The packaged `parameter_file` comes before
    the command line, so that every value can be overridden there. A node may have `close()`, called before destruction,
    and `exit_code`.
    """
    stop = watch_signals()
    rclpy.init(args=_arguments(parameter_file), signal_handler_options=SignalHandlerOptions.NO)
    code: int | None = 0
    node: AnyNode | None = None
    try:
        node = make(stop)
        stop.on_force(node.destroy_node)
        stop.on_stop(rclpy.try_shutdown)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        code = start(node)
        if code is None and not stop():
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        code = None
    except Exception:
        if not stop():  # what a shutdown breaks half-way through is no news
            raise
    finally:
        _finish(node)
    return code or int(getattr(node, "exit_code", 0))


def config_file(name: str) -> Path:
    """Return a packaged file of config/, from the sources or from the installed share folder."""
    source = Path(__file__).resolve().parents[2] / "config" / name
    if source.is_file():
        return source
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        installed = Path(prefix) / "share" / PACKAGE / "config" / name
        if prefix and installed.is_file():
            return installed
    return source


def _arguments(parameter_file: str) -> list[str]:
    if not parameter_file or not config_file(parameter_file).is_file():
        return sys.argv
    return [sys.argv[0], "--ros-args", "--params-file", str(config_file(parameter_file)), "--", *sys.argv[1:]]


def _finish(node: Node | None) -> None:
    if node is not None:
        close = getattr(node, "close", None)
        if close is not None:
            close()
        node.destroy_node()
    rclpy.try_shutdown()
