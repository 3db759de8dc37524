"""Start and end of a node process: a signal at any moment ends it without a traceback, with exit code 0 when in order. Needs nothing at import.

ROS installs handlers that work while the executor spins, but not while a model is being imported or loaded. Here a thread
reads the signal through a pipe, so that it is seen whatever the main thread does (see `signal.set_wakeup_fd`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

GRACE_S = 3.0  # time to end in order, before the process ends by force
FORCED = 1  # exit code where a node had to be ended by force
CRITICAL_S = 0.4  # time that force waits for a node that is just being made or unmade
HANDLED = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Tells every thread of the process that it was asked to end."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.critical = threading.Lock()  # held while a node is made or unmade: force waits for it
        self._callbacks: list[Callable[[], object]] = []
        self._last: Callable[[], object] | None = None

    def __call__(self) -> bool:
        """Tell whether the process was asked to end."""
        return self.event.is_set()

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Call something, in another thread, when the process is asked to end; at once when it already was."""
        self._callbacks.append(callback)
        if self.event.is_set():
            callback()

    def on_force(self, callback: Callable[[], object]) -> None:
        """Call something just before the process ends by force because it did not end within GRACE_S."""
        self._last = callback

    def _watch(self, pipe: int) -> None:
        os.read(pipe, 1)
        self.event.set()
        forced = threading.Timer(GRACE_S, self._force)
        forced.daemon = True
        forced.start()
        for callback in self._callbacks:
            callback()

    def _force(self) -> NoReturn:
        if self.critical.acquire(timeout=CRITICAL_S) and self._last is not None:
            helper = threading.Thread(target=self._try_last, daemon=True)
            helper.start()
            helper.join(CRITICAL_S)
        leave(0 if self._last is None else FORCED)  # where no node was made yet, nothing was cut short

    def _try_last(self) -> None:
        assert self._last is not None
        with contextlib.suppress(Exception):  # nobody is left to be told
            self._last()


_stop: StopRequest | None = None


def watch_signals() -> StopRequest:
    """Take over SIGINT and SIGTERM, once per process; must be called in the main thread."""
    global _stop
    if _stop is None:
        _stop = StopRequest()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, _ignore)
        threading.Thread(target=_stop._watch, args=(reading,), name="signals", daemon=True).start()
    return _stop


def run(module: str) -> NoReturn:
    """Run `main()` of a module of this room; signals are handled before the module (and with it ROS) is imported."""
    stop = watch_signals()
    entry = importlib.import_module(module).main
    leave(0 if stop() else entry())


def leave(code: int) -> NoReturn:
    """End the process now; threads that are inside a model do not hold it up, nor does the model's tear-down crash it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader has gone
            continue
    os._exit(code)


def _ignore(number: int, frame: object) -> None:
    """Do nothing here: the thread that reads the pipe acts."""
