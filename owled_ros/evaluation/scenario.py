"""What is asked of a model on a bag: a yaml file with units in its key names. Needs pydantic and PyYAML.

Unknown keys and values of the wrong kind are refused, with the nearest known key; docs/evaluation.md lists all.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from owled_ros.bags.frames import ReadOptions
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.displacement import MISS_M
from owled_ros.evaluation.frame_values import Tolerance

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Limit = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Reading(_Strict):
    """How the bag is read, see bags.frames.ReadOptions."""

    image_topic: str = ""
    ego_topic: str = ""
    ego_from: str = ""
    max_ego_gap_s: Positive = 0.5
    lookahead_s: Positive = 0.5
    drive_gap_s: Positive = 5.0
    view_tolerance_s: Positive = 0.1
    max_command_age_s: Positive = 10.0


class Vehicle(_Strict):
    """Geometry and limits of the vehicle that recorded the bag, see driving.vehicle.VehicleParameters."""

    wheel_base_m: Positive = 2.8
    max_steering_tire_angle_rad: Positive = 0.6
    max_acceleration_mps2: Positive = 2.0
    max_deceleration_mps2: Positive = 6.0
    max_speed_mps: Positive = 50.0
    max_lateral_acceleration_mps2: Positive = 5.0
    max_steering_rate_radps: Positive = 0.7
    max_jerk_mps3: Positive = 10.0


class GoodAction(_Strict):
    """How far a good answer may be from the truth."""

    acceleration_mps2: Positive = 1.0
    steering_rad: Positive = 0.03
    miss_m: Positive = MISS_M  # a path that ends farther off after three seconds has missed


class Conditions(_Strict):
    """Limits; what is not set is not judged. A value that cannot be measured fails its condition."""

    min_evaluated_frames: Annotated[int, Field(ge=1)] = 10
    min_evaluated_share: Share = 0.8  # evaluated images of those in the bags
    min_valid_share: Share | None = 0.5
    min_parse_share: Share | None = None
    max_most_common_share: Share | None = None  # of one and the same answer
    max_acceleration_mae_mps2: Limit | None = None
    max_acceleration_filled_mae_mps2: Limit | None = None
    max_steering_mae_rad: Limit | None = None
    max_E_lon: Limit | None = None  # noqa: N815, the paper's name
    max_E_lat: Limit | None = None  # noqa: N815
    max_path_ade_m: Limit | None = None  # the former name of max_path_ade_3s_m, still read
    max_path_ade_3s_m: Limit | None = None
    max_path_fde_3s_m: Limit | None = None
    max_path_ade_horizon_m: Limit | None = None
    max_path_lateral_m: Limit | None = None
    max_path_longitudinal_m: Limit | None = None
    max_miss_share: Share | None = None
    max_collision_share: Share | None = None
    max_E_car: Limit | None = None  # noqa: N815
    max_E_ped: Limit | None = None  # noqa: N815
    min_Acc_TL: Share | None = None  # noqa: N815
    max_D_TL_m: Limit | None = None  # noqa: N815
    min_good_action_share: Share | None = None
    min_brake_onset_precision: Share | None = None
    min_brake_onset_recall: Share | None = None
    min_comfortable_share: Share | None = None
    max_confidence_ece: Share | None = None
    max_action_latency_p99_ms: Limit | None = None
    max_deadline_miss_share: Share | None = None
    must_beat: list[Literal["constant", "hold", "constant_velocity", "previous"]] = ["constant", "hold"]
    must_beat_in: Literal["acceleration_filled_mae_mps2", "path_ade_filled_3s_m"] = "acceleration_filled_mae_mps2"
    require_disjoint_calibration: bool = True


class Scenario(_Strict):
    """One evaluation."""

    format_version: Literal[1] = 1
    name: str = "default"
    reading: Reading = Field(default_factory=Reading)
    vehicle: Vehicle = Field(default_factory=Vehicle)
    good_action: GoodAction = Field(default_factory=GoodAction)
    conditions: Conditions = Field(default_factory=Conditions)
    deadline_ms: Positive | None = None  # an action later than this counts as a miss
    describe: bool = True  # also ask for the scene
    confidence_floor: Share | None = None  # actions below are withheld; not set: what the model recommends

    def read_options(self) -> ReadOptions:
        """Return how to read the bags."""
        return ReadOptions(**self.reading.model_dump())

    def reading_from(self, image_topic: str, ego_topic: str, ego_from: str) -> Scenario:
        """Return the scenario with other topics; empty ones stay as they are."""
        given = {"image_topic": image_topic, "ego_topic": ego_topic, "ego_from": ego_from}
        changes = {key: value for key, value in given.items() if value}
        return self.model_copy(update={"reading": self.reading.model_copy(update=changes)})

    def vehicle_parameters(self) -> VehicleParameters:
        """Return the vehicle."""
        vehicle = self.vehicle
        return VehicleParameters(
            wheel_base=vehicle.wheel_base_m,
            max_steering_tire_angle=vehicle.max_steering_tire_angle_rad,
            max_acceleration=vehicle.max_acceleration_mps2,
            max_deceleration=vehicle.max_deceleration_mps2,
            max_speed=vehicle.max_speed_mps,
            max_lateral_acceleration=vehicle.max_lateral_acceleration_mps2,
            max_steering_rate=vehicle.max_steering_rate_radps,
            max_jerk=vehicle.max_jerk_mps3,
        )

    def tolerance(self) -> Tolerance:
        """Return what a good action is."""
        good = self.good_action
        return Tolerance(good.acceleration_mps2, good.steering_rad, good.miss_m)


def read_scenario(path: Path | None) -> Scenario:
    """Read a scenario file; the default scenario without one. Raises OwledError that names every wrong key."""
    if path is None:
        return Scenario()
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OwledError(f"scenario {path} cannot be read ({error}); expected a yaml file") from error
    if not isinstance(values, dict):
        raise OwledError(f"scenario {path} is not a mapping; expected keys such as {', '.join(Scenario.model_fields)}")
    try:
        # yaml reads 1 as an integer where 1.0 is meant
        return Scenario.model_validate(_floats(values))
    except ValidationError as error:
        faults = "; ".join(_fault(entry) for entry in error.errors())
        raise OwledError(f"scenario {path} is not valid: {faults}") from error


def _floats(values: Any, key: str = "") -> Any:
    if isinstance(values, dict):
        return {name: _floats(value, str(name)) for name, value in values.items()}
    whole = key in ("format_version", "min_evaluated_frames")
    return float(values) if isinstance(values, int) and not isinstance(values, bool) and not whole else values


def _fault(entry: Any) -> str:
    where = ".".join(str(part) for part in entry["loc"])
    if entry["type"] != "extra_forbidden":
        return f"{where}: {entry['msg']} (got {entry['input']!r})"
    names = _known_keys()
    near = difflib.get_close_matches(str(entry["loc"][-1]), names, n=1, cutoff=0.5)
    return f"{where}: unknown key" + (f", did you mean {near[0]}?" if near else f"; known are {', '.join(names)}")


def _known_keys() -> list[str]:
    names: list[str] = []
    for model in (Scenario, Reading, Vehicle, GoodAction, Conditions):
        names.extend(model.model_fields)
    return names
