"""The parameters of driving_node: declared once, without defaults; values come from config/driving_node.param.yaml. Needs rclpy."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from owled_ros.compute_type import SPARSE_GOALS
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.vehicle_info import NAMES as VEHICLE_NAMES
from owled_ros.driving.vehicle_info import (
    RANGES,
    UNREAD,
    VehicleInfo,
    read_vehicle_info,
    vehicle_info_of,
    with_vehicle_info,
)
from owled_ros.errors import OwledError
from owled_ros.nodes.cameras import CameraChoices, read_choices
from owled_ros.settings import settings_of, types_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NOT_GIVEN = 0.0  # of a length or a width that cannot be 0
NO_ANGLE = -99.0  # the same, of what may be 0 or below
KINDS = {
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "float": Parameter.Type.DOUBLE,
    "str": Parameter.Type.STRING,
}
AS_WRITTEN = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number with a decimal point, for example 1.0",
    "str": "a text; one that looks like a number needs quotes inside quotes, for example \"'1'\"",
}


OF_RCLPY = ("use_sim_time", "start_type_description_service")  # declared or read by rclpy itself
SHOWN_UNKNOWN = 5  # a file may be meant for many nodes


@dataclass(frozen=True)
class Entry:
    """One parameter; the name with dots as underscores is the attribute of the settings."""

    name: str
    kind: str  # a key of KINDS
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False
    bare: bool = False  # a text that may also be written as a number, without quotes
    unset: float | None = None  # stands for "not given"


@dataclass(frozen=True)
class DrivingSettings:
    """The values of one moment; see ENTRIES for what each means."""

    autostart: bool
    exit_on_failure: bool
    launch_params_file: str
    model_path: str
    deployment: str
    model_root: str
    artifact_store: str
    device: str
    dtype: str
    runtime: str
    threads: int
    memory_reserve_mb: float
    load_timeout_s: float
    image_transport: str
    image_decoder: str
    max_pixels: int
    ego_source: str
    output_frame_id: str
    description_rate_hz: float
    description_patience_s: float
    confidence_floor: float
    max_frame_age_s: float
    max_ego_gap_s: float
    view_tolerance_s: float
    view_wait_s: float
    command_timeout_s: float
    deadline_s: float
    input_timeout_s: float
    debug_image_width_px: int
    cameras_topics: str
    cameras_transports: str
    cameras_frame_ids: str
    vehicle_info_file: str
    vehicle_wheel_base_m: float
    vehicle_max_steering_tire_angle_rad: float
    vehicle_max_acceleration_mps2: float
    vehicle_max_deceleration_mps2: float
    vehicle_max_speed_mps: float
    vehicle_max_lateral_acceleration_mps2: float
    vehicle_max_steering_rate_radps: float
    vehicle_max_jerk_mps3: float
    wheel_base: float
    wheel_tread: float
    front_overhang: float
    rear_overhang: float
    left_overhang: float
    right_overhang: float
    max_steer_angle: float
    camera_info_topic: str
    camera_horizontal_fov_rad: float
    camera_height_m: float
    camera_pitch_rad: float
    camera_forward_m: float
    info_of_file: VehicleInfo | None = None  # what vehicle.info_file holds

    @property
    def cameras(self) -> CameraChoices:
        """Topics, transports and frames of the cameras."""
        return read_choices(self.image_transport, self.cameras_transports, self.cameras_topics, self.cameras_frame_ids)

    @property
    def vehicle(self) -> VehicleParameters:
        """Geometry and limits: those of vehicle.*, else of vehicle.info_file, else of Autoware's own parameters."""
        limits = VehicleParameters(
            max_acceleration=self.vehicle_max_acceleration_mps2,
            max_deceleration=self.vehicle_max_deceleration_mps2,
            max_speed=self.vehicle_max_speed_mps,
            max_lateral_acceleration=self.vehicle_max_lateral_acceleration_mps2,
            max_steering_rate=self.vehicle_max_steering_rate_radps,
            max_jerk=self.vehicle_max_jerk_mps3,
        )
        own = {"wheel_base": self.vehicle_wheel_base_m, "max_steer_angle": self.vehicle_max_steering_tire_angle_rad}
        told = [self._info_of_parameters, self.info_of_file, VehicleInfo(**_given(own))]
        for info in filter(None, told):
            limits = with_vehicle_info(limits, info)
        return limits

    @property
    def _info_of_parameters(self) -> VehicleInfo | None:
        values = _given({name: getattr(self, name) for name in VEHICLE_NAMES})
        return vehicle_info_of(values, "the parameters of the node") if values else None

    @property
    def view_given(self) -> dict[str, float]:
        """Where the camera looks from, as far as the parameters say it."""
        values = {
            "horizontal_fov": (self.camera_horizontal_fov_rad, NOT_GIVEN),
            "height": (self.camera_height_m, NOT_GIVEN),
            "pitch": (self.camera_pitch_rad, NO_ANGLE),
            "forward": (self.camera_forward_m, NO_ANGLE),
        }
        return {name: value for name, (value, unset) in values.items() if value != unset}


