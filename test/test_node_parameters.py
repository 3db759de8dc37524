"""Declaration, parameter file and schema of the driving and source nodes are equal; docs/node.md shows the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import jsonschema
import yaml

from owled_ros.driving.vehicle_info import RANGES, VehicleInfo
from owled_ros.errors import OwledError
from owled_ros.nodes import autoware_parameters, autoware_topics, parameters, source_options, topics
from owled_ros.onboard.candidates import CandidateLimits

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"bool": "boolean", "int": "integer", "float": "number", "str": "string"}
LAUNCH = (parameters.ENTRIES, parameters.LAUNCH_ARGUMENTS)
NODES = [
    ("driving_node", parameters.ENTRIES),
    ("source_node", source_options.ENTRIES),
    ("autoware_node", autoware_parameters.ENTRIES),
]
OUT_OF_RANGE = {"driving_node": {"threads": 0}, "source_node": {"routes": 0}, "autoware_node": {"max_age_s": 0.0}}
PAGES = [
    ("node.md", parameters.ENTRIES, topics.DRIVING_TOPICS),
    ("autoware_node.md", autoware_parameters.ENTRIES, autoware_topics.AUTOWARE_TOPICS),
]


def values_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / f"{name}.param.yaml").read_text())["/**"]["ros__parameters"]


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def schema_of(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "schema" / f"{name}.schema.json").read_text())


def described(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    def walk(properties: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, value in properties.items():
            if value["type"] == "object":
                yield from walk(value["properties"], f"{prefix}{key}.")
            else:
                yield prefix + key, value

    yield from walk(schema_of(name)["definitions"][name]["properties"], "")


@pytest.mark.parametrize(("name", "entries"), NODES)
def test_file_schema_and_declaration_hold_the_same(name: str, entries: tuple[parameters.Entry, ...]) -> None:
    declared, written, schema = (
        {entry.name: entry for entry in entries},
        dict(flat(values_of(name))),
        dict(described(name)),
    )
    assert list(declared) == list(written) == list(schema)
    for key, entry in declared.items():
        row = schema[key]
        assert row["type"] == KINDS[entry.kind]
        assert row["description"] == entry.description
        within = row if entry.unset is None else row["anyOf"][0]
        assert (within.get("minimum"), within.get("maximum")) == (entry.low, entry.high)
        assert entry.unset is None or row["anyOf"][1:] == [{"const": entry.unset}]
        assert tuple(row.get("enum", ())) == entry.choices
        assert row["default"] == written[key]
        assert type(written[key]).__name__ == entry.kind, f"{key}: a float needs its point in YAML"


@pytest.mark.parametrize("name", [name for name, _ in NODES])
def test_schema_takes_the_file_and_refuses_unknown_names_and_ranges(name: str) -> None:
    document = {"/**": {"ros__parameters": values_of(name)}}
    jsonschema.validate(document, schema_of(name))
    for spoilt in ({"tpyo": 1}, OUT_OF_RANGE[name]):
        wrong = {"/**": {"ros__parameters": {**values_of(name), **spoilt}}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema_of(name))


def test_units_stand_in_the_names_of_numbers() -> None:
    units = ("_s", "_hz", "_mb", "_px", "_m", "_rad", "_mps2", "_mps", "_mps3", "_radps")
    without = {
        "threads",
        "max_pixels",
        "confidence_floor",
        "seed",
        "routes",
        "seconds",
        "perception.dropped",
    }  # counts, shares, and a unit as its name
    for _, entries in NODES:
        for entry in entries:
            if entry.kind in ("int", "float") and entry.name not in RANGES:  # those are named by Autoware
                assert entry.name.endswith(units) or entry.name in without, entry.name
                assert entry.low is not None
                assert entry.high is not None


def settings() -> parameters.DrivingSettings:
    values = {key.replace(".", "_"): value for key, value in flat(values_of("driving_node"))}
    return parameters.DrivingSettings(**parameters.with_launch_arguments(values, *LAUNCH))


def test_launch_arguments_count_only_when_given() -> None:
    values = {key.replace(".", "_"): value for key, value in flat(values_of("driving_node"))} | {
        "model_path": "/in/file"
    }
    assert parameters.with_launch_arguments(dict(values), *LAUNCH)["model_path"] == "/in/file"
    given = values | {"launch_model_path": "/given", "launch_autostart": "false"}
    taken = parameters.with_launch_arguments(given, *LAUNCH)
    assert (taken["model_path"], taken["autostart"]) == ("/given", False)
    dotted = values | {"launch_cameras_topics": "left: /l", "launch_vehicle_info_file": "/v.yaml"}
    taken = parameters.with_launch_arguments(dotted, *LAUNCH)
    assert (taken["cameras_topics"], taken["vehicle_info_file"]) == ("left: /l", "/v.yaml")
    for name, wrong in (("launch_autostart", "maybe"), ("launch_image_transport", "telepathy")):
        with pytest.raises(OwledError, match="launch argument"):
            parameters.with_launch_arguments(values | {name: wrong}, *LAUNCH)


def test_changes_are_taken_or_refused_with_words() -> None:
    from rclpy.parameter import Parameter

    changed = parameters.changed(
        settings(), [Parameter("vehicle.wheel_base_m", value=3.1), Parameter("use_sim_time", value=True)]
    )
    assert changed.vehicle.wheel_base == 3.1
    with pytest.raises(OwledError, match="cannot be changed while the node runs"):
        parameters.changed(settings(), [Parameter("model_path", value="/elsewhere")])
    with pytest.raises(OwledError, match="expected a number"):
        parameters.changed(settings(), [Parameter("deadline_s", value=float("nan"))])


def test_vehicle_and_camera_are_what_is_given_then_what_was_read_then_what_is_shipped(tmp_path: Path) -> None:
    shipped = settings()
    assert (shipped.vehicle.wheel_base, shipped.vehicle.max_steering_tire_angle) == (2.8, 0.6)
    assert shipped.view_given == {}
    told = replace(shipped, wheel_base=3.0, front_overhang=0.7, max_steer_angle=0.5)
    assert (told.vehicle.wheel_base, told.vehicle.front_overhang, told.vehicle.max_steering_tire_angle) == (
        3.0,
        0.7,
        0.5,
    )
    read = replace(told, info_of_file=VehicleInfo(wheel_base=3.1))
    assert (read.vehicle.wheel_base, read.vehicle.front_overhang) == (3.1, 0.7)
    given = replace(read, vehicle_wheel_base_m=3.2, camera_pitch_rad=0.0, camera_height_m=1.4)
    assert given.vehicle.wheel_base == 3.2
    assert given.view_given == {"pitch": 0.0, "height": 1.4}


def test_a_number_between_not_given_and_its_range_is_refused() -> None:
    from rclpy.parameter import Parameter

    with pytest.raises(OwledError, match=r"camera\.pitch_rad is -5; expected -0\.7 to 0\.7, or -99: not given"):
        parameters.changed(settings(), [Parameter("camera.pitch_rad", value=-5.0)])
    parameters.changed(settings(), [Parameter("camera.pitch_rad", value=-99.0)])


@pytest.mark.parametrize(("page", "entries", "listed"), PAGES)
def test_documentation_lists_every_parameter_and_topic(
    page: str, entries: tuple[parameters.Entry, ...], listed: tuple[topics.Topic, ...]
) -> None:
    text = (ROOT / "docs" / page).read_text()
    for entry in entries:
        assert f"| `{entry.name}` | {entry.kind} |" in text, entry.name
        assert entry.description in text, entry.name
    for topic in listed:
        assert f"| `{topic.name}` | {topic.type} | {topic.direction} |" in text, topic.name
        assert topic.meaning in text, topic.name


def test_settings_of_autoware_node_are_its_entries() -> None:
    values = {key.replace(".", "_"): value for key, value in flat(values_of("autoware_node"))}
    arguments = (autoware_parameters.ENTRIES, autoware_parameters.LAUNCH_ARGUMENTS)
    limits = autoware_parameters.AutowareSettings(**parameters.with_launch_arguments(dict(values), *arguments)).limits
    assert limits == CandidateLimits()
    for name in (field.name for field in fields(limits)):
        assert getattr(limits, name) == values[name]


@pytest.mark.parametrize(
    ("given", "wheel_base"),
    [
        ({}, 2.8),
        ({"wheel_base": 4.9}, 4.9),
        ({"wheel_base": 4.9, "info_of_file": VehicleInfo(wheel_base=2.65)}, 2.65),
        ({"wheel_base": 4.9, "info_of_file": VehicleInfo(max_steer_angle=0.7)}, 4.9),
        ({"vehicle_wheel_base_m": 3.1, "info_of_file": VehicleInfo(wheel_base=2.65)}, 3.1),
    ],
)
def test_autoware_node_takes_the_wheel_base_from_where_the_driving_node_does(
    given: dict[str, Any], wheel_base: float
) -> None:
    values = {key.replace(".", "_"): value for key, value in flat(values_of("autoware_node"))}
    arguments = (autoware_parameters.ENTRIES, autoware_parameters.LAUNCH_ARGUMENTS)
    own = parameters.with_launch_arguments(dict(values), *arguments)
    assert autoware_parameters.AutowareSettings(**{**own, **given}).vehicle_wheel_base == wheel_base
    driving = parameters.with_launch_arguments(
        {key.replace(".", "_"): value for key, value in flat(values_of("driving_node"))}, *LAUNCH
    )
    assert parameters.DrivingSettings(**{**driving, **given}).vehicle.wheel_base == wheel_base
