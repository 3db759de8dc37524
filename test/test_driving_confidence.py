"""Confidence: numbers count with their neighbours, calibration recovers a known map."""

import numpy as np
import pytest

from owled_ros.driving.confidence import Calibration, fit_calibration, number_neighbours
from owled_ros.driving.prediction import Generation, Reason, judge_action, judge_scene, withhold_below

ACTION = "follow, acceleration -1.2 m/s2, steering +0.03 rad"


def generation(text, complete=True, confidence=0.8):
    return Generation(text, complete, confidence, 6, 0.01)


def test_numbers_of_one_form_within_reach_are_neighbours():
    words = [f"{value / 5:+.1f}" for value in range(-30, 11)] + ["12", "cruise"]
    vocabulary = {word: index for index, word in enumerate(words)}
    near = number_neighbours(vocabulary)
    found = sorted(words[index] for index in near[vocabulary["+0.0"]])
    assert found == sorted(["-0.6", "-0.4", "-0.2", "+0.0", "+0.2", "+0.4", "+0.6"])
    assert vocabulary["12"] not in near
    assert vocabulary["cruise"] not in near


def test_the_default_calibration_changes_nothing():
    assert Calibration().apply(0.3) == pytest.approx(0.3)
    assert Calibration().apply(float("nan")) == 0.0


def test_fit_recovers_a_known_map():
    random = np.random.default_rng(0)
    raw = random.random(20_000)
    truth = Calibration(slope=0.5, offset=-0.7)
    good = random.random(20_000) < np.array([truth.apply(value) for value in raw])
    slope, offset = fit_calibration(raw, good)
    assert (slope, offset) == (pytest.approx(0.5, abs=0.05), pytest.approx(-0.7, abs=0.05))


def test_a_score_that_misleads_gives_the_share_of_good_answers():
    raw = np.array([0.1] * 50 + [0.9] * 50)
    good = np.array([True] * 40 + [False] * 10 + [False] * 50)
    slope, offset = fit_calibration(raw, good)
    assert slope == 0.0
    assert Calibration(slope, offset).apply(0.9) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(
    ("text", "complete", "reason"),
    [
        (ACTION, True, Reason.VALID),
        (ACTION, False, Reason.INCOMPLETE),
        ("unknown", True, Reason.DECLINED),
        ("go go go go", True, Reason.UNPARSED),
    ],
)
def test_an_action_is_judged(text, complete, reason):
    answer = judge_action(generation(text, complete))
    assert answer.reason is reason
    assert (answer.action is not None) == answer.valid == (reason is Reason.VALID)
    assert answer.generation.confidence == (0.8 if answer.valid else 0.0)


def test_an_action_below_the_floor_is_withheld():
    answer = judge_action(generation(ACTION, confidence=0.4))
    assert withhold_below(answer, 0.4).valid
    withheld = withhold_below(answer, 0.5)
    assert (withheld.action, withheld.reason) == (None, Reason.LOW_CONFIDENCE)


def test_a_scene_is_judged():
    assert judge_scene(generation("0 cars; 0 pedestrians; no traffic light")).valid
    assert judge_scene(generation("0 cars")).reason is Reason.UNPARSED
    assert judge_scene(generation("unknown")).reason is Reason.DECLINED
