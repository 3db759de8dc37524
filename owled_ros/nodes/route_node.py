"""route_node: a route and odometry in, navigation commands out: "turn left in 40 m"; of a map also its stop lines. Needs rclpy.

The route is Autoware's (LaneletRoute on a LaneletMapBin, where lanelet2's Python is installed), a nav_msgs/Path, or a text file; the
newest that came counts. Where nothing can be said a command of kind UNKNOWN takes the last one back, with the reason as its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2

from owled_ros.driving.ego import NANOSECONDS
from owled_ros.driving.guidance import GuidanceLimits, Guide
from owled_ros.driving.lane_route import Lane, Section, line_and_marks
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.perceived_tables import stop_lines_table
from owled_ros.driving.waypoint_file import read_waypoints
from owled_ros.errors import OwledError
from owled_ros.msg import NavigationCommand as CommandMessage
from owled_ros.nodes.conversions import command_to_message, odometry_to_ego
from owled_ros.nodes.diagnostics import Diagnostics, Level
from owled_ros.nodes.ego_inputs import EGO_DEPTH
from owled_ros.nodes.fast_input import FastInput
from owled_ros.nodes.input_watch import not_installed
from owled_ros.nodes.lanelet_map import read_map
from owled_ros.nodes.optional_messages import message_class
from owled_ros.nodes.parameters import Entry, declare, read_values
from owled_ros.nodes.perception_output import table_to_cloud
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.quality import LATCHED, SENSOR, advertise, subscribe
from owled_ros.nodes.spinning import spin_node
from owled_ros.onboard.throttle import Throttle

ROUTE_TYPE, MAP_TYPE = "autoware_planning_msgs/msg/LaneletRoute", "autoware_map_msgs/msg/LaneletMapBin"
LOG_PERIOD_S = 5.0
MAP_FRAME = "map"  # of a map that names none
MAX_SECTIONS = 20_000
ENTRIES = (
    Entry("waypoints_file", "str", "A route as a text file, x and y per line, in the frame of the odometry; empty: none.", read_only=True),
    Entry("waypoints_frame_id", "str", "Frame of that file; empty: that of the odometry.", read_only=True),
    Entry("publish_rate_hz", "float", "Commands a second [Hz].", 0.1, 20.0, read_only=True),
    Entry("announce_m", "float", "A command is given this far [m] before it applies.", 1.0, 1000.0, read_only=True),
    Entry("goal_m", "float", "Nearer [m] to its end the route is done.", 0.5, 100.0, read_only=True),
    Entry("off_route_m", "float", "Farther [m] from the route nothing is said.", 0.5, 100.0, read_only=True),
    Entry("max_odometry_age_s", "float", "Odometry farther from the node's clock than this [s] is not used.", 0.05, 3600.0, read_only=True),
)  # fmt: skip


@dataclass(frozen=True)
class RouteSettings:
    """See ENTRIES."""

    waypoints_file: str
    waypoints_frame_id: str
    publish_rate_hz: float
    announce_m: float
    goal_m: float
    off_route_m: float
    max_odometry_age_s: float

    @property
    def limits(self) -> GuidanceLimits:
        """When something is said."""
        return GuidanceLimits(self.announce_m, self.goal_m, self.off_route_m)


class RouteNode(Node):
    """Callbacks store; a timer speaks."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__("route_node")
        del stop
        declare(self, ENTRIES)
        self.settings = RouteSettings(**read_values(self, ENTRIES))
        self.diagnostics = Diagnostics(self)
        self._throttle = Throttle(LOG_PERIOD_S)
        self._odometry: Odometry | None = None
        self._guide: tuple[Guide, str] | None = None  # and the frame of its line
        self._problem = "no route has come"
        self._lanes: dict[int, Lane] = {}
        self._route: Any = None  # one whose map has not come
        self._said: CommandKind | None = None
        sensor = QoSProfile(depth=EGO_DEPTH, reliability=SENSOR)
        self._command = advertise(self, CommandMessage, "~/output/command", LATCHED)
        self._stop_lines = advertise(self, PointCloud2, "~/output/stop_lines", LATCHED)
        self._fast = FastInput(self, Odometry, "~/input/odometry", self._on_odometry, sensor)
        subscribe(self, PathMessage, "~/input/path", self._on_path, QoSProfile(depth=1))
        for name, topic, heard in (
            (ROUTE_TYPE, "~/input/route", self._on_route),
            (MAP_TYPE, "~/input/map", self._on_map),
        ):
            kind = message_class(name)
            if kind is None:
                self.get_logger().info(f"{topic} is not heard: {not_installed(name)}")
            else:
                subscribe(self, kind, topic, heard, LATCHED)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self.settings.publish_rate_hz, self._speak, clock=steady)
        self.create_timer(1.0, self.diagnostics.publish, clock=steady)

    def start(self) -> int | None:
        """Read the file, where one is given; an exit code where it cannot be."""
        if self.settings.waypoints_file:
            points = read_waypoints(Path(self.settings.waypoints_file).expanduser())
            self._take(Guide(points), self.settings.waypoints_frame_id, self.settings.waypoints_file)
        return None

    def close(self) -> None:
        """Let go of the fast subscription."""
        self._fast.close()

    def _on_odometry(self, message: Odometry) -> None:
        self._odometry = message

    def _on_path(self, message: PathMessage) -> None:
        def read() -> Guide:
            places = [(item.pose.position.x, item.pose.position.y) for item in message.poses]
            return Guide(np.array(places, np.float64).reshape(-1, 2))

        self._try(read, message.header.frame_id, "~/input/path")

    def _on_map(self, message: Any) -> None:
        try:
            found = read_map(bytes(message.data))
        except OwledError as error:
            self._refuse(f"the map is not used: {error}")
            return
        self._lanes = found.lanes
        table = stop_lines_table(found.stop_lines)
        now = self.get_clock().now().nanoseconds
        self._stop_lines.publish(table_to_cloud(table, now, message.header.frame_id or MAP_FRAME))
        self.get_logger().info(f"map of {len(self._lanes)} lanes, {len(table)} of them at the stop line of a light")
        if self._route is not None:
            self._on_route(self._route)

    def _on_route(self, message: Any) -> None:
        self._route = message
        if not self._lanes:
            self._refuse("a route has come, but no map of its lanes (~/input/map)")
            return
        self._try(lambda: _guide_of(message, self._lanes), message.header.frame_id, "~/input/route")

    def _try(self, read: Any, frame_id: str, source: str) -> None:
        try:
            self._take(read(), frame_id, source)
        except OwledError as error:
            self._refuse(f"the route of {source} is not used: {error}")

    def _take(self, guide: Guide, frame_id: str, source: str) -> None:
        self._guide, self._problem = (guide, frame_id), ""
        self.get_logger().info(f"route of {source}: {guide.length:.0f} m, {len(guide.marks)} turns and lane changes")

    def _refuse(self, words: str) -> None:
        """Forget the route: what came last cannot be used, and what was before it is over."""
        self._guide, self._problem = None, words

    def _speak(self) -> None:
        now = self.get_clock().now().nanoseconds
        try:
            command = self._command_now(now)
            level, words = Level.OK, command.text
        except OwledError as error:
            command = NavigationCommand(CommandKind.UNKNOWN, None, str(error), now)
            level, words = Level.WARN, f"no command: {error}"
        self._command.publish(command_to_message(command))
        self.diagnostics.report("command", level, words, kind=command.kind.name)
        if level is Level.OK and command.kind is not self._said:
            self.get_logger().info(words)
        elif level is not Level.OK and self._throttle.due(words):
            self.get_logger().warning(words)
        self._said = command.kind

    def _command_now(self, now: int) -> NavigationCommand:
        """Return the command of this moment; raises OwledError with the reason for which there is none."""
        if self._guide is None:
            raise OwledError(self._problem)
        if self._odometry is None:
            raise OwledError("no odometry has come")
        ego, frame = odometry_to_ego(self._odometry), self._odometry.header.frame_id.strip("/")
        age = abs(now - ego.stamp) / NANOSECONDS
        if age > self.settings.max_odometry_age_s:
            raise OwledError(f"the odometry is {age:.1f} s old; the limit is {self.settings.max_odometry_age_s:g} s")
        guide, route_frame = self._guide
        if route_frame and route_frame.strip("/") != frame:
            raise OwledError(f"the route is in frame {route_frame!r} and the odometry in {frame!r}; give both in one")
        if ego.pose is None:
            raise OwledError("the odometry has no pose")
        return guide.command(ego.pose, now, self.settings.limits)


def _guide_of(message: Any, lanes: dict[int, Lane]) -> Guide:
    """Convert a LaneletRoute."""
    if len(message.segments) > MAX_SECTIONS:
        raise OwledError(f"it has {len(message.segments)} segments; at most {MAX_SECTIONS} are taken")
    sections = [
        Section(int(item.preferred_primitive.id), tuple(int(lane.id) for lane in item.primitives))
        for item in message.segments
    ]
    return Guide(*line_and_marks(sections, lanes))


def main() -> int:
    """Run the node; returns the exit code."""
    return spin_node(RouteNode, RouteNode.start, "route_node.param.yaml")
