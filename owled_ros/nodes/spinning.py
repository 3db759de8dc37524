"""Run one node until the process is asked to end; what fails in a callback is logged, and the node goes on. Needs rclpy."""

from __future__ import annotations

import functools
import gc
import sys
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from owled_ros.errors import OwledError
from owled_ros.nodes.process import StopRequest, watch_signals
from owled_ros.onboard.throttle import Throttle
from owled_ros.shipped import PACKAGE, shipped

LOG_PERIOD_S = 5.0
PAUSE_S = 0.01  # after a callback that failed, so that one which always does leaves the machine to others
AnyNode = TypeVar("AnyNode", bound=Node)
MAX_WORDS = 500  # of what ROS says


class LastingExecutor(SingleThreadedExecutor):
    """Ends for a shutdown only: rclpy's own lets the first exception of any callback end the node."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle(LOG_PERIOD_S)

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Do one piece of work; what it raises is logged."""
        try:
            super().spin_once(timeout_sec)
        except ExternalShutdownException:
            raise
        except Exception as error:
            if not rclpy.ok():  # what a shutdown breaks half-way through is no news
                raise ExternalShutdownException from error
            words = f"a callback failed: {type(error).__name__}: {error}"[:1000]
            if self._throttle.due(words):
                get_logger(PACKAGE).error(f"{words}\n{traceback.format_exc()[-4000:]}")
            time.sleep(PAUSE_S)


def spin_node(
    make: Callable[[StopRequest], AnyNode], start: Callable[[AnyNode], int | None], parameter_file: str = ""
) -> int:
    """Make a node, start it, spin until a signal or a shutdown; returns the exit code.

    `start` runs before spinning; an exit code ends the process, None continues. The packaged `parameter_file` comes before
    the command line, so that every value can be overridden there. A node may have `close()`, called before destruction,
    and `exit_code`.
    """
    stop = watch_signals()
    if stop():
        return 0
    try:
        rclpy.init(args=_arguments(parameter_file), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # a wrong word on the command line, a parameter file that is missing or no YAML
        print(f"the ROS arguments cannot be used: {str(error)[:MAX_WORDS]}; expected --ros-args -p NAME:=VALUE, "
              "--params-file FILE, -r FROM:=TO", file=sys.stderr)  # fmt: skip
        return 1
    code: int | None = 0
    node: AnyNode | None = None
    executor = LastingExecutor()
    try:
        with stop.critical:
            node = make(stop)
            stop.on_force(functools.partial(_release, node, executor))
        stop.on_stop(rclpy.try_shutdown)
        executor.add_node(node)
        code = start(node)
        if code is None and not stop():
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        code = None
    except OwledError as error:  # the node cannot be made; it has no log of its own yet
        get_logger(PACKAGE).error(str(error))
        code = 1
    except Exception:
        if not stop():  # what a shutdown breaks half-way through is no news
            raise
    finally:
        failed = int(getattr(node, "exit_code", 0))
        if node is not None and hasattr(node, "close"):
            node.close()
        with stop.critical:
            stop.on_force(_nothing)
            _release(node, executor)
    return code or failed


def _arguments(parameter_file: str) -> list[str]:
    path = shipped(f"config/{parameter_file}")
    if not parameter_file or not path.is_file():
        return sys.argv
    return [sys.argv[0], "--ros-args", "--params-file", str(path), "--", *sys.argv[1:]]


def _release(node: Node | None, executor: SingleThreadedExecutor) -> None:
    """Release node and executor, so that DDS gives its shared memory back before the process ends.

    The handles live as long as anything refers to them, and a thread that is still inside a model refers to the node:
    that is why the node is emptied.
    """
    if node is not None:
        executor.remove_node(node)
        node.destroy_node()
        vars(node).clear()
    executor.shutdown(timeout_sec=0.1)
    gc.collect()
    rclpy.try_shutdown()


def _nothing() -> None:
    """Do nothing: everything has been released."""
