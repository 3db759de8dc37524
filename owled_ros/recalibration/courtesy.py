"""The car comes first: how the child process gives way to driving, and when it is paused. Needs Linux for most of it.

After Missile (arXiv 2407.13996): a latency-sensitive task beside a best-effort one. In the child: idle scheduling class,
idle disk priority, few cores and threads, first to go when memory is short, memory kept instead of returned; on a GPU small pieces
of work, none while a frame is in work (giving_way). In the parent: a pacer that stops the child while the driver's reported latency is above its budget.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)
MALLOC_KEEPS_MEMORY = {  # torch allocates and frees large blocks; returning them costs page faults for everybody
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
}
PR_SET_PDEATHSIG, SIGKILL = 1, 9
IOPRIO_SYSCALL = {"x86_64": 251, "aarch64": 30}
IOPRIO_IDLE, IOPRIO_WHO_PROCESS = 3 << 13, 1
LOWEST_NICE = 19
AUTOGROUP = Path("/proc/self/autogroup")  # sessions share the processor evenly, whatever their nice; all of one counts


@dataclass(frozen=True)
class Courtesy:
    """What the child gives up; everything can be switched off to measure what it is worth."""

    idle: bool = True  # idle scheduling class and disk priority: runs only on cores that nobody wants
    cores: tuple[int, ...] = ()  # empty: all
    threads: int = 1
    first_to_go: bool = True  # when memory runs out
    gpu_pauses: bool = True  # on a GPU: nothing is launched while a frame is in work (giving_way)
    gpu_bounded: bool = True  # little is ahead there, and large products are cut into pieces

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the child: thread limits and memory that is kept."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        return {**base, **MALLOC_KEEPS_MEMORY, **threads, **quiet}


def give_way(courtesy: Courtesy) -> list[str]:
    """Put the calling process behind everything else; returns what could not be done on this machine.

    The session goes with it where the process leads one, and else stays: others run in it.
    """
    missing: list[str] = []
    if courtesy.idle:
        _try(missing, "idle scheduling", lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)))
        _try(missing, "nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, LOWEST_NICE))
        if os.getsid(0) == os.getpid() and AUTOGROUP.exists():
            _try(missing, "autogroup", lambda: AUTOGROUP.write_text(str(LOWEST_NICE)))
        _try(missing, "idle disk priority", _idle_disk)
    if courtesy.cores:
        _try(missing, "core limit", lambda: os.sched_setaffinity(0, courtesy.cores))
    if courtesy.first_to_go:
        _try(missing, "memory order", lambda: Path("/proc/self/oom_score_adj").write_text("1000"))
    return missing


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process, stopped or not, as soon as its parent is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def available_memory_bytes() -> int | None:
    """Return the memory that can be had without swapping [bytes]; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None


@dataclass
class Pacer:
    """Decides when the child is stopped: while the driver's latency is above its budget, then for longer each time.

    Samples that arrive while the child stands still, or while there is none, tell what the driver needs alone; without a
    budget of its own (0) it is `tolerance` times the p99 of those. After a stop the child may run for `run_s`; a
    violation doubles the length of the next stop up to `max_stop_s`, a quiet spell halves it.
    """

    budget_ms: float = 0.0  # 0: learned
    tolerance: float = 1.15
    window: int = 20  # samples that are looked at
    allowed: int = 1  # of them above the budget
    min_stop_s: float = 0.25
    max_stop_s: float = 8.0
    quiet_s: float = 4.0  # without a violation, halves the stops
    settle_s: float = 1.0  # after a stop; what arrives before was still slowed down
    clock: Callable[[], float] = time.monotonic
    alone_ms: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    stopped: bool = True  # nothing runs yet
    stopped_s: float = 0.0  # in all
    stops: int = 0
    _recent: deque[bool] = field(default_factory=deque)
    _stop_s: float = 0.0
    _until: float = -math.inf
    _last_violation: float = -math.inf
    _since: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sample(self, latency_ms: float) -> None:
        """Take a latency that the driving node reported; may be called from another thread."""
        if not math.isfinite(latency_ms):
            return
        if self.stopped:
            if self.clock() - self._since > self.settle_s:
                self.alone_ms.append(latency_ms)
            return
        budget = self.budget()
        if budget is None:
            return
        with self._lock:
            self._recent.append(latency_ms > budget)
            while len(self._recent) > self.window:
                self._recent.popleft()

    def budget(self) -> float | None:
        """Return what the driver may need [ms]; None while it is not known."""
        if self.budget_ms > 0.0:
            return self.budget_ms
        if len(self.alone_ms) < self.window:
            return None
        ordered = sorted(self.alone_ms)
        return self.tolerance * ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]

    def start(self) -> None:
        """Say that a child runs; what was counted for an earlier one starts over."""
        self.stopped_s, self.stops, self._stop_s = 0.0, 0, 0.0
        self._since = self._until = -math.inf
        self._forget()
        self._mark(stopped=False)

    def should_stop(self) -> bool:
        """Tell whether the child has to stand still now."""
        now = self.clock()
        if now < self._until:
            return True
        if self.stopped and self._until > -math.inf:
            self._mark(stopped=False)
            self._forget()
        with self._lock:
            violations = sum(self._recent)
        if violations > self.allowed:
            self._stop_s = min(max(2 * self._stop_s, self.min_stop_s), self.max_stop_s)
            self._last_violation = now
            self._until = now + self._stop_s
            self.stops += 1
            self._forget()
            self._mark(stopped=True)
            return True
        if now - self._last_violation > self.quiet_s:
            self._stop_s, self._last_violation = self._stop_s / 2, now
        return False

    def finish(self) -> None:
        """Say that the child is gone."""
        self._mark(stopped=True)
        self._until = -math.inf

    def _forget(self) -> None:
        with self._lock:
            self._recent.clear()

    def _mark(self, stopped: bool) -> None:
        now = self.clock()
        if self.stopped and not stopped and self._since > -math.inf:
            self.stopped_s += now - self._since
        if stopped != self.stopped:
            self._since = now
        self.stopped = stopped


def _idle_disk() -> None:
    number = IOPRIO_SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(f"no ioprio_set known for {platform.machine()}")
    if ctypes.CDLL(None, use_errno=True).syscall(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) != 0:
        raise OSError(ctypes.get_errno(), "ioprio_set failed")


def _try(missing: list[str], name: str, action: Callable[[], object]) -> None:
    try:
        action()
    except (OSError, AttributeError, ValueError) as error:
        missing.append(f"{name} ({error})")
