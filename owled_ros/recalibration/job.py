"""One recalibration from the outside: starts the child, watches it, pauses or kills it, and files what it made. Needs POSIX.

The same function serves `owled recalibrate` and the node. Cancelling, a time limit, a crash or an interrupt kill the whole
process group of the child and leave nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from owled_ros.deployment.store import Driver, Store, SwitchCancelledError, Version
from owled_ros.errors import OwledError
from owled_ros.recalibration.courtesy import Courtesy, Pacer
from owled_ros.recalibration.request import JobRequest

POLL_S = 0.05
REAP_S = 10.0
LOG_BYTES = 2000  # of the end of the child's log
# stage -> (where it begins, where it ends) in the whole job
STAGES = {
    "reading": (0.0, 0.05),
    "calibrating": (0.05, 0.3),
    "pruning": (0.3, 0.65),
    "writing": (0.65, 0.7),
    "gating": (0.7, 0.97),
    "promoting": (0.97, 1.0),
}
logger = logging.getLogger(__name__)


class JobCancelledError(OwledError):
    """The job was cancelled; nothing of it is left."""


@dataclass(frozen=True)
class JobProgress:
    """Where a job is."""

    stage: str  # a key of STAGES
    detail: str
    done: int
    total: int
    progress: float  # of the whole job, [0, 1]
    eta_s: float  # NaN: unknown yet
    paused: bool = False


@dataclass(frozen=True)
class JobResult:
    """What a finished job made."""

    version: Version
    verdict: dict[str, Any]
    promoted: bool
    message: str
    seconds: float
    paused_s: float


def run_job(
    request: JobRequest,
    store: Store,
    progress: Callable[[JobProgress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    pacer: Pacer | None = None,
    driver: Driver | None = None,
    courtesy: Courtesy | None = None,
    python: str = sys.executable,
) -> JobResult:
    """Recalibrate; `request.work` is replaced by a directory of the store.

    Args:
        cancelled: asked every POLL_S.
        pacer: stops and continues the child; None never does.
        driver: prepares a promoted version before the store switches to it, and commits after.
        courtesy: what the child gives up for others; None: what the parameters say.
        python: runs the child.

    Raises JobCancelledError, or OwledError with the child's own message, when no candidate came out.
    """
    request.check()
    told = request.parameters
    started = time.monotonic()
    with store.job() as work:
        current = store.current()
        running = request.running or current
        watch = _Watch(progress, cancelled, pacer, told.time_limit_s, started)
        result = _run_child(replace(request, work=work, running=running), courtesy or told.courtesy, python, watch)
        watch.tell("promoting", 0, 1, "filing the candidate")
        version = store.add(Path(result["candidate"]))
        changed = store.current() != current
        promoted, message = _promote(store, version, result["verdict"], told.promote, driver, changed)
        for removed in store.retain(told.retention, protect=(version.artifact_id,)):
            logger.info("version %s was deleted to keep the store within its limits", removed)
    watch.tell("promoting", 1, 1, message)
    seconds = time.monotonic() - started
    return JobResult(store.find(version.path.name), result["verdict"], promoted, message, seconds, watch.paused_s())


def _promote(
    store: Store, version: Version, verdict: dict[str, Any], wanted: bool, driver: Driver | None, changed: bool
) -> tuple[bool, str]:
    if not verdict["passed"]:
        return False, f"the gate refused candidate {version.artifact_id}: {'; '.join(verdict['reasons'])}"
    if not wanted:
        return False, f"candidate {version.artifact_id} passed the gate; promote it when you want it to drive"
    if changed:
        return False, (
            f"candidate {version.artifact_id} passed the gate against a version that is not current any more; judge it again, "
            "or promote it by hand"
        )
    try:
        store.promote(version.path.name, driver=driver)
    except SwitchCancelledError as error:
        raise JobCancelledError(
            f"the recalibration was cancelled; candidate {version.artifact_id} is kept, what drives is unchanged"
        ) from error
    except OwledError as error:
        logger.error("candidate %s passed the gate but was not promoted: %s", version.artifact_id, error)
        return False, f"candidate {version.artifact_id} passed the gate but was not promoted: {error}"
    return True, f"candidate {version.artifact_id} passed the gate and is current now"


class _Watch:
    """Everything that is asked and told while the child runs."""

    def __init__(
        self, progress: Callable[[JobProgress], None], cancelled: Callable[[], bool], pacer: Pacer | None,
        limit_s: float, started: float,
    ) -> None:  # fmt: skip
        self._progress, self._cancelled, self.pacer = progress, cancelled, pacer
        self._limit_s, self._started = limit_s, started
        self._last = JobProgress("reading", "starting", 0, 0, 0.0, math.nan)
        self._paused = False

    def tell(self, stage: str, done: int, total: int, detail: str) -> None:
        begin, end = STAGES.get(stage, (self._last.progress, 1.0))
        share = max(begin + (end - begin) * (done / total if total else 0.0), self._last.progress)
        worked = time.monotonic() - self._started - self.paused_s()
        eta = worked * (1.0 - share) / share if share > 0.02 else math.nan
        self._last = JobProgress(stage, detail, done, total, share, eta)
        self._progress(self._last)

    def check(self) -> None:
        """Raise when the job has to end."""
        if self._cancelled():
            raise JobCancelledError("the recalibration was cancelled; nothing was changed")
        if self._limit_s > 0.0 and time.monotonic() - self._started > self._limit_s:
            raise OwledError(
                f"the recalibration did not end within {self._limit_s:g} s; give it more time or fewer frames"
            )

    def pace(self, child: subprocess.Popen[str]) -> None:
        """Stop or continue the child."""
        if self.pacer is None:
            return
        stop = self.pacer.should_stop()
        if stop == self._paused:
            return
        self._paused = stop
        _signal_group(child, signal.SIGSTOP if stop else signal.SIGCONT)
        self._progress(
            replace(self._last, paused=stop, detail="waiting, driving needs the machine" if stop else self._last.detail)
        )

    def paused_s(self) -> float:
        return self.pacer.stopped_s if self.pacer else 0.0


def _run_child(request: JobRequest, courtesy: Courtesy, python: str, watch: _Watch) -> dict[str, Any]:
    """Run the child to its end and return its result event."""
    log = request.work / "child.log"
    with log.open("wb") as words, _child(request, courtesy, python, words) as child:
        if watch.pacer is not None:
            watch.pacer.start()
        try:
            last = _follow(child, watch)
        finally:
            if watch.pacer is not None:
                watch.pacer.finish()
        code = child.wait(timeout=REAP_S)
    if last.get("event") == "error":
        raise OwledError(last["message"])
    if last.get("event") != "result" or code != 0:
        raise OwledError(
            f"the recalibration process died ({_death(code)}); nothing was changed. The end of its log: {_tail(log)}"
        )
    return last


def _follow(child: subprocess.Popen[str], watch: _Watch) -> dict[str, Any]:
    """Pass on the child's events until it closes its output; returns the last one, a result or an error."""
    events = _read_events(child)
    last: dict[str, Any] = {}
    while True:
        watch.check()
        watch.pace(child)
        try:
            event = events.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if event is None:
            return last
        if event["event"] == "progress":
            watch.tell(event["stage"], event["done"], event["total"], event["detail"])
        elif event["event"] == "warning":
            logger.warning("%s", event["message"])
        else:
            last = event


@contextlib.contextmanager
def _child(request: JobRequest, courtesy: Courtesy, python: str, words: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the child in its own process group; at the end, however it comes, the group is gone and reaped."""
    start = {"parent": os.getpid(), "request": request.to_json(), "courtesy": asdict(courtesy)}
    environment = courtesy.environment({**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    child = subprocess.Popen(
        [python, "-m", "owled_ros.recalibration.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
        text=True, start_new_session=True, env=environment,
    )  # fmt: skip
    try:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; its exit tells
            child.stdin.write(json.dumps(start) + "\n")
            child.stdin.close()
        yield child
    finally:
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _read_events(child: subprocess.Popen[str]) -> queue.Queue[dict[str, Any] | None]:
    """Read the child's events in a thread; None marks the end."""
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        with contextlib.suppress(ValueError):  # closed, or half a line of a killed child
            for line in child.stdout:
                events.put(json.loads(line))
        events.put(None)

    threading.Thread(target=read, name="recalibration events", daemon=True).start()
    return events


def _signal_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    text = log.read_bytes()[-LOG_BYTES:].decode(errors="replace").strip()
    return text.splitlines()[-1] if text else "none"
