"""From bags to verdicts with an engine that drives by arithmetic."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from fake_driver import DEADLY, spec
from recorded_drives import IMAGE_PERIOD, START, image, make_bag, record_drive

from owled_ros.bags.write import BagWriter
from owled_ros.driving.frame import EgoState
from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.part import read_part
from owled_ros.evaluation.result import read_result, without_timings
from owled_ros.evaluation.run import unique_names
from owled_ros.evaluation.scenario import Scenario, read_scenario

EASY = Scenario.model_validate({"conditions": {"must_beat": []}})  # the expert of these bags is constant


def request(tmp_path: Path, bags: list[Path], *kinds: str, **changes: object) -> EvaluationRequest:
    specs = [spec(kind) for kind in kinds or ("seeing",)]
    return EvaluationRequest(bags, specs, tmp_path / "out", changes.pop("scenario", EASY), **changes)  # type: ignore[arg-type]


def stripped(path: Path) -> list[str]:
    return [without_timings(line) for line in path.read_text().splitlines()]


def test_every_frame_of_every_bag_is_in_the_result(tmp_path):
    bags = [make_bag(tmp_path / "one"), make_bag(tmp_path / "two", drives=2)]
    (result,) = evaluate(request(tmp_path, bags))
    assert result.success, result.summary
    assert [(r.bag, r.drive, r.index) for r in result.records] == [
        *(("one", 0, n) for n in range(10)), *(("two", n // 10, n) for n in range(20)),
    ]  # fmt: skip
    # the image's red is its number: the answer is 0.2 (number - 5), the expert's action is 1.0 and 0.02 rad
    errors = [abs(0.2 * (n % 10 - 5) - 1.0) for n in [*range(10), *range(20)]]
    assert result.metrics["means"]["acceleration_mae_mps2"] == pytest.approx(sum(errors) / 30)
    assert result.metrics["means"]["D_TL_m"] == pytest.approx(2.0)  # 20 m told, 22 m true
    assert result.metrics["coverage"]["evaluated_share"] == 1.0


def test_result_file_has_the_form_of_driving_log_replayer(tmp_path):
    (result,) = evaluate(request(tmp_path, [make_bag(tmp_path / "bag")]))
    lines = [json.loads(line) for line in result.path.read_text().splitlines()]
    assert list(lines[0]) == ["Condition"]
    assert lines[1] == {
        "Result": {"Success": False, "Summary": "NoData"},
        "Stamp": {"System": 0.0, "ROS": 0.0},
        "Frame": {},
    }
    assert all(set(line) == {"Result", "Stamp", "Frame"} for line in lines[1:])
    assert all(set(line["Result"]) == {"Success", "Summary"} for line in lines[1:])
    assert lines[2]["Stamp"]["ROS"] == pytest.approx(START / 1e9)
    assert lines[-1]["Result"]["Success"] is True
    assert "Verdict" in lines[-1]["Frame"]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    bag = make_bag(tmp_path / "bag", drives=2)
    first = evaluate(EvaluationRequest([bag], [spec()], tmp_path / "a", EASY))[0]
    second = evaluate(EvaluationRequest([bag], [spec()], tmp_path / "b", EASY))[0]
    assert stripped(first.path) == stripped(second.path)


def test_an_interrupted_run_goes_on_and_ends_alike(tmp_path):
    bag = make_bag(tmp_path / "bag", drives=2)
    whole = evaluate(EvaluationRequest([bag], [spec()], tmp_path / "whole", EASY))[0]
    evaluate(request(tmp_path, [bag]))
    part = tmp_path / "out/seeing/parts/bag.jsonl"
    lines = part.read_bytes().splitlines(keepends=True)
    marked = lines[2].replace(b'"Confidence": 0.9', b'"Confidence": 0.8')
    part.write_bytes(b"".join([*lines[:2], marked, *lines[3:8], lines[8][:40]]))  # killed while writing
    (resumed,) = evaluate(request(tmp_path, [bag]))
    assert resumed.records[1].confidence == 0.8  # what was done is not done again
    assert [r.index for r in resumed.records] == [r.index for r in whole.records]
    assert stripped(resumed.path)[4:-1] == stripped(whole.path)[4:-1]


def test_a_part_of_other_settings_is_begun_anew(tmp_path):
    bag = make_bag(tmp_path / "bag")
    evaluate(request(tmp_path, [bag]))
    (result,) = evaluate(request(tmp_path, [bag], stride=2))
    assert [r.index for r in result.records] == [0, 2, 4, 6, 8]


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path):
    bags = [make_bag(tmp_path / name, images=20) for name in ("one", "two", "three")]
    alone = evaluate(EvaluationRequest(bags, [spec()], tmp_path / "alone", EASY))[0]
    (together,) = evaluate(request(tmp_path, bags, processes=2))
    assert stripped(alone.path) == stripped(together.path)


@pytest.mark.slow
def test_a_process_that_dies_costs_only_its_bag(tmp_path):
    with BagWriter(tmp_path / "one") as bag:
        record_drive(bag, images=10)
        bag.image(START + 10 * IMAGE_PERIOD, image(DEADLY))
    bags = [tmp_path / "one", make_bag(tmp_path / "two")]
    (result,) = evaluate(request(tmp_path, bags, "dying", processes=2))
    assert not result.success
    assert "one: the process that evaluated it died" in result.summary
    assert {r.bag for r in result.records} == {"two"}


def test_a_model_that_says_nothing_gets_a_score_and_a_reason(tmp_path):
    (result,) = evaluate(request(tmp_path, [make_bag(tmp_path / "bag")], "mute"))
    assert not result.success
    assert "min_valid_share 0.5, measured 0" in result.summary
    assert result.metrics["answers"]["parse_share"] == 0.0
    assert result.metrics["means"]["acceleration_mae_mps2"] is None
    assert result.metrics["means"]["acceleration_filled_mae_mps2"] == 1.0  # the expert accelerates by 1


def test_the_camera_test_tells_who_looks(tmp_path):
    results = evaluate(request(tmp_path, [make_bag(tmp_path / "bag")], "seeing", "blind"))
    seeing, blind = (result.metrics["camera_test"] for result in results)
    assert seeing["shuffled"]["changed_share"] == 1.0  # half of ten images on: another red
    assert (blind["blank"]["changed_share"], blind["shuffled"]["changed_share"]) == (0.0, 0.0)


def test_too_few_frames_are_a_failure_not_a_good_score(tmp_path):
    (result,) = evaluate(request(tmp_path, [make_bag(tmp_path / "bag", images=3)]))
    assert not result.success
    assert "min_evaluated_frames 10, measured 3" in result.summary


def test_images_without_ego_motion_lower_the_share(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        record_drive(bag, images=20)
        for number in range(20):
            bag.image(START + (40 + number) * IMAGE_PERIOD, image(number))
    (result,) = evaluate(request(tmp_path, [tmp_path / "bag"]))
    assert result.metrics["coverage"]["evaluated_share"] == 0.5
    assert "min_evaluated_share 0.8, measured 0.5" in result.summary


def test_a_bag_that_cannot_be_read_fails_with_its_reason(tmp_path):
    good = make_bag(tmp_path / "good")
    with BagWriter(tmp_path / "blind") as bag:
        bag.odometry(START, EgoState(START, 1.0))
    (result,) = evaluate(request(tmp_path, [good, tmp_path / "blind"]))
    assert not result.success
    assert "blind: bag" in result.summary
    assert "holds no camera" in result.summary
    assert len(result.records) == 10


def test_no_motion_at_all_is_scored(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(20):
            stamp = START + number * IMAGE_PERIOD
            bag.image(stamp, image(number))
            bag.odometry(stamp, EgoState(stamp, 0.0))
    (result,) = evaluate(request(tmp_path, [tmp_path / "bag"]))
    assert result.metrics["means"]["steering_mae_rad"] is None  # unknown at standstill
    assert result.metrics["counted_frames"]["acceleration_mae_mps2"] == 15  # the last half second has no future


def test_the_floor_withholds_what_is_below_it(tmp_path):
    scenario = Scenario.model_validate({"confidence_floor": 0.95, "conditions": {"must_beat": []}})
    (result,) = evaluate(request(tmp_path, [make_bag(tmp_path / "bag")], scenario=scenario))
    assert {record.reason for record in result.records} == {"LOW_CONFIDENCE"}  # all have 0.9
    assert "min_valid_share" in result.summary
    assert result.metrics["means"]["acceleration_raw_mae_mps2"] == pytest.approx(1.1)


def test_must_beat_holds_the_model_against_the_trivial_answers(tmp_path):
    scenario = Scenario.model_validate({"conditions": {"must_beat": ["constant"]}})
    (result,) = evaluate(request(tmp_path, [make_bag(tmp_path / "bag")], scenario=scenario))
    assert "must_beat constant 0, measured 1.1" in result.summary  # the expert never does anything but 1.0


def test_half_written_result_is_read_and_says_so(tmp_path):
    (result,) = evaluate(request(tmp_path, [make_bag(tmp_path / "bag")]))
    data = result.path.read_bytes()
    result.path.write_bytes(data[: len(data) // 3])
    half = read_result(result.path)
    assert not half.whole
    assert not half.success
    assert 0 < len(half.records) < 10
    result.path.write_bytes(data.replace(b'"Frame"', b'"Fra', 1))
    with pytest.raises(OwledError, match="is not JSON"):
        read_result(result.path)


def test_unfinished_part_is_not_taken_for_a_whole_one(tmp_path):
    evaluate(request(tmp_path, [make_bag(tmp_path / "bag")]))
    part = tmp_path / "out/seeing/parts/bag.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(OwledError, match="not finished"):
        read_part(part)


def test_names_of_bags_stay_apart():
    assert unique_names(["a", "a", "b/c", ""]) == ["a", "a-2", "b_c", "unnamed"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conditions: {max_steering_mae_deg: 2.0}", "did you mean max_steering_mae_rad"),
        ("conditions: {max_steering_mae_rad: 2 deg}", "max_steering_mae_rad: .*valid number"),
        ("conditions: {min_valid_share: 90}", "less than or equal to 1"),
        ("conditions: {max_D_TL_m: -1}", "greater than or equal to 0"),
        ("vehicle: {wheel_base: 2.7}", "did you mean wheel_base_m"),
        ("deadline_ms: .nan", "deadline_ms"),
        ("format_version: 2", "format_version"),
        ("conditions: {must_beat: [everyone]}", "must_beat"),
        ("- a list", "is not a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_wrong_scenarios_are_refused_with_the_key(tmp_path, text, message):
    file = tmp_path / "scenario.yaml"
    file.write_text(text)
    with pytest.raises(OwledError, match=message):
        read_scenario(file)


def test_a_scenario_reads_whole_numbers_and_defaults(tmp_path):
    file = tmp_path / "scenario.yaml"
    file.write_text("name: town\ndeadline_ms: 200\nvehicle: {wheel_base_m: 3}\nconditions: {min_evaluated_frames: 5}\n")
    scenario = read_scenario(file)
    assert (scenario.deadline_ms, scenario.vehicle_parameters().wheel_base) == (200.0, 3.0)
    assert scenario.conditions.min_evaluated_share == 0.8
    assert read_scenario(None) == Scenario()


@pytest.mark.slow
def test_killed_in_the_middle_the_part_stays_readable(tmp_path):
    bag = make_bag(tmp_path / "bag", images=200)
    child = os.fork()
    if child == 0:
        try:
            evaluate(request(tmp_path, [bag], "slow"))
        finally:
            os._exit(0)
    part = tmp_path / "out/slow/parts/bag.jsonl"
    for _ in range(200):
        if part.exists() and part.read_bytes().count(b"\n") > 20:
            break
        signal.sigtimedwait([], 0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert part.read_bytes().count(b"\n") > 20
    (result,) = evaluate(request(tmp_path, [bag], "slow"))
    assert [r.index for r in result.records] == list(range(200))
