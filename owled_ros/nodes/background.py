"""Slow work of a service or action without holding up the executor. Needs rclpy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from rclpy.node import Node
from rclpy.task import Future

Result = TypeVar("Result")


async def in_thread(node: Node, work: Callable[[], Result], name: str) -> Result:
    """Run `work` in a thread of its own and await it; whatever it raises is raised here."""
    future: Future = Future(executor=node.executor)
    future.add_done_callback(lambda _: None)  # having a callback is what makes a result wake the executor

    def run() -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = work(), None
        except BaseException as error:
            outcome = None, error
        future.set_result(outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    value, error = await future
    if error is not None:
        raise error
    return value


def call_and_wait(client: Any, request: Any, timeout_s: float) -> Any:
    """Call a service from a thread that is not the executor's; returns the response, or None after the time."""
    answered = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: answered.set())
    if not answered.wait(timeout_s):
        client.remove_pending_request(future)
        return None
    return future.result()
