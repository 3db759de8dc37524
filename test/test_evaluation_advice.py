"""`owled try` says what to change: the usual faults of answers, each with its remedy, and nothing for one that drives."""

from __future__ import annotations

import numpy as np
import pytest

from owled_ros.driving.answer import Action
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.rollout import from_speed_curvature
from owled_ros.evaluation.advice import Said, advice_of


def advice(profile: DrivingProfile, text: str, reason: Reason = Reason.UNPARSED, complete: bool = True) -> str:
    answer = ActionAnswer(Generation(text, complete, 0.0, 1, 0.0), None, reason, "no list")
    return " | ".join(advice_of(profile, Said("answer", text, complete, 128), answer))


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("points_history", "[[1.0, 0.0]]", "the mark '<PLANNING>' is not in the answer"),
        ("points", "I would go to [[1.0, 0.0], [2.0, 0.0]].", '"brackets": true'),
        ("points", "[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]", "set answer.count to 3"),
        ("points", "[[1.0, 0.0, 0.1], [2.0, 0.0, 0.1]]", "answer.heading"),
        ("points", "", "keep_special"),
        ("line", "Slow down a little.", "owled tune"),
    ],
)
def test_every_fault_has_its_remedy(name: str, text: str, wanted: str) -> None:
    assert wanted in advice(preset(name), text)


def test_what_is_cut_off_cannot_be_driven_or_declines() -> None:
    assert "raise its max_tokens" in advice(preset("points"), "[[1.0, 0.0], [2", Reason.INCOMPLETE, complete=False)
    assert "axes, units" in advice(preset("points"), "[[1.0, 0.0]]", Reason.INFEASIBLE)
    assert "frame of a bag" in advice(preset("line"), "unknown", Reason.DECLINED)


def test_what_drives_needs_no_advice() -> None:
    driven = from_speed_curvature(np.full((6, 2), (8.0, 0.0)), 0.5, 8.0)
    answer = ActionAnswer(Generation("x", True, 1.0, 1, 0.0), Action(0.0, 0.0), Reason.VALID, trajectory=driven)
    assert advice_of(preset("points"), Said("answer", "x", True, 128), answer) == []