def _given(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value != NOT_GIVEN}


def launch_entries(names: Iterable[str]) -> tuple[Entry, ...]:
    """Declare what a launch file passes on: an argument that was not given leaves the value of the parameter file alone."""
    words = "Argument {} of the launch file; empty: not given. Goes before {}."
    return tuple(Entry(f"launch.{name}", "str", words.format(name, name), read_only=True) for name in names)


AnySettings = TypeVar("AnySettings", bound="DataclassInstance")


def entries_of(kind: type) -> tuple[Entry, ...]:
    """Return the parameters of a node that a dataclass of settings declares."""
    entries = []
    for name, declared in settings_of(kind).items():
        if declared.parameter is None:
            continue
        words = f"{declared.help} Goals may name another." if declared.goal else declared.help
        entries.append(
            Entry(
                declared.parameter or name, types_of(kind)[name].__name__, words, declared.low, declared.high, declared.choices,
                read_only=True, bare=declared.bare,
            )
        )  # fmt: skip
    return tuple(entries)


LAUNCH_ARGUMENTS = (
    *(
        "model_path",
        "deployment",
        "image_transport",
        "autostart",
        "exit_on_failure",
        "device",
        "ego_source",
        "output_frame_id",
    ),
    *("cameras.topics", "cameras.transports", "cameras.frame_ids", "vehicle.info_file"),
)
ENTRIES = (
    Entry("autostart", "bool", "Configure and activate at start.", read_only=True),
    Entry("exit_on_failure", "bool", "End the process with code 1 when autostart fails.", read_only=True),
    Entry("launch.params_file", "str", "What the launch file was given as params_file; empty: not launched.", read_only=True),
    *launch_entries(LAUNCH_ARGUMENTS),
    Entry("model_path", "str", "Model directory or artifact; mini: the bundled demonstration model, mini-turns: the one that turns at junctions, llm-driver: the one that reads vectors; empty: the deployment, or, where nothing was given at all, the bundled model.", read_only=True),
    Entry("deployment", "str", "Directory of a deployment (`owled deploy`): its current version drives, or its base model; empty: none.", read_only=True),
    Entry("model_root", "str", "~/load_model accepts only directories below this one; empty: any.", read_only=True),
    Entry("artifact_store", "str", "Older name of deployment; a store without deployment.json takes model_path as its base model.", read_only=True),
    Entry("device", "str", "Torch device: auto (CUDA where there is one), cpu, cuda, cuda:1.", read_only=True),
    Entry("dtype", "str", "Number type of the torch parts; auto: bfloat16 where the device multiplies it; int8 on CUDA: auto, and weights as int8; fastest-int8, smallest-int8, sparse-bf16: zeros left out too where it serves that (docs/gpu.md).", choices=("auto", "float32", "bfloat16", "float16", "int8", *SPARSE_GOALS), read_only=True),
    Entry("runtime", "str", "How the model runs.", choices=("auto", "torch", "sparse"), read_only=True),
    Entry("threads", "int", "CPU threads for inference.", 1, 256, read_only=True),
    Entry("memory_reserve_mb", "float", "Memory that stays free beside two models in ~/load_model [MB].", 0.0, 1e6),
    Entry("load_timeout_s", "float", "How long a model of ~/load_model may take to be tried, and again to be loaded [s].", 0.1, 3600.0),
    Entry("image_transport", "str", "Which image topic is read.", choices=("raw", "compressed"), read_only=True),
    Entry("image_decoder", "str", "auto: a sound cv_bridge for unusual encodings, own: never.", choices=("auto", "own"), read_only=True),
    Entry("max_pixels", "int", "Images with more pixels than this are refused before they are decoded.", 4, 1_000_000_000, read_only=True),
    Entry("ego_source", "str", "Speed and yaw rate: twist of the odometry (refused while its pose contradicts it), pose, auto: the twist unless contradicted, or velocity_report: those of the vehicle, the odometry gives the pose alone. Until odometry comes a velocity report counts.", choices=("twist", "pose", "auto", "velocity_report"), read_only=True),
    Entry("output_frame_id", "str", "frame_id of actions (the vehicle's base frame)."),
    Entry("description_rate_hz", "float", "Upper rate of scene descriptions [Hz]; 0: none.", 0.0, 100.0),
    Entry("description_patience_s", "float", "A description or answer that yielded to newer frames this long [s] is finished once.", 0.0, 3600.0),
    Entry("confidence_floor", "float", "Actions below this confidence are withheld; -1: the floor recommended by the model.", -1.0, 1.0),
    Entry("max_frame_age_s", "float", "Images older than this [s] on the ROS clock are not used.", 0.001, 3600.0),
    Entry("max_ego_gap_s", "float", "Odometry farther from the image's stamp than this [s] is not used.", 0.001, 60.0),
    Entry("view_tolerance_s", "float", "Images of other cameras, and past images, farther than this [s] from the stamp that they should have are not used.", 0.001, 10.0),
    Entry("view_wait_s", "float", "Longest wait [s] for the other cameras' images of the same moment.", 0.0, 1.0),
    Entry("command_timeout_s", "float", "Navigation commands older than this [s] are not used.", 0.1, 3600.0),
    Entry("deadline_s", "float", "Actions later than this [s] after the image's stamp are withheld.", 0.001, 3600.0),
    Entry("input_timeout_s", "float", "Inputs silent for this long [s] are reported.", 0.05, 3600.0),
    Entry("debug_image_width_px", "int", "Width of the overlay [px]; smaller images stay as they are.", 64, 3840),
    Entry("cameras.topics", "str", "Topics of cameras by name, for example 'left: /camera/left/image, right: /camera/right/image'; others: ~/input/<camera>/image.", read_only=True),
    Entry("cameras.transports", "str", "Cameras whose transport is not image_transport, for example 'left: compressed'.", read_only=True),
    Entry("cameras.frame_ids", "str", "The frame_id that a camera's images must have, for example 'left: camera_left'; others: any.", read_only=True),
    Entry("vehicle.info_file", "str", "Autoware's vehicle_info.param.yaml: wheel base, overhangs, largest tire angle; empty: none.", read_only=True),
    Entry("vehicle.wheel_base_m", "float", "Wheel base [m]; 0: as vehicle.info_file, else wheel_base, else 2.8.", 0.1, 20.0, unset=NOT_GIVEN),
    Entry("vehicle.max_steering_tire_angle_rad", "float", "Tire angle of full steering [rad]; 0: as vehicle.info_file, else max_steer_angle, else 0.6.", 0.01, 1.57, unset=NOT_GIVEN),
    Entry("vehicle.max_acceleration_mps2", "float", "Acceleration of full throttle [m/s2].", 0.1, 20.0),
    Entry("vehicle.max_deceleration_mps2", "float", "Deceleration of full brake [m/s2], positive.", 0.1, 20.0),
    Entry("vehicle.max_speed_mps", "float", "Trajectories that go faster than this [m/s] are withheld.", 0.5, 100.0),
    Entry("vehicle.max_lateral_acceleration_mps2", "float", "Trajectories with a higher lateral acceleration [m/s2] are withheld.", 0.1, 30.0),
    Entry("vehicle.max_steering_rate_radps", "float", "Trajectories that turn the wheels faster than this [rad/s] are withheld.", 0.01, 10.0),
    Entry("vehicle.max_jerk_mps3", "float", "Trajectories with a higher jerk along the path [m/s3] are withheld.", 0.1, 100.0),
    *(Entry(name, "float", f"As Autoware's vehicle_info names it [{'rad' if name == 'max_steer_angle' else 'm'}]; 0: not given.", low, high, read_only=True, unset=NOT_GIVEN) for name, (low, high) in RANGES.items()),
    Entry("camera.info_topic", "str", "sensor_msgs/CameraInfo of the first camera; empty: camera_info beside its images; none: not heard.", read_only=True),
    Entry("camera.horizontal_fov_rad", "float", "Horizontal field of view [rad], for the overlay only; 0: of CameraInfo, else 1.2217.", 0.1, 3.0, unset=NOT_GIVEN),
    Entry("camera.height_m", "float", "Height of the camera above the ground [m], for the overlay only; 0: of tf_static, else 1.5.", 0.1, 10.0, unset=NOT_GIVEN),
    Entry("camera.pitch_rad", "float", "Pitch of the camera [rad], downward positive, for the overlay only; -99: of tf_static, else 0.02.", -0.7, 0.7, unset=NO_ANGLE),
    Entry("camera.forward_m", "float", "From the rear axle forward to the camera [m], for the overlay only; -99: of tf_static, else 1.6.", -5.0, 10.0, unset=NO_ANGLE),
)  # fmt: skip


