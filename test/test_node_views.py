"""A real driving node whose model asks for two cameras, past images, past poses and a command: what it is shown, and what is missing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import BEST_EFFORT, NODE, Bench, NodeProcess, fake_node, free_domain
from fake_driving_node import GOOD, make_model
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from owled_ros.msg import NavigationCommand, PredictedAction, PredictedTrajectory
from owled_ros.nodes.conversions import stamp_to_time
from owled_ros.srv import LoadModel

DOMAIN = free_domain()
SECOND = 1_000_000_000
NEEDS = {"cameras": ["front", "left"], "images": [0.5, 0.0], "ego": [0.5], "needs_pose": True, "needs_command": True}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LEFT_TOPIC = "/cameras/left/image"


class Car:
    """Two cameras, odometry and a route, sent in step until the node says what is expected."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.left = bench.node.create_publisher(Image, LEFT_TOPIC, BEST_EFFORT)
        self.route = bench.node.create_publisher(NavigationCommand, f"{NODE}/input/command", LATCHED)
        self.started = bench.now()
        self.offset = 0.0  # [m], added to the pose

    def command(self, **fields: Any) -> None:
        message = NavigationCommand(
            **{"kind": NavigationCommand.KIND_LEFT, "distance": 30.0, "text": "at the church", **fields}
        )
        message.header.stamp = stamp_to_time(self.bench.now())
        self.route.publish(message)

    def ego(self, stamp: int) -> None:
        self.bench.send_ego(stamp, x=8.0 * (stamp - self.started) / SECOND + self.offset)

    def front(self, stamp: int, **fields: Any) -> None:
        self.bench.send_image(stamp, frame_id=fields.pop("frame_id", "front_camera"), **fields)

    def side(self, stamp: int, **fields: Any) -> None:
        self.bench.send_image(stamp, frame_id=fields.pop("frame_id", "left_camera"), publisher=self.left, **fields)

    def drive(
        self,
        reason: str,
        ego: Callable[[int], None] | None = None,
        front: Callable[[int], None] | None = None,
        side: Callable[[int], None] | None = None,
        timeout: float = 15.0,
    ) -> dict[str, Any]:
        """Send everything at 10 Hz until an image that was sent here ends for this reason."""
        bench, begun = self.bench, self.bench.now()
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            stamp = bench.now()
            (ego or self.ego)(stamp)
            (side or self.side)(stamp)
            (front or self.front)(stamp)
            bench.spin(0.1)
            answers = [answer for answer in bench.answers if answer["kind"] == "action" and answer["stamp"] >= begun]
            if answers and answers[-1]["reason"] == reason:
                return answers[-1]
        raise AssertionError(f"expected {reason}; the last answers were {answers[-3:]}; diagnostics: {bench.words()}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "both", needs=NEEDS)


@pytest.fixture(scope="module")
def process(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    parameters: dict[str, Any] = {"model_path": model, "model_root": model.parent, "input_timeout_s": 1.0}
    # generous: this is not about the speed of a busy machine
    parameters |= {"max_frame_age_s": 5.0, "deadline_s": 5.0, "max_ego_gap_s": 1.0, "view_tolerance_s": 0.2}
    parameters |= {"cameras__topics": f"'left: {LEFT_TOPIC}'"}
    with fake_node(DOMAIN, tmp_path_factory.mktemp("log") / "node.log", **parameters) as running:
        yield running
        assert running.process.poll() is None, running.text()
        assert "Traceback" not in running.text()


@pytest.fixture(scope="module")
def shared(process: NodeProcess) -> Iterator[Car]:
    with Bench(DOMAIN) as bench:
        car = Car(bench)
        process.wait_for_text("image left <-")
        assert "has come" in car.drive("NO_COMMAND")["detail"]
        car.command()
        car.drive("VALID")
        yield car


@pytest.fixture
def car(shared: Car) -> Car:
    shared.command()
    shared.drive("VALID")
    return shared


def stamp_of(message: PredictedTrajectory | PredictedAction) -> int:
    return int(message.header.stamp.sec) * SECOND + int(message.header.stamp.nanosec)


def test_the_model_sees_both_cameras_the_past_and_the_route(car: Car) -> None:
    bench = car.bench
    answer = car.drive("VALID")
    assert bench.spin_until(lambda: any(stamp_of(message) == answer["stamp"] for message in bench.trajectories))
    found = next(message for message in bench.trajectories if stamp_of(message) == answer["stamp"])
    views = found.reasoning.split("; ")
    assert [view.split()[0] for view in views[:4]] == ["front", "front", "left", "left"]
    ages = [float(view.split()[1]) for view in views[:4]]
    assert (ages[1], ages[3]) == (0.0, 0.0)
    assert 0.3 <= ages[0] <= 0.7
    assert float(views[4]) == pytest.approx(-4.0, abs=0.2), "0.5 s ago, 4 m behind"
    assert (found.valid, found.header.frame_id, found.text) == (True, "base_link", GOOD)
    assert (found.command.kind, found.command.text) == (NavigationCommand.KIND_LEFT, "at the church")
    assert not found.confidence_calibrated
    first, last = found.points[0], found.points[-1]
    assert (first.time, first.x, first.y, first.heading) == (0.0, 0.0, 0.0, 0.0)
    # +0.4 m/s2 from 8 m/s for 3 s: 24 + 1.8 m along the path
    assert math.hypot(last.x, last.y) == pytest.approx(25.8, abs=0.5)
    assert last.y > 0.0
    action = next(message for message in bench.actions if stamp_of(message) == answer["stamp"])
    assert action.acceleration == pytest.approx(first.acceleration)
    bench.status("model", "its confidence is not calibrated")


def test_a_camera_that_stops_is_named_and_so_is_one_that_comes_back(car: Car) -> None:
    bench = car.bench
    bench.withheld.clear()
    bench.withheld_actions.clear()
    answer = car.drive("STALE_VIEW", side=lambda _: None)
    assert "camera left" in answer["detail"]
    assert bench.spin_until(lambda: bench.withheld and bench.withheld_actions)
    withheld, action = bench.withheld[-1], bench.withheld_actions[-1]
    assert (withheld.valid, len(withheld.points), withheld.reason) == (False, 0, PredictedAction.REASON_STALE_VIEW)
    assert "camera left" in withheld.reason_text
    assert (action.valid, math.isnan(action.acceleration), action.reason) == (False, True, withheld.reason)
    bench.status("image left", "stale: no message for", meanwhile=lambda: car.front(bench.now()))
    car.drive("VALID")


def test_another_rate_does_not_matter(car: Car) -> None:
    def fast(stamp: int) -> None:
        for part in range(4):
            car.side(stamp + part * SECOND // 40)

    for _ in range(3):
        car.drive("VALID", side=fast)


def test_another_size_is_shown_once_its_past_is_whole(car: Car) -> None:
    answer = car.drive("NO_HISTORY", side=lambda stamp: car.side(stamp, size=(80, 60)))
    assert "camera left changed its size from (64, 48) to (80, 60)" in answer["detail"]
    car.drive("VALID", side=lambda stamp: car.side(stamp, size=(80, 60)))
    car.drive("NO_HISTORY")


def test_exchanged_cameras_are_refused(car: Car) -> None:
    answer = car.drive(
        "MISSING_VIEW",
        front=lambda stamp: car.front(stamp, frame_id="left_camera"),
        side=lambda stamp: car.side(stamp, frame_id="front_camera"),
    )
    assert "the topics are exchanged" in answer["detail"]


def test_a_damaged_view_has_its_camera_named(car: Car) -> None:
    answer = car.drive("BAD_IMAGE", side=lambda stamp: car.side(stamp, encoding="rgb9"))
    assert answer["detail"].startswith("camera left: image encoding 'rgb9'")


def test_odometry_without_a_pose_and_poses_that_jump(car: Car) -> None:
    answer = car.drive("BAD_EGO", ego=car.bench.send_ego)
    assert "no pose" in answer["detail"]
    car.drive("VALID")
    car.offset += 50.0
    answer = car.drive("POSE_JUMP")
    assert "jumped by 50." in answer["detail"]
    car.drive("VALID")


def test_a_twist_that_contradicts_the_pose_is_said_and_refused(car: Car) -> None:
    bench = car.bench

    def still(stamp: int) -> None:
        bench.send_ego(stamp, speed=0.0, x=8.0 * (stamp - car.started) / SECOND + car.offset)

    assert "the odometry's twist says" in car.drive("BAD_EGO", ego=still)["detail"]
    words = "the odometry's twist says 0.0 m/s while its pose moves at 8.0 m/s"
    status = bench.status("odometry", words, meanwhile=lambda: car.drive("BAD_EGO", ego=still))
    assert "with ego_source auto the pose is used" in status.message
    car.drive("VALID")


def test_commands_expire_and_cannot_be_anything(car: Car) -> None:
    bench = car.bench
    assert bench.set(command_timeout_s=0.5) == []
    assert "the limit is 0.5 s" in car.drive("EXPIRED_COMMAND")["detail"]
    assert bench.set(command_timeout_s=60.0) == []
    car.command(kind=200)
    assert "has kind 200" in car.drive("NO_COMMAND")["detail"]
    car.command(kind=NavigationCommand.KIND_UNKNOWN)
    assert "none has come" in car.drive("NO_COMMAND")["detail"]
    car.command(distance=-1.0)
    assert "distance -1 m" in car.drive("NO_COMMAND")["detail"]


def test_path_and_markers_are_made_for_those_who_look(car: Car) -> None:
    bench = car.bench
    paths: list[PathMessage] = []
    markers: list[MarkerArray] = []
    hearers = [
        bench.node.create_subscription(PathMessage, f"{NODE}/debug/path", paths.append, 5),
        bench.node.create_subscription(MarkerArray, f"{NODE}/debug/markers", markers.append, 5),
    ]
    assert bench.spin_until(lambda: (paths and markers) or (car.drive("VALID") and False))
    path = paths[-1]
    assert (path.header.frame_id, path.poses[0].pose.position.x) == ("base_link", 0.0)
    ahead = path.poses[-1].header.stamp
    assert ahead.sec * SECOND + ahead.nanosec - path.header.stamp.sec * SECOND - path.header.stamp.nanosec == 3 * SECOND
    assert markers[-1].markers[0].text == GOOD
    assert len(markers[-1].markers[1].points) == len(path.poses)
    for hearer in hearers:
        bench.node.destroy_subscription(hearer)


def test_a_model_with_other_cameras_takes_over_with_its_past_filled(car: Car, model: Path) -> None:
    bench = car.bench
    make_model(model.parent / "single")
    assert bench.call(LoadModel, f"{NODE}/load_model", LoadModel.Request(path="single")).success
    assert car.drive("VALID")["model_id"] == "single@fake"
    bench.statuses.clear()
    bench.status("image", "receiving", meanwhile=lambda: car.drive("VALID"))
    assert "image left" not in bench.statuses, "nobody listens to the other camera any more"
    client = bench.node.create_client(LoadModel, f"{NODE}/load_model")
    assert bench.spin_until(client.service_is_ready)
    car.command()
    bench.answers.clear()
    future = client.call_async(LoadModel.Request(path="both"))
    while not future.done() or car.drive("VALID")["model_id"] != "both@fake":
        car.drive("VALID")
    assert future.result().success, future.result().message
    assert {answer["reason"] for answer in bench.answers if answer.get("model_id") == "both@fake"} <= {"VALID"}
    bench.node.destroy_client(client)
