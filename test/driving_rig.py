"""A test bench for real nodes in real processes over real DDS: publishes inputs, collects outputs, starts and ends processes."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from owled_ros.msg import Float64Stamped, PredictedAction, PredictedTrajectory, SceneDescription
from owled_ros.nodes.conversions import stamp_to_time

TEST = Path(__file__).resolve().parent
NODE = "/driving_node"
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
SETTLED_S = 1.0  # a service is seen before it has seen the client, and what it answers until then is lost
PATIENCE_S = 60.0  # generous: a busy machine is slow, not wrong
FIRST_DOMAIN, LAST_DOMAIN = 20, 101  # below: people's own; above: ports that Linux gives away
_held: list[IO[str]] = []  # locks on domains, until the process ends


class NodeProcess:
    """A node in its own process; its output goes to a file."""

    def __init__(self, arguments: list[str], domain: int, log: Path) -> None:
        self.log = log
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
        with open(log, "wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], env=environment, stdout=stream, stderr=subprocess.STDOUT
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_text(self, text: str, timeout: float = PATIENCE_S) -> None:
        until(lambda: text in self.text() or self.process.poll() is not None, timeout)
        assert text in self.text(), f"{text!r} is not in the log:\n{self.text()}"

    def end(self, number: int = signal.SIGINT, timeout: float = 10.0) -> tuple[int, float]:
        """Send a signal; returns (exit code, seconds until the end)."""
        started = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout), time.monotonic() - started

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def free_domain() -> int:
    """Return a ROS domain that no other test process on this machine has, for as long as this process lives."""
    for domain in range(FIRST_DOMAIN, LAST_DOMAIN + 1):
        try:
            lock = open(Path(tempfile.gettempdir()) / f"owled_test_domain_{domain}.lock", "a")  # noqa: SIM115
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another test's, or another user's
            continue
        _held.append(lock)
        return domain
    raise AssertionError(f"all ROS domains from {FIRST_DOMAIN} to {LAST_DOMAIN} are taken by other tests")


def fake_node(domain: int, log: Path, **parameters: Any) -> NodeProcess:
    """Start the driving node with the stand-in model."""
    arguments = [str(TEST / "fake_driving_node.py"), "--ros-args", *parameter_words(parameters)]
    return NodeProcess(arguments, domain, log)


def parameter_words(parameters: Mapping[str, Any]) -> list[str]:
    """Write parameters as a node takes them on its command line; a double underscore stands for a dot."""
    words = []
    for name, value in parameters.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        words += ["-p", f"{name.replace('__', '.')}:={shown}"]
    return words


def until(condition: Callable[[], Any], timeout: float = PATIENCE_S, pause: float = 0.02) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(pause)
    return bool(condition())


class Peer:
    """A node of the test's own process, in a domain of its own."""

    def __init__(self, domain: int, name: str) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the domain."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)


