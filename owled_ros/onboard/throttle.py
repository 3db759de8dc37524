"""When a node may repeat itself: every cause has a throttle of its own, so that none hides another. Needs nothing."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

NUMBERS = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?", re.I)
MAX_CAUSES = 20  # different causes within one period; what comes on top stays unsaid


class Throttle:
    """Lets a cause be said when it is new and every `period_s` while it lasts.

    The cause is the text without its numbers: "stale by 0.4 s" and "stale by 0.9 s" are one cause.
    """

    def __init__(self, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s, self._clock = period_s, clock
        self._said: dict[str, float] = {}  # cause: [s] when it was said last
        self._lock = threading.Lock()  # the inference thread speaks, and the executor's

    def due(self, text: str) -> bool:
        """Tell whether the text may be said now; if so, it counts as said."""
        now, cause = self._clock(), NUMBERS.sub("#", text)
        with self._lock:
            self._said = {known: at for known, at in self._said.items() if now - at < self._period_s}
            if cause in self._said or len(self._said) >= MAX_CAUSES:
                return False
            self._said[cause] = now
            return True
