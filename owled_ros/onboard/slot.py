"""A place for one item where the newest wins, if it is worth it; what it replaces is counted, never queued. Needs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestSlot(Generic[Item]):
    """Hands the newest item from one thread to another."""

    def __init__(self) -> None:
        self.received = 0
        self.dropped = 0
        self._item: Item | None = None
        self._changed = threading.Condition()

    @property
    def waiting(self) -> bool:
        """True while an item has not been taken."""
        return self._item is not None

    def put(self, item: Item, replaces: Callable[[Item], bool] = lambda waiting: True) -> None:
        """Store an item; one that was not taken is dropped and counted, or the new one where it does not replace it."""
        with self._changed:
            self.received += 1
            self.dropped += self._item is not None
            if self._item is None or replaces(self._item):
                self._item = item
            self._changed.notify()

    def take(self, timeout: float) -> Item | None:
        """Take the item; waits up to `timeout` [s] for one, or for `wake`."""
        with self._changed:
            if self._item is None:
                self._changed.wait(timeout)
            item, self._item = self._item, None
            return item

    def wake(self) -> None:
        """Let a waiting `take` return at once."""
        with self._changed:
            self._changed.notify()

    def clear(self) -> None:
        """Forget the item, and count it as dropped."""
        with self._changed:
            self.dropped += self._item is not None
            self._item = None
