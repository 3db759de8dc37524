"""Ask a running driving node to switch, in two steps that may be repeated: what changes a store talks to the car through this.

Needs rclpy. The node that drives follows its deployment by itself, so a commit that does not arrive is late, not lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from owled_ros.deployment.store import SwitchCancelledError
from owled_ros.errors import OwledError
from owled_ros.msg import DrivingModel
from owled_ros.nodes.background import call_and_wait
from owled_ros.nodes.quality import LATCHED
from owled_ros.srv import SwitchModel

DISCOVERY_S = 5.0
COMMIT_S = 5.0  # a switch takes milliseconds; a busy machine may take longer to say so
COMMIT_TRIES = 3
POLL_S = 0.2
Request = SwitchModel.Request


class DriverClient:
    """A deployment.store.Driver behind the service ~/switch_model. Called from threads other than the executor's."""

    def __init__(
        self,
        client: Any,
        said: Callable[[], DrivingModel | None],
        base: Path,
        deployment: Path,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the service's client, what the node last said on ~/output/model, the base model, and the deployment."""
        self._client, self._said, self._base, self._deployment = client, said, base, deployment
        self._timeout_s, self._cancelled = timeout_s, cancelled
        self._identity = ""

    def prepare(self, directory: Path | None) -> None:
        """Let the node load a directory and try it; raises OwledError when it refuses, is late or drives for another deployment."""
        path = str(directory or self._base)
        self._check_deployment()
        self._identity = f"switch-{uuid.uuid4().hex[:12]}"
        answer = self._loaded(path)
        if answer is None:
            self.abort()
            raise OwledError(f"the driving node did not load {path} within {self._timeout_s:g} s; nothing was switched")
        if not answer.success:
            raise OwledError(f"the driving node refused {path}: {answer.message}")

    def commit(self) -> None:
        """Let the node drive with what it prepared; asked again where no answer comes."""
        for _ in range(COMMIT_TRIES):
            answer = self._ask(Request.STEP_COMMIT, COMMIT_S)
            if answer is not None and answer.success:
                return
            if answer is not None:
                raise OwledError(
                    f"the driving node has not switched: {answer.message}; it follows its deployment by itself"
                )
        raise OwledError("the driving node does not answer; it follows its deployment by itself, also after a restart")

    def abort(self) -> None:
        """Let the node forget what it prepared."""
        self._ask(Request.STEP_ABORT, COMMIT_S)

    def _check_deployment(self) -> None:
        said = self._said()
        if said is not None and Path(said.deployment or "/dev/null").resolve() != self._deployment.resolve():
            theirs = f"from {said.deployment}" if said.deployment else "without a deployment"
            raise OwledError(
                f"the driving node drives {theirs}, not from {self._deployment}: a promotion would not survive its restart. "
                "Start both with the same deployment"
            )

    def _loaded(self, path: str) -> Any:
        """Ask to prepare, and wait; a cancelled job aborts what is being loaded."""
        answered = threading.Event()
        future = self._client.call_async(Request(step=Request.STEP_PREPARE, request_id=self._identity, path=path))
        future.add_done_callback(lambda _: answered.set())
        deadline = time.monotonic() + self._timeout_s
        while not answered.wait(POLL_S):
            if self._cancelled():
                self._client.remove_pending_request(future)
                self.abort()
                raise SwitchCancelledError("the switch was cancelled; nothing has changed")
            if time.monotonic() > deadline:
                self._client.remove_pending_request(future)
                return None
        if self._cancelled():
            self.abort()
            raise SwitchCancelledError("the switch was cancelled; nothing has changed")
        return future.result()

    def _ask(self, step: int, timeout_s: float) -> Any:
        return call_and_wait(self._client, Request(step=step, request_id=self._identity), timeout_s)


def listen_to_model(node: Node, topic: str) -> Callable[[], DrivingModel | None]:
    """Subscribe to what a driving node says about its model; returns what hands out the newest word."""
    newest: list[DrivingModel] = []
    node.create_subscription(DrivingModel, topic, lambda message: newest.__setitem__(slice(None), [message]), LATCHED)
    return lambda: newest[0] if newest else None


@contextlib.contextmanager
def running_driver(driving_node: str, base: Path, deployment: Path, timeout_s: float) -> Iterator[DriverClient]:
    """Talk to a driving node from a plain process; raises OwledError when it is not there."""
    name = "/" + driving_node.strip("/")
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node(f"owled_store_{uuid.uuid4().hex[:6]}", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    said = listen_to_model(node, f"{name}/output/model")
    client = node.create_client(SwitchModel, f"{name}/switch_model")

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException, KeyboardInterrupt):
            executor.spin()

    thread = threading.Thread(target=spin, name="driver client", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + DISCOVERY_S
        while not (client.service_is_ready() and said() is not None) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not client.service_is_ready():
            raise OwledError(
                f"no node offers {name}/switch_model; start and configure the driving node, or check its name and ROS_DOMAIN_ID"
            )
        yield DriverClient(client, said, base, deployment, timeout_s)
    finally:
        executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown(context=context)
        thread.join(2.0)
        node.destroy_node()
