"""Bags from Autoware's topics: what a frame holds, the true scene, evaluation and recalibration to the verdict."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from autoware_bags import PERCEPTION, TIRE_ANGLE, VEHICLE, make_autoware_bag
from fake_driver import spec

from owled_ros.bags.frames import ReadStatistics, read_samples
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.recorded import open_recording
from owled_ros.bags.summary import summarise_bag
from owled_ros.driving.answer import Light, ObjectKind
from owled_ros.driving.needs import InputNeeds, SurroundingsNeed
from owled_ros.driving.surroundings import RoadUserClass, agreed_light
from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.scenario import Scenario

ASKED = InputNeeds(ego_offsets_s=(0.1,), needs_pose=True, objects=SurroundingsNeed(0.5), lights=SurroundingsNeed(0.5))


def test_a_frame_holds_what_the_vehicle_measured(tmp_path: Path) -> None:
    samples = list(read_samples(make_autoware_bag(tmp_path / "bag")))
    assert len(samples) == 12
    ego = samples[5].frame.ego
    assert (ego.speed, ego.acceleration) == (8.0, 0.25)
    assert ego.steering_tire_angle == pytest.approx(TIRE_ANGLE)
    assert ego.pose is not None
    assert (ego.pose.x, ego.pose.y) == pytest.approx((1000.0, 2004.0))
    assert samples[5].frame.around is None, "nobody asked"


def test_what_is_around_is_seen_from_the_vehicle_at_the_images_stamp(tmp_path: Path) -> None:
    samples = list(read_samples(make_autoware_bag(tmp_path / "bag"), ReadOptions(needs=ASKED)))
    assert len(samples) == 12
    for sample in samples:
        around = sample.frame.around
        assert around is not None
        pedestrian, car = around.objects or ()
        # the vehicle came 0.32 m nearer in the 40 ms since; the car drives as fast
        assert (pedestrian.kind, car.kind) == (RoadUserClass.PEDESTRIAN, RoadUserClass.CAR)
        assert (car.x, car.y, car.velocity_x) == pytest.approx((24.0, 0.0, 8.0), abs=1e-6)
        assert (pedestrian.x, pedestrian.y) == pytest.approx((11.68, -5.0), abs=1e-6)
        assert agreed_light(around.lights or ()) is Light.RED
        assert sample.scene is not None
        assert [(item.kind, round(item.distance)) for item in sample.scene.cars] == [(ObjectKind.LEAD, 22)]
        assert sample.scene.light is Light.RED


def test_the_index_knows_which_images_give_frames(tmp_path: Path) -> None:
    bag = make_autoware_bag(tmp_path / "bag")
    assert (summarise_bag(bag, ReadOptions(needs=ASKED)).frames.speed == 8.0).all()
    late = InputNeeds(objects=SurroundingsNeed(0.03))  # they are 40 ms old
    assert not (summarise_bag(bag, ReadOptions(needs=late)).frames.speed == 8.0).any()
    statistics = ReadStatistics()
    with pytest.raises(OwledError, match=r"12 without what is around \(the objects are 0\.040 s older"):
        list(read_samples(bag, ReadOptions(needs=late), statistics))
    assert statistics.without_surroundings == 12


def test_an_object_with_a_number_that_cannot_be_costs_the_frame_and_is_no_truth(tmp_path: Path) -> None:
    bag = make_autoware_bag(tmp_path / "bag", object_x=math.nan)
    with pytest.raises(OwledError, match=r"object 0 holds numbers that are not finite"):
        list(read_samples(bag, ReadOptions(needs=ASKED)))
    statistics = ReadStatistics()
    assert [sample.scene for sample in read_samples(bag, statistics=statistics)] == [None] * 12
    assert any("object 0 holds numbers" in note for note in statistics.notes)


def test_reports_alone_tell_the_ego_motion(tmp_path: Path) -> None:
    samples = list(read_samples(make_autoware_bag(tmp_path / "bag", kinematic_state=False)))
    assert [sample.frame.ego.speed for sample in samples] == [8.0] * 12
    assert samples[0].frame.ego.steering_tire_angle == pytest.approx(TIRE_ANGLE)


@pytest.mark.parametrize("kinematic_state", [True, False])
def test_it_is_replayed_as_it_was_recorded(tmp_path: Path, kinematic_state: bool) -> None:
    recording = open_recording(make_autoware_bag(tmp_path / "bag", kinematic_state=kinematic_state), ReadOptions())
    assert recording.others == {
        "objects": f"{PERCEPTION}/TrackedObjects",
        "lights": f"{PERCEPTION}/TrafficLightGroupArray",
        "steering": f"{VEHICLE}/SteeringReport",
    }
    played = Counter(message.part for message in recording.messages())
    assert played == {"image": 12, "ego": 65, "steering": 65, "acceleration": 65, "objects": 13, "lights": 13}


def test_it_is_evaluated_to_a_verdict(tmp_path: Path) -> None:
    scenario = Scenario.model_validate({"conditions": {"must_beat": []}})
    bag = make_autoware_bag(tmp_path / "bag", images=30)
    (result,) = evaluate(EvaluationRequest([bag], [spec()], tmp_path / "out", scenario, camera_test_frames=0))
    means = result.metrics["means"]  # the driver always tells one car ahead, no pedestrian and a red light
    assert (means["E_car"], means["E_ped"], means["Acc_TL"]) == (0.0, 1.0, 1.0)
    assert (tmp_path / "out").is_dir()
