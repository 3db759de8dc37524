"""Autoware's vehicle_info.param.yaml: read, put into the vehicle, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.vehicle_info import VehicleInfo, read_vehicle_info, vehicle_info_of, with_vehicle_info
from owled_ros.errors import OwledError

VALUES = {
    "wheel_radius": 0.383,
    "wheel_width": 0.235,
    "wheel_base": 2.79,
    "wheel_tread": 1.64,
    "front_overhang": 1.0,
    "rear_overhang": 1.1,
    "left_overhang": 0.128,
    "right_overhang": 0.128,
    "vehicle_height": 2.5,
    "max_steer_angle": 0.7,
}


def file(directory: Path, content: object) -> Path:
    path = directory / "vehicle_info.param.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("content", [{"/**": {"ros__parameters": VALUES}}, VALUES])
def test_the_file_becomes_the_vehicle(tmp_path: Path, content: object) -> None:
    info = read_vehicle_info(file(tmp_path, content))
    vehicle = with_vehicle_info(VehicleParameters(max_speed=16.7), info)
    assert (vehicle.wheel_base, vehicle.max_steering_tire_angle, vehicle.max_speed) == (2.79, 0.7, 16.7)
    assert (vehicle.front_overhang, vehicle.rear_overhang) == (1.0, 1.1)
    assert vehicle.width == pytest.approx(1.64 + 2 * 0.128)


def test_what_it_does_not_say_stays() -> None:
    info = vehicle_info_of({"wheel_base": 3}, "test")
    assert info == VehicleInfo(wheel_base=3.0)
    assert with_vehicle_info(VehicleParameters(), info) == VehicleParameters(wheel_base=3.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no parameters"),
        ("- 1", "holds no parameters"),
        ("a: [", "is not YAML"),
        ("\x00", "is not YAML"),
        ({"/**": {"ros__parameters": 7}}, "no parameters below ros__parameters"),
        ({"a": {"ros__parameters": VALUES}, "b": {"ros__parameters": VALUES}}, "for 2 nodes"),
        ({"/**": {"ros__parameters": {"speed": 3.0}}}, "says nothing about the vehicle"),
        ({**VALUES, "wheel_base": "long"}, "wheel_base of .* is 'long'; expected a number from 0.1 to 20"),
        ({**VALUES, "wheel_base": True}, "wheel_base"),
        ({**VALUES, "max_steer_angle": 40.0}, "max_steer_angle"),
        ("wheel_base: .nan", "wheel_base"),
        (f"wheel_base: 1{'0' * 400}", "wheel_base"),
    ],
)
def test_a_wrong_file_is_refused_with_words(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(OwledError, match=words):
        read_vehicle_info(file(tmp_path, content))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OwledError, match="is not there"):
        read_vehicle_info(tmp_path / "none.yaml")


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("info") / "x.yaml"
    path.write_text(text)
    try:
        read_vehicle_info(path)
    except OwledError:
        return
