"""Hopeless work stops after sixteen answers, and only when none of them is in the form."""

from __future__ import annotations

import pytest

from owled_ros.driving.form_watch import FIRST, FormWatch
from owled_ros.driving.prediction import Reason
from owled_ros.errors import OwledError


def test_sixteen_answers_out_of_form_are_enough() -> None:
    watch = FormWatch("my-vlm")
    for _ in range(FIRST - 1):
        watch.see(Reason.UNPARSED, "is no list", "I would slow down")
    with pytest.raises(
        OwledError, match=r"0 of the first 16 answers of my-vlm.*'I would slow down'.*docs/your_model\.md.*--go-on"
    ):
        watch.see(Reason.INCOMPLETE, "is no list", "I would slow down")


@pytest.mark.parametrize("reason", [Reason.VALID, Reason.INFEASIBLE, Reason.DECLINED, Reason.LOW_CONFIDENCE])
def test_one_answer_in_the_form_ends_the_watch(reason: Reason) -> None:
    watch = FormWatch("my-vlm")
    watch.see(reason, "", "[[1, 0]]")
    for _ in range(3 * FIRST):
        watch.see(Reason.UNPARSED, "", "well")


def test_who_wants_to_goes_on() -> None:
    watch = FormWatch("my-vlm", watching=False)
    for _ in range(3 * FIRST):
        watch.see(Reason.UNPARSED, "", "well")
