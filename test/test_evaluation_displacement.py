"""Displacement, misses and collisions against numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owled_ros.bags.frames import Sample
from owled_ros.driving.answer import ObjectKind, Scene, SceneObject
from owled_ros.driving.frame import EgoState, Frame, View
from owled_ros.driving.prediction import Generation, judge_action
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation import offline
from owled_ros.evaluation.baselines import baseline_records
from owled_ros.evaluation.collision import collisions
from owled_ros.evaluation.displacement import offsets_of, rolled_out
from owled_ros.evaluation.frame_values import Tolerance, frame_values
from owled_ros.evaluation.metrics import summarise
from owled_ros.evaluation.record import Record, Truth, frame_to_record, record_to_frame

VEHICLE = VehicleParameters(wheel_base=2.5)
SECOND = 1_000_000_000


def straight(speed: float, horizon: float = 3.0, lateral: float = 0.0) -> tuple[tuple[float, ...], ...]:
    """A trajectory straight on with a steady speed, `lateral` [m] to the left at every later point."""
    times = np.arange(0.0, horizon + 1e-9, 0.5)
    return tuple((t, speed * t, lateral if t else 0.0, 0.0, speed, 0.0, 0.0) for t in times.tolist())


def path(speed: float, horizon: float = 3.0, heading: float = 0.0) -> tuple[tuple[float, ...], ...]:
    times = np.arange(0.5, horizon + 1e-9, 0.5)
    cos, sin = math.cos(heading), math.sin(heading)
    return tuple((t, speed * t * cos, speed * t * sin, heading, speed) for t in times.tolist())


def record(index: int = 0, **changes: Any) -> Record:
    """Make a valid record at index tenths of a second, that drives 5 m/s."""
    stamp = round(index / 10 * SECOND)
    base = Record("bag", 0, index, stamp, 5.0, 0.0, "text", "VALID", 0.0, 0.0, "CRUISE", 0.9, None, None, None)
    return replace(base, **changes)


def means(*records: Record, **more: Any) -> dict[str, float | None]:
    return summarise(records, VEHICLE, **more)["means"]


def test_displacement_of_a_path_that_is_too_slow() -> None:
    # 4 instead of 5 m/s: 0.5, 1, 1.5, 2, 2.5, 3 m behind at 0.5 … 3 s
    found = means(record(trajectory=straight(4.0), truth=Truth(path=path(5.0))))
    assert found["path_ade_1s_m"] == pytest.approx(0.75)
    assert found["path_ade_2s_m"] == pytest.approx(1.25)
    assert found["path_ade_3s_m"] == pytest.approx(1.75)
    assert [found[f"path_fde_{s}s_m"] for s in (1, 2, 3)] == pytest.approx([1.0, 2.0, 3.0])
    assert found["path_longitudinal_m"] == pytest.approx(1.75)
    assert found["path_lateral_m"] == pytest.approx(0.0)
    assert found["miss_share"] == 1.0  # 3 m are more than 2 m
    assert means(record(trajectory=straight(4.0), truth=Truth(path=path(5.0))), tolerance=Tolerance(miss=3.1))[
        "miss_share"
    ] == pytest.approx(0.0)


def test_lateral_is_across_the_true_heading() -> None:
    # truth goes to the left (90 degrees) with 5 m/s, the answer stands: it is behind, not beside
    stands = straight(0.0)
    summary = summarise([record(trajectory=stands, truth=Truth(path=path(5.0, heading=math.pi / 2)))], VEHICLE)
    assert summary["means"]["path_longitudinal_m"] == pytest.approx(5 * 1.75)
    assert summary["means"]["path_lateral_m"] == pytest.approx(0.0, abs=1e-9)
    assert summary["longitudinal_bias_m"] == pytest.approx(-5 * 1.75)
    left = summarise([record(trajectory=straight(5.0, lateral=0.5), truth=Truth(path=path(5.0)))], VEHICLE)
    assert left["lateral_bias_m"] == pytest.approx(0.5)


def test_the_horizon_of_the_model_and_of_the_truth() -> None:
    long = record(trajectory=straight(4.0, horizon=5.0), truth=Truth(path=path(5.0, horizon=6.0)))
    assert means(long)["path_fde_horizon_m"] == pytest.approx(5.0)
    assert means(long)["path_ade_horizon_m"] == pytest.approx(2.75)  # 0.5 … 5.0 m
    ended = replace(long, truth=Truth(path=path(5.0, horizon=4.0)))  # the drive ends before the model's horizon
    assert means(ended)["path_fde_horizon_m"] is None
    assert means(ended)["path_fde_3s_m"] == pytest.approx(3.0)
    short = record(trajectory=straight(4.0, horizon=2.0), truth=Truth(path=path(5.0)))
    assert means(short)["path_fde_3s_m"] is None
    assert means(short)["miss_share"] is None
    assert means(short)["path_fde_horizon_m"] == pytest.approx(2.0)
    fast = record(trajectory=straight(4.0, horizon=10.0), truth=Truth(path=path(5.0, horizon=8.0)))
    assert means(fast)["path_fde_horizon_m"] == pytest.approx(8.0)  # beyond eight seconds nothing is compared
    assert summarise([long], VEHICLE)["distance_by_time"][-1] == {
        "time_s": 5.0, "distance_m": pytest.approx(5.0), "frames": 1,
    }  # fmt: skip


def test_a_withheld_answer_counts_as_keeping_on() -> None:
    silent = {"acceleration": None, "steering": None, "reason": "LOW_CONFIDENCE", "trajectory": None}
    found = means(record(truth=Truth(path=path(4.0)), **silent))
    assert found["path_ade_3s_m"] is None
    assert found["path_ade_filled_3s_m"] == pytest.approx(1.75)  # 5 m/s kept on beside 4 m/s


def test_records_without_a_trajectory_are_rolled_out() -> None:
    # 4 m/s with -2 m/s2: 3 m after 1 s, stands after 2 s at 4 m
    assert [row[1] for row in rolled_out(4.0, -2.0, 0.0, VEHICLE)[10::10]] == pytest.approx([3.0, 4.0, 4.0])
    old = record(truth=Truth(path=((1.0, 5.0, 0.0, 0.0, 5.0), (2.0, 10.0, 3.0, 0.5, 5.0), (3.0, 15.0, 4.0, 0.2, 5.0))))
    found = means(old)  # the answer goes straight on with 5 m/s
    assert [found[f"path_fde_{s}s_m"] for s in (1, 2, 3)] == pytest.approx([0.0, 3.0, 4.0])


def test_results_of_format_1_are_read() -> None:
    frame = record_to_frame(record(truth=Truth(acceleration=0.0, source="expert")))
    del frame["Answer"]["Trajectory"], frame["Command"]
    frame["Truth"]["Path"] = [[5.0, 0.0], [10.0, 0.0], [10.0, 4.0]]
    found = frame_to_record(frame)
    assert (found.trajectory, found.command) == (None, None)
    assert found.truth.path == (
        (1.0, 5.0, 0.0, 0.0, 5.0), (2.0, 10.0, 0.0, 0.0, 5.0), (3.0, 10.0, 4.0, math.pi / 2, 4.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value"),
    [("Trajectory", [[0.0, 1.0]]), ("Trajectory", "path"), ("Trajectory", [["a"] * 7]), ("Path", [[1.0, 2.0, 3.0]]),
     ("Path", [[1.0, 2.0]]), ("Path", 5)],
)  # fmt: skip
def test_damaged_paths_are_refused_with_words(place: str, value: Any) -> None:
    frame = record_to_frame(record())
    frame["Answer" if place == "Trajectory" else "Truth"][place] = value
    with pytest.raises(OwledError, match="cannot be read"):
        frame_to_record(frame)


def test_errors_by_command_and_by_speed() -> None:
    records = [
        record(0, command="LEFT", trajectory=straight(4.0), truth=Truth(path=path(5.0))),
        record(1, command="LEFT", trajectory=straight(5.0), truth=Truth(path=path(5.0))),
        record(2, speed=20.0, trajectory=straight(18.0), truth=Truth(path=path(20.0))),
    ]
    summary = summarise(records, VEHICLE)
    table = {row["group"]: row for row in summary["by_command"]}
    assert {name: row["frames"] for name, row in table.items()} == {"LEFT": 2, "NONE": 1}
    assert table["LEFT"]["path_fde_3s_m"] == pytest.approx(1.5)
    assert table["LEFT"]["miss_share"] == pytest.approx(0.5)
    assert table["NONE"]["path_fde_3s_m"] == pytest.approx(6.0)
    assert [row["path_fde_3s_m"] for row in summary["by_speed_mps"]] == [
        None, None, pytest.approx(1.5), None, pytest.approx(6.0),
    ]  # fmt: skip


def test_baselines_reach_as_far_as_the_model() -> None:
    turning = record(yaw_rate=0.2, trajectory=straight(4.0, horizon=5.0), truth=Truth(path=path(5.0, horizon=5.0)))
    answers = baseline_records([turning, replace(turning, index=1, stamp=SECOND)], VEHICLE)
    found = {name: means(*records) for name, records in answers.items()}
    assert found["constant_velocity"]["path_fde_horizon_m"] == pytest.approx(0.0, abs=1e-9)
    # 5 m/s and 0.2 rad/s: a circle of 25 m, after 5 s one radian on
    beside = math.dist((25 * math.sin(1.0), 25 * (1 - math.cos(1.0))), (25.0, 0.0))
    assert found["hold"]["path_fde_horizon_m"] == pytest.approx(beside, abs=0.01)
    assert found["previous"]["path_fde_horizon_m"] == pytest.approx(5.0)


def following(distances: list[float], kind: ObjectKind = ObjectKind.LEAD) -> list[Record]:
    """Frames every half second with the true distance of one object; only the first has an answer to be judged."""
    return [
        record(
            5 * number,
            truth=Truth(path=path(5.0), scene=Scene((SceneObject(kind, d),)) if d else Scene()),
            trajectory=straight(5.0),
        )
        for number, d in enumerate(distances)
    ]


def test_a_path_that_runs_into_the_car_ahead() -> None:
    # the truth keeps 10 m behind; the answer drives 8 m/s instead of 5: 9 m ahead of the truth after 3 s. 10 - 2.1 = 7.9
    drive = following([10.0] * 7)
    fast = [replace(drive[0], trajectory=straight(8.0)), *drive[1:]]
    assert collisions(drive, VEHICLE)[0] == 0.0
    assert collisions(fast, VEHICLE)[0] == 1.0
    slower = [replace(drive[0], trajectory=straight(7.6)), *drive[1:]]
    assert collisions(slower, VEHICLE)[0] == 0.0  # 7.8 m ahead
    beside = [replace(drive[0], trajectory=straight(8.0, lateral=2.0)), *drive[1:]]
    assert collisions(beside, VEHICLE)[0] == 0.0  # in the next lane
    for kind in (ObjectKind.ONCOMING, ObjectKind.PARKED):
        others = following([10.0] * 7, kind)
        assert collisions([replace(others[0], trajectory=straight(8.0)), *others[1:]], VEHICLE)[0] == 0.0


def test_collisions_are_unknown_without_true_scenes() -> None:
    drive = following([10.0] * 7)
    blind = [replace(item, truth=replace(item.truth, scene=None)) for item in drive]
    assert np.isnan(collisions(blind, VEHICLE)).all()
    assert summarise(blind, VEHICLE)["means"]["collision_share"] is None
    assert math.isnan(collisions(drive[:4], VEHICLE)[0])  # scenes for one and a half seconds only
    hit = [replace(drive[0], trajectory=straight(14.0)), *drive[1:4]]
    assert math.isnan(collisions(hit, VEHICLE)[0])  # else early hits alone would be counted
    values = frame_values(drive, VEHICLE)["collision_share"]
    assert (values[0], math.isnan(values[1])) == (0.0, True)


class _Watching:
    """An engine that says what it was shown; `scored` images per frame."""

    def __init__(self) -> None:
        self.shown: list[list[int]] = []

    def see(self, frame: Frame) -> Frame:
        self.shown.append([int(image[0, 0, 0]) for image in frame.images])
        return frame

    def act(self, frame: Frame) -> Any:
        return judge_action(Generation(f"{self.shown[-1]}", True, 0.9, 1, 0.0))


def test_the_camera_test_exchanges_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(number: int, views: int) -> Sample:
        images = [np.full((4, 4, 3), 10 * number + view, np.uint8) for view in range(views)]
        shown = tuple(View(f"camera{view}", image, number) for view, image in enumerate(images))
        return Sample(Frame(images[-1], number, EgoState(number, 5.0), views=shown), 0, 0, number)

    samples = [sample(1, 2), sample(2, 2), sample(3, 2), sample(4, 1)]  # the last recording lost a camera
    monkeypatch.setattr(offline, "read_selected", lambda *_: iter(samples))
    engine = _Watching()
    found = offline.camera_test(engine, Path("bag"), [0], lambda _: Truth())
    grey = offline.BLANK_LEVEL
    assert engine.shown == [
        [10, 11], [grey, grey], [30, 31],
        [20, 21], [grey, grey],
        [30, 31], [grey, grey], [10, 11],
        [40], [grey],
    ]  # fmt: skip
    assert (found["blank"]["frames"], found["shuffled"]["frames"]) == (4, 2)
    assert found["shuffled"]["changed"] == 2


def test_offsets_take_what_lies_between_the_points() -> None:
    fine = tuple((t / 10, 0.4 * t, 0.0, 0.0, 4.0, 0.0, 0.0) for t in range(31))
    coarse = ((0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0), (3.0, 12.0, 0.0, 0.0, 4.0, 0.0, 0.0))
    for trajectory in (fine, coarse):
        offsets = offsets_of(record(trajectory=trajectory, truth=Truth(path=path(5.0))), VEHICLE)
        assert offsets is not None
        assert offsets.longitudinal == pytest.approx([-0.5, -1.0, -1.5, -2.0, -2.5, -3.0])
