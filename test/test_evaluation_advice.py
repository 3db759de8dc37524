"""`owled try` says what to change: the usual faults of answers, each with its remedy, and nothing for one that drives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from owled_ros.driving.answer import Action
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.rollout import from_speed_curvature
from owled_ros.evaluation.advice import Other, Said, advice_of, collapse_of

USUAL = ["[[4.10, 0.00], [8.30, -0.10]]"]


def told(
    profile: DrivingProfile, text: str, reason: Reason = Reason.UNPARSED, complete: bool = True, **more: Any
) -> list[str]:
    answer = ActionAnswer(Generation(text, complete, 0.0, 1, 0.0), None, reason, "no list")
    return advice_of(profile, Said("answer", text, complete, 128, **more), answer if complete else None, "TEACH")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("points_history", "[[1.0, 0.0]]", "the mark '<PLANNING>' is not in the answer"),
        ("points", "I would go to [[1.0, 0.0], [2.0, 0.0]].", '"brackets": true'),
        ("points", "[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]", "set answer.count to 3"),
        ("points", "[[1.0, 0.0, 0.1], [2.0, 0.0, 0.1]]", "answer.heading"),
        ("points", "", "keep_special"),
    ],
)
def test_what_is_nearly_in_the_form_is_mended_before_it_is_taught(name: str, text: str, wanted: str) -> None:
    found = told(preset(name), text)
    places = [number for number, line in enumerate(found) if wanted in line]
    assert places, found
    teach = next(number for number, line in enumerate(found) if "TEACH" in line)
    assert places[0] < teach, found
    assert found[teach].startswith("if it was never trained to answer so"), found


@pytest.mark.parametrize(
    ("name", "text"),
    [("line", "Slow down a little."), ("points", "A road [with] cars."), ("points_history", "A road.")],
)
def test_what_is_far_from_the_form_is_taught_first(name: str, text: str) -> None:
    found = told(preset(name), text)
    assert found[0].startswith("it does not know this form: `TEACH`"), found


def test_a_cut_off_answer_is_made_longer_only_where_that_helps() -> None:
    """The first advice on answers of 128 tokens that have no end, by what they begin with and how long a usual one is."""
    points = preset("points")
    assert "a usual answer has 200: raise its max_tokens" in told(points, "[[1", complete=False, needed=200)[0]
    assert "turn reasoning off" in told(points, "<think>The road", complete=False, usual=USUAL, needed=60)[0]
    assert "stop string" in told(points, "[[1.0, 0.0], [2", complete=False, usual=USUAL, needed=60)[0]
    rambling = told(points, "=ion [is steering, with", complete=False, usual=USUAL, needed=60)
    assert rambling[0].startswith("it does not know this form: `TEACH`"), rambling
    assert "128 tokens, and a usual answer has 60: a higher max_tokens alone will not" in rambling[1]
    first = Said("look", "a road", False, 128)
    assert '"unfinished": "use"' in advice_of(preset("three_calls"), first, None)[0]


def test_what_cannot_be_driven_or_declines() -> None:
    assert "axes, units" in told(preset("points"), "[[1.0, 0.0]]", Reason.INFEASIBLE)[0]
    assert "frame of a bag" in told(preset("line"), "unknown", Reason.DECLINED)[0]


def test_one_answer_to_different_driving_is_a_collapse() -> None:
    asked = [Other(2.0, 0.0, "[[1, 0]]"), Other(9.0, 0.2, "[[1, 0]]")]
    assert "the same about 2 frames of 2.0 to 9.0 m/s and +0.00 to +0.20 rad/s" in collapse_of(asked)
    assert collapse_of([*asked, Other(5.0, 0.0, "[[2, 0]]")]) == ""
    assert collapse_of([Other(5.0, 0.01, "a"), Other(5.5, 0.0, "a")]) == ""  # driven alike
    assert collapse_of(asked[:1]) == ""


def test_what_drives_needs_no_advice() -> None:
    driven = from_speed_curvature(np.full((6, 2), (8.0, 0.0)), 0.5, 8.0)
    answer = ActionAnswer(Generation("x", True, 1.0, 1, 0.0), Action(0.0, 0.0), Reason.VALID, trajectory=driven)
    assert advice_of(preset("points"), Said("answer", "x", True, 128), answer) == []
