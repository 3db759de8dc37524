"""What is said while a model learns: answers in the form, displacement beside the trivial answers, collapse."""

from __future__ import annotations

import numpy as np
import pytest

from owled_ros.driving.presets import PRESETS, preset
from owled_ros.driving.rollout import from_speed_curvature
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.evaluation.record import Record, Truth, rounded_rows
from owled_ros.tuning.measuring import judged_seconds, measure_of

VEHICLE = VehicleParameters()


def record(number: int, text: str, true_speed: float, said_speed: float | None, reason: str = "VALID") -> Record:
    """A frame at 10 m/s: the vehicle goes on with `true_speed`, the model says `said_speed`."""

    def rows(speed: float) -> np.ndarray:
        return from_speed_curvature(np.full((6, 2), (speed, 0.0)), 0.5, 10.0).values

    truth = Truth(acceleration=0.0, steering=0.0, path=rounded_rows(rows(true_speed)[1:, :5].tolist()))
    said = None if said_speed is None else rounded_rows(rows(said_speed).tolist())
    return Record(
        bag="b", drive=0, index=number, stamp=number, speed=10.0, yaw_rate=0.0, text=text, reason=reason,
        acceleration=None if said is None else 0.0, steering=None if said is None else 0.0, manoeuvre=None, confidence=1.0,
        scene_text=None, scene_reason=None, scene=None, trajectory=said, truth=truth,
    )  # fmt: skip


def test_displacement_stands_beside_the_trivial_answers() -> None:
    """8 m/s after the first half second, in which the mean is 9: places 4.5, 8.5, … against 5, 10, … of holding 10 m/s."""
    found = measure_of([record(0, "a", 8.0, 8.0), record(1, "b", 8.0, None, "UNPARSED")], VEHICLE)
    assert (found.frames, found.in_form, found.valid) == (2, 0.5, 0.5)
    assert found.displacement == pytest.approx(0.0, abs=1e-6)
    off = np.mean([0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
    assert found.hold == found.constant_velocity == pytest.approx(off, abs=1e-4)
    assert measure_of([record(0, "a", 8.0, 8.0)], VEHICLE, 1.0).hold == pytest.approx(1.0, abs=1e-4)  # 0.5 and 1.5 m


def test_nothing_valid_has_no_displacement() -> None:
    found = measure_of([record(0, "?", 8.0, None, "UNPARSED"), record(1, "[[", 8.0, None, "INCOMPLETE")], VEHICLE)
    assert (found.in_form, found.valid, found.displacement) == (0.0, 0.0, None)
    assert found.hold is not None
    assert measure_of([record(0, "x", 8.0, None, "INFEASIBLE")], VEHICLE).in_form == 1.0


@pytest.mark.parametrize(
    ("texts", "speeds", "collapsed"),
    [
        (["same"] * 4, [8.0, 10.0, 12.0, 4.0], True),
        (["same"] * 4, [10.0] * 4, False),  # nothing else was driven
        (["same", "same", "same", "other"], [8.0, 10.0, 12.0, 4.0], False),
        (["same"] * 2, [8.0, 4.0], False),  # two answers may be alike
    ],
)
def test_collapse_is_one_answer_to_different_drives(texts: list[str], speeds: list[float], collapsed: bool) -> None:
    records = [record(n, text, speed, 9.0) for n, (text, speed) in enumerate(zip(texts, speeds, strict=True))]
    assert measure_of(records, VEHICLE).collapsed is collapsed


def test_answers_are_compared_as_far_as_they_look() -> None:
    assert {name: judged_seconds(preset(name)) for name in PRESETS} == dict.fromkeys(PRESETS, 3.0)
