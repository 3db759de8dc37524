"""Metrics against numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.bags.ego_track import EgoTrack
from owled_ros.driving.answer import Action, Light, Manoeuvre, ObjectKind, Scene, SceneObject
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.evaluation.baselines import baseline_records
from owled_ros.evaluation.bootstrap import clip_numbers, interval_of_mean
from owled_ros.evaluation.compare import action_agreement, paired_difference
from owled_ros.evaluation.driving_metrics import brake_onsets, comfort
from owled_ros.evaluation.frame_values import frame_values
from owled_ros.evaluation.ground_truth import truth_of_motion
from owled_ros.evaluation.metrics import auroc, confidence_quality, summarise
from owled_ros.evaluation.record import Record, Timing, Truth, frame_to_record, make_truth, record_to_frame

VEHICLE = VehicleParameters(wheel_base=2.5, max_steering_tire_angle=0.5, max_acceleration=2.0, max_deceleration=5.0)
SECOND = 1_000_000_000
NONE: tuple[SceneObject, ...] = ()
CAR = SceneObject(ObjectKind.LEAD, 10.0)
WALKER = SceneObject(ObjectKind.CROSSING, 8.0)


def record(index: int = 0, seconds: float | None = None, **changes: object) -> Record:
    """Make a valid record at index tenths of a second."""
    stamp = round((index / 10 if seconds is None else seconds) * SECOND)
    base = Record("bag", 0, index, stamp, 5.0, 0.0, "text", "VALID", 0.0, 0.0, "CRUISE", 0.9, None, None, None)
    return replace(base, **changes)  # type: ignore[arg-type]


def truth(acceleration: float | None = None, steering: float | None = None, **more: object) -> Truth:
    return Truth(acceleration, steering, "expert", **more)  # type: ignore[arg-type]


def track(seconds: np.ndarray, speed: np.ndarray, yaw_rate: np.ndarray) -> EgoTrack:
    return EgoTrack((seconds * SECOND).astype(np.int64), speed, yaw_rate, np.zeros(0, np.int64), np.zeros(0))


def test_action_errors_are_means_over_answered_frames():
    # |0.5-1| = 0.5 and |-1-1| = 2 -> 1.25; the withheld frame counts as "no acceleration" in the filled mean:
    # (0.5 + 2 + |0-1|) / 3 = 3.5 / 3. Pedals: +0.5/2 = .25 against 1/2 = .5; -1/5 = -.2 against .5 -> (.25 + .7)/2
    records = [
        record(0, acceleration=0.5, steering=0.1, truth=truth(1.0, 0.05)),
        record(1, acceleration=-1.0, steering=0.0, truth=truth(1.0, 0.05)),
        record(2, acceleration=None, steering=None, reason="LOW_CONFIDENCE", truth=truth(1.0, 0.05)),
    ]
    means = summarise(records, VEHICLE)["means"]
    assert means["acceleration_mae_mps2"] == pytest.approx(1.25)
    assert means["acceleration_filled_mae_mps2"] == pytest.approx(3.5 / 3)
    assert means["steering_mae_rad"] == pytest.approx(0.05)
    assert means["E_lon"] == pytest.approx((0.25 + 0.7) / 2)
    assert means["E_lat"] == pytest.approx(0.1)  # 0.05 / 0.5
    assert means["valid_share"] == pytest.approx(2 / 3)
    assert means["good_action_share"] == 0.0  # steering is 0.05 off, the tolerance is 0.03


def test_scene_errors_follow_the_paper():
    seen = Scene((CAR,), NONE, Light.RED, 20.0)
    records = [
        record(
            0, scene=seen, scene_reason="VALID", truth=truth(scene=Scene((CAR, CAR, CAR), (WALKER,), Light.RED, 26.0))
        ),
        record(1, scene=seen, scene_reason="VALID", truth=truth(scene=Scene(NONE, NONE, Light.NONE, None))),
        record(2, scene=None, scene_reason="UNPARSED", truth=truth(scene=Scene(NONE, NONE, Light.RED, 9.0))),
    ]
    summary = summarise(records)
    assert summary["means"]["E_car"] == pytest.approx((2 + 1) / 2)
    assert summary["means"]["E_ped"] == pytest.approx(1 / 2)
    assert summary["means"]["Acc_TL"] == pytest.approx(1 / 2)
    assert summary["means"]["D_TL_m"] == pytest.approx(6.0)
    assert summary["traffic_light_recall"]["red"] == {"frames": 2, "recall": 0.5}
    assert summary["traffic_light_recall"]["none"] == {"frames": 1, "recall": 0.0}
    assert summary["traffic_light_recall"]["green"] == {"frames": 0, "recall": None}
    assert summary["answers"]["scene_parse_share"] == pytest.approx(2 / 3)


def test_answer_rates_separate_unreadable_from_withheld():
    reasons = ["VALID", "VALID", "VALID", "UNPARSED", "INCOMPLETE", "DECLINED", "LOW_CONFIDENCE", "INFERENCE_ERROR"]
    texts = ["a", "a", "b", "?", "?", "unknown", "c", ""]
    records = [record(n, reason=r, text=t) for n, (r, t) in enumerate(zip(reasons, texts, strict=True))]
    rates = summarise(records)["answers"]
    assert rates["parse_share"] == 6 / 8
    assert rates["valid_share"] == 3 / 8
    assert rates["withheld_share"] == 2 / 8
    assert rates["invalid_share"] == 3 / 8
    assert rates["unique_share"] == 2 / 3
    assert (rates["most_common"], rates["most_common_share"]) == ("a", 2 / 3)


def test_no_records_give_no_numbers_but_no_error():
    summary = summarise([])
    assert summary["frames"] == 0
    assert set(summary["means"].values()) == {None}
    assert summary["answers"]["valid_share"] is None


def test_errors_are_sorted_into_speeds():
    records = [record(0, speed=0.0, truth=truth(1.0)), record(1, speed=20.0, truth=truth(-3.0))]
    table = summarise(records)["by_speed_mps"]
    assert [row["frames"] for row in table] == [1, 0, 0, 0, 1]
    assert (table[0]["acceleration_bias_mps2"], table[-1]["acceleration_bias_mps2"]) == (-1.0, 3.0)


def test_brake_onsets_are_matched_within_a_second():
    # truth brakes at 1.0 s and at 5.0 s; the answers at 1.8 s (matched) and at 3.0 s (nobody brakes there)
    course = {10: -2.0, 50: -2.0}
    answers = {18: -2.0, 30: -2.0}
    records = [
        record(n, acceleration=answers.get(n, 0.0), truth=truth(course.get(n, 0.0))) for n in range(60)
    ]  # fmt: skip
    assert brake_onsets(records) == {
        "true_onsets": 2, "answered_onsets": 2, "matched": 1, "precision": 0.5, "recall": 0.5,
    }  # fmt: skip
    assert brake_onsets(records[:5])["precision"] is None


def test_comfort_counts_hard_braking_and_jerk():
    # 0, 0, -5 m/s2 at 10 Hz: the third is beyond -4.05 and jerks by -50; back at 0 it jerks by +50
    records = [record(n, acceleration=a) for n, a in enumerate([0.0, 0.0, -5.0, 0.0, 0.0])]
    table = comfort(records, VEHICLE)
    assert table["comfortable_share"] == 3 / 5
    assert table["longitudinal_acceleration_mps2_inside_share"] == 4 / 5
    assert table["longitudinal_jerk_mps3_inside_share"] == 2 / 4
    # 10 m/s with tan(0.4)/2.5: 1.69 rad/s and 16.9 m/s2 sideways
    sharp = comfort([record(0, speed=10.0, steering=0.4)], VEHICLE)
    assert (sharp["yaw_rate_radps_inside_share"], sharp["lateral_acceleration_mps2_inside_share"]) == (0.0, 0.0)


def test_confidence_quality_by_hand():
    # two bins: .9 with 1 of 2 good (off by .4), .1 with 0 of 2 good (off by .1) -> ece .25
    records = [record(n, confidence=c) for n, c in enumerate([0.9, 0.9, 0.1, 0.1])]
    quality = confidence_quality(records, np.array([1.0, 0.0, 0.0, 0.0]))
    assert quality["ece"] == pytest.approx(0.25)
    assert quality["brier"] == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert quality["auroc"] == pytest.approx(5 / 6)  # beats two negatives, ties with one: (1 + 1 + .5) / 3


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=2, max_size=30))
def test_auroc_equals_counting_pairs(pairs):
    score, positive = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    won = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert auroc(score, positive) == (pytest.approx(sum(won) / len(won)) if won else None)


def test_truth_of_a_steady_turn():
    # 10 m/s on a circle of 50 m: 0.2 rad/s; after 1 s x = 50 sin(.2), y = 50 (1 - cos(.2))
    seconds = np.arange(0, 5, 0.02)
    result = truth_of_motion(track(seconds, np.full(250, 10.0), np.full(250, 0.2)), SECOND, VEHICLE)
    assert result.acceleration == pytest.approx(0.0, abs=1e-6)
    assert result.steering == pytest.approx(math.atan(2.5 / 50), abs=1e-6)
    assert result.path is not None
    assert [point[0] for point in result.path] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]  # the drive ends at 4.98 s
    for second in (1, 3):
        arc = 0.2 * second
        expected = (second, 50 * math.sin(arc), 50 * (1 - math.cos(arc)), arc, 10.0)
        assert result.path[2 * second - 1] == pytest.approx(expected, abs=5e-3)


def test_truth_of_braking_and_of_an_ending_drive():
    seconds = np.arange(0, 4.001, 0.02)
    motion = track(seconds, 10.0 - 2.0 * seconds, np.zeros(len(seconds)))
    result = truth_of_motion(motion, SECOND, VEHICLE)
    assert result.acceleration == pytest.approx(-2.0)
    # from 8 m/s with -2 m/s2: 7, 12 and 15 m
    assert [point[1] for point in result.path[1::2]] == pytest.approx([7.0, 12.0, 15.0], abs=1e-6)
    assert [point[4] for point in result.path[1::2]] == pytest.approx([6.0, 4.0, 2.0], abs=1e-6)
    assert [point[0] for point in truth_of_motion(motion, int(3.4 * SECOND), VEHICLE).path] == [0.5]
    assert truth_of_motion(motion, int(3.4 * SECOND), VEHICLE).acceleration == pytest.approx(-2.0)
    assert truth_of_motion(motion, int(3.9 * SECOND), VEHICLE) == Truth()
    assert truth_of_motion(motion, -SECOND, VEHICLE) == Truth()


def posed(seconds: np.ndarray, speed: float, x: np.ndarray, y: np.ndarray, heading: np.ndarray) -> EgoTrack:
    motion = track(seconds, np.full(len(seconds), speed), np.zeros(len(seconds)))
    return replace(motion, x=x, y=y, heading=heading)


def test_the_path_is_that_of_the_poses():
    # a circle of 50 m to the left at 10 m/s, seen from a pose far away that looks to the west; the yaw rates say nothing
    seconds = np.arange(0, 6, 0.02)
    turn = math.pi + 0.2 * seconds
    x, y = 100 - 50 * np.sin(0.2 * seconds), 30 - 50 * (1 - np.cos(0.2 * seconds))
    heading = np.angle(np.exp(1j * turn))  # wraps at pi
    path = truth_of_motion(posed(seconds, 10.0, x, y, heading), SECOND, VEHICLE).path
    assert path[5] == pytest.approx((3.0, 50 * math.sin(0.6), 50 * (1 - math.cos(0.6)), 0.6, 10.0), abs=1e-3)


@pytest.mark.parametrize("fault", ["jump", "still", "missing"])
def test_poses_that_cannot_be_are_not_taken(fault):
    seconds = np.arange(0, 6, 0.02)
    x = 10.0 * seconds
    if fault == "jump":
        x = x + np.where(seconds > 2.5, 5.0, 0.0)  # a relocalisation
    elif fault == "still":
        x = np.zeros(300)  # an odometry that fills in no pose
    else:
        x[200] = np.nan
    path = truth_of_motion(posed(seconds, 10.0, x, np.zeros(300), np.zeros(300)), SECOND, VEHICLE).path
    assert [point[1] for point in path] == pytest.approx([10.0 * point[0] for point in path])


def test_a_hole_in_the_motion_ends_what_is_known():
    seconds = np.concatenate([np.arange(0, 1, 0.02), np.arange(2, 6, 0.02)])
    motion = track(seconds, np.full(len(seconds), 5.0), np.zeros(len(seconds)))
    assert truth_of_motion(motion, int(0.9 * SECOND), VEHICLE) == Truth()
    assert [point[0] for point in truth_of_motion(motion, int(0.2 * SECOND), VEHICLE).path] == [0.5]


def test_steering_is_unknown_at_standstill_and_measured_where_possible():
    seconds = np.arange(0, 5, 0.02)
    standing = track(seconds, np.zeros(250), np.full(250, 0.01))
    assert truth_of_motion(standing, 0, VEHICLE).steering is None
    measured = replace(standing, steering_stamps=standing.stamps, steering=np.full(250, 0.07))
    assert truth_of_motion(measured, 0, VEHICLE).steering == pytest.approx(0.07)


def test_baselines_by_hand():
    records = [
        record(0, yaw_rate=0.1, acceleration=-1.0, text="one", truth=truth(0.0, 0.0)),
        record(1, yaw_rate=0.1, acceleration=None, steering=None, reason="UNPARSED", text="?", truth=truth(1.0, 0.0)),
        record(2, yaw_rate=0.1, acceleration=-2.0, text="three", truth=truth(5.0, 0.1)),
    ]
    answers = baseline_records(records, VEHICLE)
    assert [r.acceleration for r in answers["constant"]] == [1.0, 1.0, 1.0]  # the median
    assert {r.steering for r in answers["hold"]} == {round(math.atan(2.5 * 0.1 / 5.0), 6)}
    assert {r.acceleration for r in answers["hold"]} == {0.0}
    assert [r.text for r in answers["previous"]] == ["one", "one", "one"]  # the unreadable one is not repeated
    other_drive = [record(0, text="a"), record(1, drive=1, text="b")]
    assert [r.text for r in baseline_records(other_drive, VEHICLE)["previous"]] == ["a", "b"]


def test_clips_end_with_their_drive():
    records = [record(0, 0.0), record(1, 4.9), record(2, 5.0), record(3, 0.0, drive=1), record(4, 1.0, bag="other")]
    assert clip_numbers(records).tolist() == [0, 0, 1, 2, 3]


def test_interval_holds_the_mean_and_knows_when_it_cannot():
    values = np.random.default_rng(0).normal(1.0, 0.1, 400)
    low, high = interval_of_mean(values, np.arange(400) // 10)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.4)
    assert interval_of_mean(values, np.zeros(400, int)) is None


def test_frames_of_one_clip_do_not_count_as_independent():
    # 40 clips of 10 equal values: the interval is that of 40 values, sqrt(10) times wider than that of 400
    clips = np.repeat(np.arange(40), 10)
    values = np.repeat(np.random.default_rng(1).normal(0, 1, 40), 10)
    by_clip, by_frame = interval_of_mean(values, clips), interval_of_mean(values, np.arange(400))
    assert (by_clip[1] - by_clip[0]) / (by_frame[1] - by_frame[0]) == pytest.approx(math.sqrt(10), rel=0.25)


def test_paired_difference_finds_a_small_steady_change():
    noise = np.random.default_rng(2).normal(0, 3, 600)
    ours = [record(n, seconds=n / 2, truth=truth(float(x)), acceleration=0.0) for n, x in enumerate(noise)]
    theirs = [replace(r, acceleration=math.copysign(0.2, r.truth.acceleration)) for r in ours]
    found = paired_difference(ours, theirs)["acceleration_mae_mps2"]
    assert found["difference"] == pytest.approx(-0.2, abs=0.02)
    assert found["verdict"] == "better"
    assert paired_difference(theirs, ours)["acceleration_mae_mps2"]["verdict"] == "worse"
    assert paired_difference(ours, ours)["acceleration_mae_mps2"]["verdict"] == "same"


def test_what_never_acted_is_not_better():
    ours = [record(n, seconds=n / 2, truth=truth(0.0), acceleration=1.0) for n in range(100)]
    silent = [replace(r, acceleration=None, steering=None, reason="DECLINED") for r in ours]
    found = paired_difference(ours, silent)
    assert found["acceleration_filled_mae_mps2"]["difference"] == -1.0
    assert found["acceleration_filled_mae_mps2"]["verdict"] == "unknown"
    assert found["valid_share"]["verdict"] == "worse"


def test_agreement_counts_two_who_withhold():
    silent = {"acceleration": None, "steering": None, "reason": "DECLINED"}
    ours = [record(0), record(1), record(2, **silent), record(3, **silent)]
    theirs = [record(0, acceleration=0.5), record(1, steering=0.1), record(2, **silent), record(3)]
    assert action_agreement(ours, theirs) == {
        "frames": 4, "agreement_share": 0.5, "acceleration_difference_mps2": 0.25, "steering_difference_rad": 0.05,
    }  # fmt: skip


def test_timing_percentiles_and_deadline():
    records = [record(n, timing=Timing(0.04, n / 1000, 0.1, 12, 40)) for n in range(101)]
    table = summarise(records, deadline_s=0.1)["timing"]
    assert table["action_latency_p50_ms"] == pytest.approx(90.0)
    assert table["action_latency_p99_ms"] == pytest.approx(139.0)
    assert table["deadline_misses"] == 40  # 61 ms and more of decoding
    assert table["decoding_tokens_per_s"] == pytest.approx(101 * 52 / (5.05 + 10.1))


def test_records_survive_json():
    scene = Scene((CAR,), (WALKER,), Light.GREEN, 30.0)
    full = record(
        7,
        trajectory=((0.0,) * 7, (0.5, 2.5, 0.1, 0.04, 5.0, 0.0, 0.02)),
        command="LEFT",
        reasoning="the lane is free",
        scene=scene,
        scene_reason="VALID",
        scene_text="1 car: lead 10 m; 1 pedestrian: crossing 8 m; traffic light green 30 m",
        fingerprint="abc",
        truth=make_truth(
            Truth(path=((0.5, 1.0, 0.0, 0.0, 2.0), (1.0, 2.0, 0.0, 0.0, 2.0))),
            Action(-1.5, 0.02, Manoeuvre.STOP),
            scene,
        ),
        timing=Timing(0.1, 0.2, 0.3, 4, 5),
    )
    assert frame_to_record(record_to_frame(full)) == full
    assert frame_to_record(record_to_frame(record(0))) == record(0)


def test_raw_error_counts_what_the_floor_withholds():
    text = "cruise, acceleration +1.4 m/s2, steering +0.00 rad"
    silent = {"acceleration": None, "steering": None, "truth": truth(1.0)}
    records = [
        record(0, truth=truth(1.0), acceleration=0.0),
        record(1, reason="LOW_CONFIDENCE", text=text, **silent),
        record(2, reason="UNPARSED", text="?", **silent),
    ]
    means = summarise(records)["means"]
    assert means["acceleration_mae_mps2"] == 1.0
    assert means["acceleration_raw_mae_mps2"] == pytest.approx(0.7)  # (1.0 + 0.4) / 2
    assert means["acceleration_filled_mae_mps2"] == 1.0


def test_every_metric_is_there_for_every_frame():
    values = frame_values([record(0), record(1)])
    assert all(column.shape == (2,) for column in values.values())