def declare(node: Node, entries: Iterable[Entry]) -> None:
    """Declare parameters with type, range and description; none has a default. Raises OwledError for a given value that does not fit."""
    for entry in entries:
        try:
            node.declare_parameter(entry.name, None if entry.bare else KINDS[entry.kind], descriptor_of(entry))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise OwledError(f"parameter {entry.name}: {error}; expected {AS_WRITTEN[entry.kind]}") from error


def warn_of_unknown(node: Node) -> None:
    """Log the given parameters that the node does not have: ROS passes over a misspelled name in silence."""
    given = getattr(
        node, "_parameter_overrides", {}
    )  # what files and command line hold; rclpy has no public name for it
    unknown = [
        name
        for name in given
        if not node.has_parameter(name) and not name.startswith("qos_overrides.") and name not in (*OF_RCLPY, *UNREAD)
    ]
    known = [str(name) for name in node._parameters]
    for name in unknown[:SHOWN_UNKNOWN]:
        near = difflib.get_close_matches(name, known, 1)
        words = f"; did you mean {near[0]}?" if near else ""
        node.get_logger().warning(f"parameter {name} was given, but {node.get_name()} has none of that name{words}")


def descriptor_of(entry: Entry) -> ParameterDescriptor:
    """Describe a parameter for `ros2 param describe`."""
    descriptor = ParameterDescriptor(
        description=entry.description, read_only=entry.read_only, dynamic_typing=entry.bare
    )
    if entry.choices:
        descriptor.additional_constraints = "one of " + ", ".join(entry.choices)
    if entry.low is not None and entry.high is not None and entry.kind == "float":
        low = min(entry.low, entry.low if entry.unset is None else entry.unset)
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(entry.high))]
    elif entry.low is not None and entry.high is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(entry.low), to_value=int(entry.high))]
    return descriptor


