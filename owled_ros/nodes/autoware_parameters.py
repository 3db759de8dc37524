"""The parameters of autoware_node; values come from config/autoware_node.param.yaml. Needs rclpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node

from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.vehicle_info import RANGES, VehicleInfo, read_vehicle_info
from owled_ros.nodes.parameters import NOT_GIVEN, Entry, declare, launch_entries, read_values, with_launch_arguments
from owled_ros.onboard.candidates import CandidateLimits


@dataclass(frozen=True)
class AutowareSettings:
    """The values of one moment; see ENTRIES for what each means."""

    generator_name: str
    module_name: str
    map_frame_id: str
    publish_trajectories: bool
    publish_planning_trajectory: bool
    publish_turn_indicators: bool
    publish_planning_factors: bool
    publish_processing_time: bool
    publish_control: bool
    withdraw: bool
    publish_rate_hz: float
    step_s: float
    max_age_s: float
    max_distance_m: float
    min_horizon_s: float
    hold_withheld_s: float
    max_pose_gap_s: float
    max_odometry_age_s: float
    max_odometry_gap_s: float
    pose_jump_m: float
    heading_jump_rad: float
    scene_timeout_s: float
    indicate_distance_m: float
    indicate_hold_s: float
    input_timeout_s: float
    vehicle_info_file: str
    vehicle_wheel_base_m: float
    wheel_base: float
    info_of_file: VehicleInfo | None = None

    @property
    def vehicle_wheel_base(self) -> float:
        """Wheel base [m]: of vehicle.*, else of vehicle.info_file, else of Autoware's own parameter."""
        of_file = None if self.info_of_file is None else self.info_of_file.wheel_base
        told = (self.vehicle_wheel_base_m, of_file, self.wheel_base)
        return next((value for value in told if value not in (None, NOT_GIVEN)), VehicleParameters().wheel_base)

    @property
    def limits(self) -> CandidateLimits:
        """How long a trajectory may be driven on."""
        return CandidateLimits(
            self.publish_rate_hz,
            self.step_s,
            self.max_age_s,
            self.max_distance_m,
            self.min_horizon_s,
            self.hold_withheld_s,
            self.max_pose_gap_s,
            self.max_odometry_age_s,
            self.max_odometry_gap_s,
            self.pose_jump_m,
            self.heading_jump_rad,
        )


LAUNCH_ARGUMENTS = (
    *("generator_name", "module_name", "map_frame_id"),
    *("publish.trajectories", "publish.planning_trajectory", "publish.turn_indicators", "publish.planning_factors"),
    *("publish.processing_time", "publish.control", "vehicle.info_file"),
)
ENTRIES = (
    *launch_entries(LAUNCH_ARGUMENTS),
    Entry("generator_name", "str", "Name of this generator in GeneratorInfo.", read_only=True),
    Entry("module_name", "str", "Module that planning factors name.", read_only=True),
    Entry("map_frame_id", "str", "Frame of the odometry where it names none; another one is used anyway, with a warning.", read_only=True),
    Entry("publish.trajectories", "bool", "Publish ~/output/trajectories.", read_only=True),
    Entry("publish.planning_trajectory", "bool", "Publish ~/output/planning_trajectory.", read_only=True),
    Entry("publish.turn_indicators", "bool", "Publish ~/output/turn_indicators.", read_only=True),
    Entry("publish.planning_factors", "bool", "Publish ~/output/planning_factors.", read_only=True),
    Entry("publish.processing_time", "bool", "Publish ~/debug/processing_time_ms and ~/debug/model_latency_ms in Autoware's type.", read_only=True),
    Entry("publish.control", "bool", "Publish ~/output/control: the plan as a command. Read docs/autoware.md first.", read_only=True),
    Entry("withdraw", "bool", "When a plan ends, publish once an empty set of candidates: a concatenator forgets the last one at once, not after its time-out."),
    Entry("publish_rate_hz", "float", "Candidates a second [Hz], at most as many as there is odometry.", 0.5, 50.0),
    Entry("step_s", "float", "Points of a candidate are at most this far apart [s].", 0.02, 1.0),
    Entry("max_age_s", "float", "A trajectory is given up this long [s] after its image.", 0.1, 10.0),
    Entry("max_distance_m", "float", "A trajectory is given up when the vehicle is farther [m] from where it was to be by now.", 0.1, 20.0),
    Entry("min_horizon_s", "float", "A trajectory is given up when less than this [s] of it is left.", 0.0, 10.0),
    Entry("hold_withheld_s", "float", "How long [s] the last trajectory is driven on after a newer image gave a reason not to (unsure, infeasible, declined, localisation or clock broken); 0: it ends at once.", 0.0, 5.0),
    Entry("max_pose_gap_s", "float", "A trajectory is anchored only where odometry is this near [s] to its image's stamp.", 0.01, 1.0),
    Entry("max_odometry_age_s", "float", "Odometry farther from the node's clock than this [s] is not used.", 0.05, 3600.0),
    Entry("max_odometry_gap_s", "float", "After odometry was silent for longer than this [s] everything is dropped: nobody knows what lies between.", 0.05, 60.0),
    Entry("pose_jump_m", "float", "A pose that lies this much [m] off where speed and heading led is a jump: everything is dropped.", 0.1, 20.0),
    Entry("heading_jump_rad", "float", "A heading that lies this much [rad] off is a jump too.", 0.05, 3.2),
    Entry("scene_timeout_s", "float", "A scene description older than this [s] is no reason for a planning factor.", 0.1, 10.0),
    Entry("indicate_distance_m", "float", "A turn or lane change is indicated from this distance [m] on.", 1.0, 200.0),
    Entry("indicate_hold_s", "float", "An indicator stays on this long [s] after the last reason for it.", 0.0, 10.0),
    Entry("input_timeout_s", "float", "Inputs silent for this long [s] are reported.", 0.05, 3600.0),
    Entry("vehicle.info_file", "str", "Autoware's vehicle_info.param.yaml, for the wheel base; empty: none.", read_only=True),
    Entry("vehicle.wheel_base_m", "float", "Wheel base [m], makes tire angles of curvatures; 0: as vehicle.info_file, else wheel_base, else 2.8.", 0.1, 20.0, unset=NOT_GIVEN),
    Entry("wheel_base", "float", "As Autoware's vehicle_info names it [m]; 0: not given.", *RANGES["wheel_base"], read_only=True, unset=NOT_GIVEN),
)  # fmt: skip


def read_settings(node: Node) -> AutowareSettings:
    """Declare and read the parameters."""
    declare(node, ENTRIES)
    values = with_launch_arguments(read_values(node, ENTRIES), ENTRIES, LAUNCH_ARGUMENTS)
    file = values["vehicle_info_file"]
    return AutowareSettings(**values, info_of_file=read_vehicle_info(Path(file).expanduser()) if file else None)
