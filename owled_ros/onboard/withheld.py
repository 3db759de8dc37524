"""The way down from the ladder: a rung that fails says why. Needs driving.prediction."""

from __future__ import annotations

from owled_ros.driving.prediction import Reason
from owled_ros.errors import OwledError

DAY_S = 86_400.0


class WithheldError(OwledError):
    """No action leaves, for this reason; the text says it in words."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason = reason


def long_time(seconds: float) -> str:
    """Write a duration in seconds, or in days where it is long."""
    return f"{seconds / DAY_S:.1f} days" if seconds > DAY_S else f"{seconds:.1f} s"
