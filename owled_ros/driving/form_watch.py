"""Hopeless work stops early: a model of which none of the first answers is in its form cannot be judged, or calibrated. Needs nothing."""

from __future__ import annotations

from owled_ros.driving.prediction import Reason
from owled_ros.driving.wording import shown
from owled_ros.errors import OwledError

FIRST = 16  # answers looked at
NOT_IN_FORM = (Reason.UNPARSED, Reason.INCOMPLETE)
ADVICE = "`owled try MODEL BAG` shows what it says and what to change, docs/your_model.md how to make it answer"


class FormWatch:
    """Counts the first answers of a model."""

    def __init__(self, name: str, go_on: str = "--go-on", watching: bool = True) -> None:
        self._name, self._go_on, self._watching = name, go_on, watching
        self._seen = 0

    def see(self, reason: Reason, detail: str, text: str) -> None:
        """Take notice of an answer; raises OwledError when it is the last of FIRST of which none was in the form."""
        if not self._watching:
            return
        if reason not in NOT_IN_FORM:
            self._watching = False
            return
        self._seen += 1
        if self._seen >= FIRST:
            raise OwledError(hopeless(self._name, detail, text, self._go_on))


def hopeless(name: str, detail: str, text: str, go_on: str) -> str:
    """Say that nothing will come of it, and where to read on."""
    return (
        f"0 of the first {FIRST} answers of {name} are in its form; the last: {shown(text, 80)} ({detail}). {ADVICE}; {go_on} goes on "
        "all the same"
    )