def read_values(node: Node, entries: Iterable[Entry]) -> dict[str, Any]:
    """Read every parameter by attribute name; raises OwledError when the parameter file left one out."""
    values: dict[str, Any] = {}
    for entry in entries:
        try:
            value = node.get_parameter(entry.name).value
        except ParameterUninitializedException:
            value = None
        if value is None:
            raise OwledError(
                f"parameter {entry.name} has no value; start the node with --params-file config/{node.get_name()}.param.yaml "
                "or add the parameter to your own file"
            )
        values[entry.name.replace(".", "_")] = str(value) if entry.bare else value
        problem = problem_of(entry, value)
        if problem:
            raise OwledError(problem)
    return values


def read_settings(node: Node) -> DrivingSettings:
    """Read what driving_node needs."""
    values = with_launch_arguments(read_values(node, ENTRIES), ENTRIES, LAUNCH_ARGUMENTS)
    file = values["vehicle_info_file"]
    settings = DrivingSettings(**values, info_of_file=read_vehicle_info(Path(file).expanduser()) if file else None)
    _ = settings.cameras, settings.vehicle  # raises for texts and files that cannot be read
    return settings


def with_launch_arguments(values: dict[str, Any], entries: Iterable[Entry], names: Iterable[str]) -> dict[str, Any]:
    """Put the arguments that a launch file was given in their places; raises OwledError for one that cannot stand there."""
    given = {name: str(values.pop(f"launch_{name.replace('.', '_')}")) for name in names}
    known = {entry.name: entry for entry in entries}
    for name, text in given.items():
        if not text:
            continue
        truth = {"true": True, "false": False}
        value = truth.get(text.lower()) if known[name].kind == "bool" else text
        problem = problem_of(known[name], value) if value is not None else f"{text!r} is neither true nor false"
        if problem:
            raise OwledError(f"launch argument {name}: {problem}")
        values[name.replace(".", "_")] = value
    return values


def problem_of(entry: Entry, value: object) -> str:
    """Say what is wrong about a value beyond its type and range; empty when it may be used."""
    if entry.choices and value not in entry.choices:
        return f"parameter {entry.name} is {value!r}; expected one of {', '.join(entry.choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"parameter {entry.name} is {value}; expected a number"
    if entry.unset is not None and isinstance(value, float) and value != entry.unset and value < (entry.low or 0.0):
        return f"parameter {entry.name} is {value:g}; expected {entry.low:g} to {entry.high:g}, or {entry.unset:g}: not given"
    return ""


def changed(settings: AnySettings, parameters: Iterable[Parameter], entries: Iterable[Entry] = ENTRIES) -> AnySettings:
    """Return the settings with new values; raises OwledError for a value that may not be used."""
    known = {entry.name: entry for entry in entries}
    attributes = {field.name for field in fields(settings)}
    values = {}
    for parameter in parameters:
        entry, attribute = known.get(parameter.name), parameter.name.replace(".", "_")
        if entry is None or attribute not in attributes:
            continue
        if entry.read_only:
            raise OwledError(
                f"parameter {entry.name} cannot be changed while the node runs; restart it, or use ~/load_model"
            )
        problem = problem_of(entry, parameter.value)
        if problem:
            raise OwledError(problem)
        values[attribute] = parameter.value
    return replace(settings, **values)
