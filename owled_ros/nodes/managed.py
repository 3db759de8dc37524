"""What the managed nodes have in common: transitions that keep their words, and configure and activate by themselves. Needs rclpy."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile

from owled_ros.errors import OwledError
from owled_ros.nodes.diagnostics import Diagnostics, Level
from owled_ros.nodes.process import StopRequest

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR
# Requests that wait. rclpy's ten are few: of fifty at once the other forty would be lost without an answer.
REQUESTS = QoSProfile(depth=500)
AnyManaged = TypeVar("AnyManaged", bound="ManagedNode")


def transition(
    change: Callable[[AnyManaged, LifecycleState], TransitionCallbackReturn],
) -> Callable[[AnyManaged, LifecycleState], TransitionCallbackReturn]:
    """Keep the words of what breaks a transition; rclpy would swallow them. OwledError: FAILURE, anything else: ERROR."""

    @functools.wraps(change)
    def guarded(node: AnyManaged, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return change(node, state)
        except Exception as error:
            expected = isinstance(error, OwledError)
            words = f"{change.__name__}: {error if expected else f'{type(error).__name__}: {error}'}"
            node.get_logger().error(words)
            node.diagnostics.report(node.part, Level.ERROR, words)
            return FAILURE if expected else TransitionCallbackReturn.ERROR

    return guarded


class ManagedNode(LifecycleNode):
    """A node whose `close` unmakes everything; `part` is the diagnostic that tells why a transition failed."""

    part = "node"

    def __init__(self, name: str, stop: StopRequest) -> None:
        super().__init__(name)
        self._stop = stop  # tells that the process was asked to end
        self.diagnostics = Diagnostics(self)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        self.close()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured."""
        self.close()
        return SUCCESS

    def start_by_itself(self, autostart: bool, exit_on_failure: bool) -> int | None:
        """Configure and activate; returns an exit code only when the process is to end."""
        if not autostart or self._stop():
            return None
        if self.trigger_configure() is SUCCESS and self.trigger_activate() is SUCCESS:
            return None
        if self._stop():
            return 0
        self.get_logger().error("autostart failed; repair the cause and request the configure transition")
        return 1 if exit_on_failure else None

    def _spin_until(self, done: threading.Event, period_s: float = 0.05) -> None:
        """Wait inside a transition while timers, parameters and services keep running; ends early when the process is to end."""
        while not done.is_set() and not self._stop():
            if self.executor is None:
                done.wait(period_s)
            else:
                self.executor.spin_once(timeout_sec=period_s)

    def close(self) -> None:
        """Stop everything that would outlive the node."""
        raise NotImplementedError
