"""route_node over real DDS: a line, a lane map and a file become commands; what cannot be used takes them back with words."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import BEST_EFFORT, NodeProcess, Peer, free_domain
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2

from owled_ros.driving.perceived_tables import stop_lines_in
from owled_ros.msg import NavigationCommand
from owled_ros.nodes.conversions import stamp_to_time
from owled_ros.nodes.lanelet_map import read_map

DOMAIN = free_domain()
CORNER = [(0.0, 0.0), (100.0, 0.0), (100.0, 100.0)]
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Car(Peer):
    """Says where it is, gives routes, hears commands."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain, "car")
        self.commands: list[NavigationCommand] = []
        self.odometry = self.node.create_publisher(Odometry, "/route_node/input/odometry", BEST_EFFORT)
        self.path = self.node.create_publisher(PathMessage, "/route_node/input/path", 1)
        self.node.create_subscription(NavigationCommand, "/route_node/output/command", self.commands.append, LATCHED)

    def drive(self, x: float, y: float = 0.0, frame: str = "map", late_s: float = 0.0, turn: float = 1.0) -> None:
        message = Odometry()
        now = self.node.get_clock().now().nanoseconds - round(late_s * 1e9)
        message.header.stamp, message.header.frame_id = stamp_to_time(now), frame
        message.pose.pose.position.x, message.pose.pose.position.y = x, y
        message.pose.pose.orientation.w = turn
        self.odometry.publish(message)

    def route(self, places: list[tuple[float, float]], frame: str = "map") -> None:
        message = PathMessage()
        message.header.frame_id = frame
        for x, y in places:
            pose = PoseStamped()
            pose.pose.position.x, pose.pose.position.y = x, y
            message.poses.append(pose)
        self.path.publish(message)

    def hears(self, kind: int, words: str, again: Any, tries: int = 400) -> NavigationCommand:
        """Repeat something until a command comes that holds the words."""
        for _ in range(tries):
            self.commands.clear()
            again()
            for _ in range(10):
                self.executor.spin_once(timeout_sec=0.02)
            for command in self.commands:
                if command.kind == kind and words in command.text:
                    return command
        raise AssertionError(f"{words!r} was not said; the last command was {self.commands[-1:]}")


@pytest.fixture(scope="module")
def car(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Car]:
    log = tmp_path_factory.mktemp("route") / "log"
    made = Car(DOMAIN)
    arguments = ["-m", "owled_ros.nodes", "route_node", "--ros-args", "-p", "publish_rate_hz:=20.0"]
    with NodeProcess(arguments, DOMAIN, log) as process:
        yield made
        code, _ = process.end()
        assert code == 0, process.text()
        assert "Traceback" not in process.text()
    made.close()


def test_a_path_and_where_the_car_is_become_a_command(car: Car) -> None:
    car.hears(NavigationCommand.KIND_UNKNOWN, "no route has come", lambda: car.drive(60.0))

    def go() -> None:
        car.route(CORNER)
        car.drive(60.0, 1.0)

    command = car.hears(NavigationCommand.KIND_LEFT, "turn left in 40 m", go)
    assert command.distance == pytest.approx(40.0, abs=1e-3)
    assert command.header.stamp.sec > 0
    car.hears(NavigationCommand.KIND_FOLLOW_LANE, "follow", lambda: car.drive(20.0))
    stop = car.hears(NavigationCommand.KIND_STOP, "goal", lambda: car.drive(100.0, 97.0))
    assert stop.distance == pytest.approx(3.0, abs=1e-3)


def test_where_nothing_can_be_said_the_command_is_taken_back_with_the_reason(car: Car) -> None:
    unknown = NavigationCommand.KIND_UNKNOWN
    car.hears(NavigationCommand.KIND_FOLLOW_LANE, "", lambda: (car.route(CORNER), car.drive(20.0)))
    car.hears(unknown, "30.0 m off the route", lambda: car.drive(20.0, 30.0))
    car.hears(unknown, "the odometry is", lambda: car.drive(20.0, late_s=5.0))
    car.hears(unknown, "the route is in frame 'map' and the odometry in 'odom'", lambda: car.drive(20.0, frame="odom"))
    car.hears(unknown, "the odometry has no pose", lambda: car.drive(math.nan))
    car.hears(unknown, "the odometry has no pose", lambda: car.drive(20.0, turn=0.0))
    for bad, words in (
        ([], "0 places"),
        ([(0.0, 0.0), (math.nan, 1.0)], "expected finite"),
        ([(1.0, 1.0)] * 3, "1 places"),
    ):

        def spoil(bad: list[tuple[float, float]] = bad) -> None:
            car.route(bad)
            car.drive(20.0)

        car.hears(unknown, words, spoil)
    car.hears(NavigationCommand.KIND_FOLLOW_LANE, "", lambda: (car.route(CORNER), car.drive(20.0)))


