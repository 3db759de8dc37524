"""How many steps fit into the minutes that a run was given. Needs nothing.

Told after the first steps, and again while no more than half of them are done, because a machine may be busier or idler later;
then the schedule of the learning rate stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TIMED_STEPS = 8  # after which the speed is known; the first of a process are left out
UNTIMED_STEPS = 3
MEASURES = 10  # of a run, where nobody says how often
MEASURED_SHARE = 0.1  # of the minutes, that measuring may take beside the last one


@dataclass
class Pace:
    """The length of a run, and the time that it has taken."""

    steps: int  # of the run, as far as is known
    minutes: float = 0.0  # 0: the steps are given
    timed: bool = False  # the steps are told from the speed
    spent_s: float = 0.0  # learning and measuring, in the processes before too
    _measuring_s: float = 0.0
    _recent: list[float] = field(default_factory=list)  # [s] of every step since the speed was told

    def stepped(self, seconds: float) -> None:
        """Count a step."""
        self.spent_s += seconds
        self._recent.append(seconds)

    def measured(self, seconds: float) -> None:
        """Count a measurement."""
        self.spent_s += seconds
        self._measuring_s = seconds

    @property
    def measures(self) -> int:
        """How often a run is measured where nobody says it: less often where that takes much of the time."""
        if not self.minutes or not self._measuring_s:
            return MEASURES
        return min(MEASURES, max(1, int(MEASURED_SHARE * 60.0 * self.minutes / self._measuring_s)))

    def fit(self, step: int, again: bool = False) -> bool:
        """Tell anew how many steps fit into what is left of the time; False where nothing is told.

        Args:
            again: also where it has been told before.
        """
        due = again and 2 * step <= self.steps if self.timed else True
        if not self.minutes or not due or len(self._recent) < TIMED_STEPS:
            return False
        counted = self._recent if self.timed else self._recent[UNTIMED_STEPS:]
        left_s = 60.0 * self.minutes - self.spent_s
        to_come = self.measures * (1.0 - step / self.steps if self.timed else 1.0)
        learning_s = max(0.5 * left_s, left_s - to_come * self._measuring_s)
        self.steps = step + max(1, int(learning_s * len(counted) / sum(counted)))
        self.timed = True
        self._recent.clear()
        return True

    def facts(self) -> dict[str, Any]:
        """Return what a run needs that goes on."""
        return {"steps": self.steps, "minutes": self.minutes, "timed": self.timed, "spent_s": round(self.spent_s, 3)}

    def go_on(self, step: int, found: dict[str, Any]) -> None:
        """Go on from the facts of a state; other minutes than it was given are told anew."""
        self.spent_s = float(found.get("spent_s", 0.0))
        if self.minutes and found.get("timed") and found.get("minutes") == self.minutes:
            self.steps, self.timed = int(found["steps"]), True
        elif self.minutes:
            self.steps = max(self.steps, 2 * step + TIMED_STEPS + 1)
