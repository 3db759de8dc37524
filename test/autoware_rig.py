"""A test bench for autoware_node over real DDS: a vehicle on a straight road, a fake driving node, everything that comes out."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

from autoware_standins import use_autoware
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from driving_rig import PATIENCE_S, NodeProcess, Peer, parameter_words, until
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock

from owled_ros.msg import DrivingModel, NavigationCommand, PredictedTrajectory, SceneDescription, TrajectoryPoint
from owled_ros.nodes.conversions import stamp_of, stamp_to_time

NODE = "/autoware_node"
SECOND = 1_000_000_000
SPEED = 10.0  # [m/s]
_latest: list[int] = []  # [ns], the last stamp of every bench
OUTPUTS = {
    "output/trajectories": "autoware_internal_planning_msgs/CandidateTrajectories",
    "output/planning_trajectory": "autoware_planning_msgs/Trajectory",
    "output/turn_indicators": "autoware_vehicle_msgs/TurnIndicatorsCommand",
    "output/planning_factors": "autoware_internal_planning_msgs/PlanningFactorArray",
    "output/control": "autoware_control_msgs/Control",
    "debug/processing_time_ms": "autoware_internal_debug_msgs/Float64Stamped",
    "debug/model_latency_ms": "autoware_internal_debug_msgs/Float64Stamped",
}


def autoware_node(domain: int, log: Path, *remaps: str, **parameters: Any) -> NodeProcess:
    """Start the node, with Autoware's packages; a double underscore stands for a dot. A busy machine is slow, not wrong: old odometry is used."""
    use_autoware()  # only now, not when tests are collected: the first use builds the stand-ins
    arguments = ["-m", "owled_ros.nodes", "autoware_node", "--ros-args"]
    for remap in remaps:
        arguments += ["-r", f"~/{remap}"]
    arguments += parameter_words({"max_odometry_age_s": 3600.0, **parameters})
    return NodeProcess(arguments, domain, log)


class AutowareBench(Peer):
    """The vehicle drives along x of the map at SPEED; its time is of our own making, and steps only when the test says so."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain, "bench")
        self.heard: dict[str, list[Any]] = {name: [] for name in OUTPUTS}
        self.status: DiagnosticStatus | None = None
        use_autoware()
        for name, full in OUTPUTS.items():
            package, _, kind_name = full.partition("/")
            kind = getattr(importlib.import_module(f"{package}.msg"), kind_name)
            self.node.create_subscription(kind, f"{NODE}/{name}", self.heard[name].append, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.odometry = self.node.create_publisher(Odometry, f"{NODE}/input/odometry", 100)
        self.trajectory = self.node.create_publisher(PredictedTrajectory, f"{NODE}/input/trajectory", 10)
        self.withheld = self.node.create_publisher(PredictedTrajectory, f"{NODE}/input/withheld", 10)
        self.scene = self.node.create_publisher(SceneDescription, f"{NODE}/input/scene", 1)
        self.model = self.node.create_publisher(DrivingModel, f"{NODE}/input/model", latched)
        self.clock = self.node.create_publisher(Clock, "/clock", 10)
        later = (
            _latest[-1] + 2 * SECOND if _latest else 0
        )  # the node lives on: no stamp falls from one bench to the next
        self.now = self.start = max(self.node.get_clock().now().nanoseconds, later)
        self.y = 0.0  # [m], what the localisation says
        self.sent: list[int] = []  # [ns], stamps of the odometry

    def close(self) -> None:
        """Leave the domain."""
        _latest.append(self.now)
        super().close()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(": candidate"):
                self.status = status

    def wait_for_node(self) -> None:
        """Until both sides have found each other."""
        ends = (self.odometry, self.trajectory, self.withheld, self.scene, self.model)
        assert self.until(lambda: all(end.get_subscription_count() for end in ends))
        names = [name for name in OUTPUTS if name != "output/control"]
        found = lambda: all(self.node.count_publishers(f"{NODE}/{name}") for name in names)  # noqa: E731
        assert self.until(found)

    def until(self, condition: Any, timeout: float = PATIENCE_S) -> bool:
        def there() -> bool:
            self.executor.spin_once(timeout_sec=0.01)
            return bool(condition())

        return until(there, timeout, pause=0.0)

    @property
    def x(self) -> float:
        """Where the vehicle is [m]."""
        return SPEED * (self.now - self.start) / SECOND

    def odometry_message(self, x: float | None = None, frame_id: str = "map") -> Odometry:
        message = Odometry(child_frame_id="base_link")
        message.header.stamp, message.header.frame_id = stamp_to_time(self.now), frame_id
        message.pose.pose.position.x, message.pose.pose.position.y = self.x if x is None else x, self.y
        message.pose.pose.position.z = 3.0
        message.pose.pose.orientation.w = 1.0
        message.twist.twist.linear.x = SPEED
        return message

    def send_odometry(self, x: float | None = None, frame_id: str = "map") -> None:
        self.sent.append(self.now)
        self.odometry.publish(self.odometry_message(x, frame_id))

    def send_trajectory(self, stamp: int, model: str = "m", seconds: float = 4.0, **fields: Any) -> None:
        """What the driving node says about the image of a moment: straight on with SPEED, a point every half second."""
        times = [0.5 * step for step in range(round(seconds / 0.5) + 1)]
        points = [TrajectoryPoint(time=time, x=SPEED * time, speed=SPEED) for time in times]
        message = PredictedTrajectory(
            valid=True,
            reason=1,
            points=points,
            model_id=model,
            latency_ms=480.0,
            command=NavigationCommand(distance=math.nan),
        )
        message.header.stamp, message.header.frame_id = stamp_to_time(stamp), "base_link"
        for name, value in fields.items():
            setattr(message, name, value)
        self.trajectory.publish(message)

    def send_withheld(self, stamp: int, reason: int) -> None:
        message = PredictedTrajectory(valid=False, reason=reason, reason_text="as the test says")
        message.header.stamp = stamp_to_time(stamp)
        self.withheld.publish(message)

    def drive(self, seconds: float, pause: float = 0.005) -> None:
        """Odometry at 50 Hz for so many seconds of its own stamps."""
        for _ in range(round(seconds / 0.02)):
            self.now += SECOND // 50
            self.send_odometry()
            self.spin(pause)

    def drive_until(self, condition: Any, seconds: float = 1.0) -> bool:
        """Drive on until something is heard, at most so many seconds of odometry; then wait for what is under way."""
        for _ in range(round(seconds / 0.02)):
            if condition():
                return True
            self.drive(0.02)
        return self.until(condition)

    @property
    def candidates(self) -> list[Any]:
        """Every candidate that was heard."""
        return [item for message in self.heard["output/trajectories"] for item in message.candidate_trajectories]

    def stamps(self) -> list[int]:
        return [stamp_of(candidate) for candidate in self.candidates]

    def begin_driving(self) -> None:
        """Drive with an answer of half a second ago, until a candidate is there."""
        self.wait_for_node()
        self.drive(1.0)
        self.send_trajectory(self.now - SECOND // 2)
        assert self.drive_until(lambda: self.candidates, 0.6), self.words()

    def words(self) -> str:
        return "no word" if self.status is None else self.status.message

    def nothing_more(self, why: str) -> None:
        """The reason is in the diagnostics, the last set of candidates was empty, and none comes any more."""
        assert self.until(lambda: why in self.words()), self.words()
        assert self.until(lambda: not self.heard["output/trajectories"][-1].candidate_trajectories)
        self.heard["output/trajectories"].clear()
        self.drive(0.4)
        self.spin(0.2)
        assert not self.candidates
