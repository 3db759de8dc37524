"""Bags as they should not be: every one ends in a verdict that says why, with an engine that drives by arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_driver import spec
from recorded_drives import EGO_PERIOD, IMAGE_PERIOD, MILLISECOND, START, image

from owled_ros.bags.write import BagWriter
from owled_ros.driving.frame import NANOSECONDS, EgoState
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.result import ResultFile
from owled_ros.evaluation.scenario import Scenario

EASY = Scenario.model_validate({"conditions": {"must_beat": []}})
HOUR = 3600 * NANOSECONDS


def judged(path: Path, scenario: Scenario = EASY) -> ResultFile:
    return evaluate(EvaluationRequest([path], [spec()], path.parent / "out", scenario, camera_test_frames=4))[0]


def write(bag: BagWriter, images: int = 40, speed: Callable[[int], float] = lambda number: 5.0 + 0.1 * number) -> None:
    for number in range(images):
        stamp = START + number * IMAGE_PERIOD
        bag.image(stamp, image(number))
        for part in range(5):
            at = stamp + part * EGO_PERIOD
            bag.odometry(at, EgoState(at, speed(number), 0.0))


def test_two_cameras_want_a_choice(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        write(bag)
        for number in range(40):
            bag.image(START + number * IMAGE_PERIOD, image(number), topic="/rear/image")
    result = judged(tmp_path / "bag")
    assert not result.success
    assert "several cameras; choose one with --image-topic: /camera/image" in result.summary
    chosen = Scenario.model_validate({"conditions": {"must_beat": []}, "reading": {"image_topic": "/rear/image"}})
    assert judged(tmp_path / "bag", chosen).success


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("no ego", "holds no ego motion; expected one of nav_msgs/msg/Odometry"),
        ("no camera", "holds no camera image; expected sensor_msgs/msg/Image"),
        ("nan", "40 without ego motion on /ego/odometry within 0.5 s; 40 ego states that are not finite numbers"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, what: str, why: str) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(40):
            stamp = START + number * IMAGE_PERIOD
            if what != "no camera":
                bag.image(stamp, image(number))
            if what != "no ego":
                bag.odometry(stamp, EgoState(stamp, math.nan if what == "nan" else 5.0))
    result = judged(tmp_path / "bag")
    assert not result.success
    assert why in result.summary
    assert "bags_that_failed 0, measured 1" in result.summary


def test_motion_that_is_no_number_for_a_while_costs_those_images(tmp_path: Path) -> None:
    # NaN from image 10 to 29: at most 0.5 s away from a state is bridged, so 15 .. 24 or so have no ego motion
    with BagWriter(tmp_path / "bag") as bag:
        write(bag, speed=lambda number: math.nan if 10 <= number < 30 else 5.0)
    coverage = judged(tmp_path / "bag").metrics["coverage"]
    assert coverage["bad_ego"] == 100
    assert 8 <= coverage["without_ego"] <= 12
    assert coverage["evaluated"] + coverage["without_ego"] == 40


def test_rates_need_not_fit(tmp_path: Path) -> None:
    """A camera of 30/s that trembles, ego motion at 4/s: 5 m/s and 1 m/s2 faster every second."""
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(90):
            stamp = START + number * 33 * MILLISECOND + number * 7 % 11 * MILLISECOND
            bag.image(stamp, image(number))
            if number % 8 == 0:
                bag.odometry(stamp, EgoState(stamp, 5.0 + (stamp - START) / NANOSECONDS, 0.0))
    result = judged(tmp_path / "bag")
    assert result.success, result.summary
    true = [record.truth.acceleration for record in result.records if record.truth.acceleration is not None]
    assert len(true) > 60
    assert true == pytest.approx([1.0] * len(true), abs=1e-4)


def test_stamps_that_cannot_be_are_repaired_or_left_out(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        write(bag, 20)
        for number in range(20, 40):
            stamp = START + number * IMAGE_PERIOD
            wrong = {25: stamp + HOUR, 30: START + 3 * IMAGE_PERIOD, 35: stamp - IMAGE_PERIOD}.get(number, stamp)
            bag.image(wrong, image(number), received=stamp)
            for part in range(5):
                bag.odometry(stamp + part * EGO_PERIOD, EgoState(stamp, 5.0, 0.0))
    coverage = judged(tmp_path / "bag").metrics["coverage"]
    assert coverage["images"] == 40
    assert coverage["repaired_stamps"] == 1  # the hour; the others are within what a clock may do
    assert coverage["disordered"] == 2  # one is far behind, one has the stamp of its neighbour
    assert coverage["evaluated"] == 38


def test_a_gap_ends_a_drive_and_what_can_be_known(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for drive in range(2):
            for number in range(20):
                stamp = START + drive * 30 * NANOSECONDS + number * IMAGE_PERIOD
                bag.image(stamp, image(number))
                for part in range(5):
                    bag.odometry(stamp + part * EGO_PERIOD, EgoState(stamp, 5.0, 0.0))
    result = judged(tmp_path / "bag")
    assert result.metrics["coverage"]["drives"] == 2
    assert {record.drive for record in result.records} == {0, 1}
    assert result.metrics["coverage"]["duration_s"] == pytest.approx(3.8)  # the 28 s between are nobody's
    unknown = [record.index for record in result.records if record.truth.acceleration is None]
    assert unknown == [15, 16, 17, 18, 19, 35, 36, 37, 38, 39]  # half a second before each end