def test_a_file_that_cannot_be_read_ends_the_node(tmp_path: Path) -> None:
    arguments = ["-m", "owled_ros.nodes", "route_node", "--ros-args", "-p", f"waypoints_file:={tmp_path / 'none'}"]
    with NodeProcess(arguments, free_domain(), tmp_path / "log") as process:
        assert process.process.wait(60) == 1
        assert "are not there" in process.text()


def test_autowares_route_on_its_map(tmp_path: Path) -> None:
    """A lane, the lane to its left, and behind that one a turn to the left, in lanelet2's own bytes."""
    lanelet2 = pytest.importorskip("lanelet2", reason="needs lanelet2's Python")
    standins = pytest.importorskip("autoware_standins")
    standins.use_autoware()
    from autoware_map_msgs.msg import LaneletMapBin
    from autoware_planning_msgs.msg import LaneletPrimitive, LaneletRoute, LaneletSegment

    lanes, data = _map(lanelet2, tmp_path / "map.bin")
    domain = free_domain()
    arguments = ["-m", "owled_ros.nodes", "route_node", "--ros-args", "-p", "publish_rate_hz:=20.0"]
    os.environ.update(standins.environment(os.environ))
    car = Car(domain)
    with NodeProcess(arguments, domain, tmp_path / "log") as process:
        maps = car.node.create_publisher(LaneletMapBin, "/route_node/input/map", LATCHED)
        routes = car.node.create_publisher(LaneletRoute, "/route_node/input/route", LATCHED)
        message = LaneletRoute()
        message.header.frame_id = "map"
        for preferred, others in ((lanes[0], lanes[:2]), (lanes[2], lanes[2:])):
            primitives = [LaneletPrimitive(id=number, primitive_type="lane") for number in others]
            chosen = LaneletPrimitive(id=preferred, primitive_type="lane")
            message.segments.append(LaneletSegment(preferred_primitive=chosen, primitives=primitives))
        routes.publish(message)
        car.hears(NavigationCommand.KIND_UNKNOWN, "but no map", lambda: car.drive(30.0))
        maps.publish(LaneletMapBin(data=data))
        lines: list[PointCloud2] = []
        car.node.create_subscription(PointCloud2, "/route_node/output/stop_lines", lines.append, LATCHED)
        car.hears(NavigationCommand.KIND_LANE_CHANGE_LEFT, "change to the left lane now", lambda: car.drive(30.0))
        car.hears(NavigationCommand.KIND_LEFT, "turn left", lambda: car.drive(60.0, 4.0))
        (found,) = stop_lines_in(lines[-1]).values()
        assert (found, lines[-1].header.frame_id) == (((50.0, 4.0),), "map")  # where the turn begins
        maps.publish(LaneletMapBin(data=data[:100]))
        process.wait_for_text("map of 3 lanes, 1 of them at the stop line")
        car.hears(NavigationCommand.KIND_UNKNOWN, "the map is not used", lambda: car.drive(30.0))
    car.close()


def test_a_lane_stands_at_the_stop_line_of_its_light(tmp_path: Path) -> None:
    lanelet2 = pytest.importorskip("lanelet2", reason="needs lanelet2's Python")
    lanes, data = _map(lanelet2, tmp_path / "map.bin")
    found = read_map(data)
    assert set(found.lanes) == set(lanes)
    assert [(x, y) for x, y, _ in found.stop_lines] == [(50.0, 4.0)]  # where the turn begins, not where it ends


def _map(lanelet2: Any, path: Path) -> tuple[list[int], bytes]:
    from lanelet2.core import AttributeMap, Lanelet, LaneletMap, LineString3d, Point3d, TrafficLight, getId
    from lanelet2.projection import UtmProjector

    points: dict[tuple[float, float], Any] = {}
    lines: dict[Any, Any] = {}

    def line(*places: tuple[float, float]) -> Any:
        for x, y in places:
            points.setdefault((x, y), Point3d(getId(), x, y, 0.0))
        return lines.setdefault(places, LineString3d(getId(), [points[place] for place in places]))

    right = Lanelet(getId(), line((0, 2), (50, 2)), line((0, -2), (50, -2)))
    left = Lanelet(getId(), line((0, 6), (50, 6)), line((0, 2), (50, 2)))
    turn = Lanelet(getId(), line((50, 6), (100, 6)), line((50, 2), (100, 2)))
    turn.attributes["turn_direction"] = "left"
    lamp, stop = line((60, 8), (60, 9)), line((48, 2), (48, 6))
    turn.addRegulatoryElement(TrafficLight(getId(), AttributeMap(), [lamp], stop))
    made = LaneletMap()
    for lane in (right, left, turn):
        made.add(lane)
    lanelet2.io.write(str(path), made, UtmProjector(lanelet2.io.Origin(0.0, 0.0)))
    return [right.id, left.id, turn.id], path.read_bytes()