class Bench(Peer):
    """Talks to a driving node from the test's own process."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain, "bench")
        self.actions: list[PredictedAction] = []
        self.scenes: list[SceneDescription] = []
        self.trajectories: list[PredictedTrajectory] = []
        self.withheld: list[PredictedTrajectory] = []
        self.withheld_actions: list[PredictedAction] = []
        self.answers: list[dict[str, Any]] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.images: dict[str, Any] = {}
        self.image = self.node.create_publisher(Image, f"{NODE}/input/image", BEST_EFFORT)
        self.odometry = self.node.create_publisher(Odometry, f"{NODE}/input/odometry", BEST_EFFORT)
        self.node.create_subscription(PredictedAction, f"{NODE}/output/action", self.actions.append, 50)
        self.node.create_subscription(SceneDescription, f"{NODE}/output/scene", self.scenes.append, 50)
        self.node.create_subscription(PredictedTrajectory, f"{NODE}/output/trajectory", self.trajectories.append, 50)
        self.node.create_subscription(PredictedTrajectory, f"{NODE}/output/withheld", self.withheld.append, 50)
        self.node.create_subscription(
            PredictedAction, f"{NODE}/output/withheld_action", self.withheld_actions.append, 50
        )
        self.latencies: list[Float64Stamped] = []  # [ms]
        self.node.create_subscription(String, f"{NODE}/debug/answer", self._on_answer, 50)
        self.node.create_subscription(Float64Stamped, f"{NODE}/debug/processing_time_ms", self.latencies.append, 50)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def _on_answer(self, message: String) -> None:
        self.answers.append(json.loads(message.data))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name.partition(": ")[2]: status for status in message.status})

    def spin_until(self, condition: Callable[[], Any], timeout: float = PATIENCE_S) -> bool:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if condition():
                return True
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def send_ego(
        self, stamp: int | None = None, speed: float = 8.0, yaw_rate: float = 0.0, x: float | None = None
    ) -> None:
        """Publish odometry; with `x` [m] it has a pose."""
        message = Odometry()
        message.header.stamp = stamp_to_time(self.now() if stamp is None else stamp)
        message.pose.pose.orientation.w = 0.0 if x is None else 1.0
        message.pose.pose.position.x = 0.0 if x is None else x
        message.twist.twist.linear.x, message.twist.twist.angular.z = speed, yaw_rate
        self.odometry.publish(message)

    def send_image(
        self,
        stamp: int | None = None,
        size: tuple[int, int] = (64, 48),
        publisher: Any = None,
        frame_id: str = "camera",
        **fields: Any,
    ) -> int:
        """Publish a grey image; fields override the message's. Returns the stamp."""
        stamp = self.now() if stamp is None else stamp
        width, height = size
        values: dict[str, Any] = {"height": height, "width": width, "encoding": "rgb8", "step": 3 * width, **fields}
        data = values.pop("data", None)
        message = Image(**values)
        message.data = array.array("B", np.full(3 * width * height, 90, np.uint8).tobytes() if data is None else data)
        message.header.stamp, message.header.frame_id = stamp_to_time(stamp), frame_id
        (publisher or self.image).publish(message)
        return stamp

    def drive(self, ego: Callable[[], None] | None = None, image: Callable[[], int] | None = None) -> dict[str, Any]:
        """Send odometry and images until the node has said what became of one of them; returns that."""
        sent: set[int] = set()

        def word() -> dict[str, Any] | None:
            recent = (answer for answer in reversed(self.answers) if answer["kind"] == "action")
            return next((answer for answer in recent if answer["stamp"] in sent), None)

        for _ in range(200):
            (ego or self.send_ego)()
            self.spin(0.02)
            sent.add((image or self.send_image)())
            if self.spin_until(word, 0.3):
                answer = word()
                assert answer is not None
                return answer
        raise AssertionError(f"no word about the image; diagnostics: {self.words()}")

    def drive_until(self, reason: str, tries: int = 40, **sources: Any) -> dict[str, Any]:
        """Drive until an image ends for this reason."""
        answer: dict[str, Any] = {}
        for _ in range(tries):
            answer = self.drive(**sources)
            if answer["reason"] == reason:
                return answer
        raise AssertionError(f"expected {reason}, the last answer was {answer}")

    def status(
        self, part: str, words: str, timeout: float = PATIENCE_S, meanwhile: Callable[[], Any] | None = None
    ) -> DiagnosticStatus:
        """Wait for a diagnostic message that holds the words."""

        def there() -> bool:
            if meanwhile is not None:
                meanwhile()
            return part in self.statuses and words in self.statuses[part].message

        assert self.spin_until(there, timeout), f"{part}: {words!r} was not said; diagnostics: {self.words()}"
        return self.statuses[part]

    def words(self) -> dict[str, str]:
        return {part: status.message for part, status in self.statuses.items()}

    def values(self, part: str) -> dict[str, str]:
        return {item.key: item.value for item in self.statuses[part].values}

    def call(self, kind: Any, name: str, request: Any, timeout: float = PATIENCE_S) -> Any:
        client = self.node.create_client(kind, name)
        assert self.spin_until(client.service_is_ready, timeout), f"service {name} is not there"
        self.spin(SETTLED_S)
        future = client.call_async(request)
        assert self.spin_until(future.done, timeout), f"service {name} does not answer"
        self.node.destroy_client(client)
        return future.result()

    def change(self, transition: int) -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, f"{NODE}/change_state", request).success)

    def state(self) -> str:
        return str(self.call(GetState, f"{NODE}/get_state", GetState.Request()).current_state.label)

    def set(self, **values: Any) -> list[str]:
        """Set parameters; returns the reasons of those that were refused."""
        parameters = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()
        ]
        request = SetParameters.Request(parameters=parameters)
        results = self.call(SetParameters, f"{NODE}/set_parameters", request).results
        return [result.reason for result in results if not result.successful]


__all__ = ["BEST_EFFORT", "NODE", "Bench", "CompressedImage", "NodeProcess", "fake_node", "free_domain", "until"]
