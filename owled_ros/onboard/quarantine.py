"""Try an unknown model in a process of its own before it comes near the driver. Needs psutil and Linux.

The child runs only where nobody else wants the processor, may take so much memory and so much time, and is killed beyond: a
profile that multiplies strings, a configuration of ten million layers or a file that never ends cost the driver nothing. What
has passed there is loaded beside the driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from owled_ros.errors import OwledError
from owled_ros.onboard.loading import (
    MEGABYTE,
    ModelChoice,
    check_memory,
    choose_device,
    load_and_warm,
    load_default,
    weight_bytes,
)

POLL_S = 0.05
BASE_MB = 2_000.0  # of libraries, and of what the images need
CUDA_MB = 4_000.0  # of CUDA's own libraries and context
WEIGHT_FACTOR = 3.0  # of the weights in memory, while they are converted and packed layers are built
MAX_ENTRIES = 10_000  # files of a directory
MAX_TEXT_BYTES = 256 << 20  # of a file that is no weights
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".owled", ".bin", ".pt", ".pth")  # what is not loaded may lie there
MESSAGE_BYTES = 4000
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class TrialLimits:
    """What the child may take."""

    seconds: float
    memory_mb: float | None = None  # resident; None: by the size of the weights
    reserve_mb: float | None = None  # what stays free beside it on the device; None: not looked at before


def try_in_child(choice: ModelChoice, limits: TrialLimits, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Load and warm a model in a child process; raises OwledError with its words, or with the limit that it broke."""
    if choice.path:
        check_files(Path(choice.path).expanduser())
    choice = replace(choice, device=choose_device(choice))
    if limits.reserve_mb is not None:
        check_memory(choice, limits.reserve_mb)  # on a GPU the child takes from the driver's own memory
    base = BASE_MB + (CUDA_MB if choice.device != "cpu" else 0.0)
    memory_mb = limits.memory_mb or base + WEIGHT_FACTOR * _weight_mb(choice)
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, process_group=0, env=_environment(),
        )  # fmt: skip
        try:
            broken = _watched(child, choice, limits.seconds, memory_mb, cancelled)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        said = b"" if child.stdout is None else child.stdout.read(MESSAGE_BYTES)
        words.seek(0)
        last = words.read()[-MESSAGE_BYTES:].decode(errors="replace").strip()
    if broken:
        raise OwledError(f"{choice.path} {broken}; it was stopped before it came near the driver")
    _judge(choice, child.returncode, said, last)


def check_files(directory: Path) -> None:
    """Raise OwledError for a directory that holds anything but regular files of a sensible size."""
    if not directory.is_dir():
        raise OwledError(f"model directory {directory} does not exist; give a Hugging Face model or an owled artifact")
    for count, (root, folders, names) in enumerate(os.walk(directory)):
        if count + len(folders) + len(names) > MAX_ENTRIES:
            raise OwledError(f"{directory} holds more than {MAX_ENTRIES} entries; expected a model directory")
        for name in names:
            path = Path(root) / name
            try:
                status = path.stat()
            except OSError as error:
                raise OwledError(f"{path} cannot be read ({error}); remove it") from error
            if not stat.S_ISREG(status.st_mode):
                raise OwledError(f"{path} is not a regular file (a pipe, a device or a socket); remove it")
            if path.suffix not in WEIGHT_SUFFIXES and status.st_size > MAX_TEXT_BYTES:
                raise OwledError(f"{path} has {status.st_size / MEGABYTE:.0f} MB; no such file of a model is so large")


def main() -> None:
    """Load what is asked for on standard input, and answer on standard output; the child's side."""
    _give_way()
    answer, sys.stdout = sys.stdout, sys.stderr  # libraries print
    choice = ModelChoice(**json.loads(sys.stdin.readline()))
    problem = ""
    try:
        with giving_way_on(choice.device):
            load_and_warm(choice, load_default, None, None)
    except OwledError as error:
        problem = str(error)
    except Exception as error:  # a damaged model can raise anything; its words are what the user needs
        problem = f"{type(error).__name__}: {error}"
    answer.write(json.dumps({"problem": problem[: MESSAGE_BYTES // 2]}) + "\n")
    answer.flush()
    os._exit(0)


def _give_way() -> None:
    """Run where nobody else wants the processor, be the first to go when memory runs out, and end with whoever asked.

    The child stays in the session of the driver: where each session has its share of the processor (Linux' autogroup), idle
    scheduling means something only beside others of the same one.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def giving_way_on(device: str) -> contextlib.AbstractContextManager[object]:
    """Return what a trial on a GPU runs in; torch is imported for it."""
    from owled_ros.giving_way import giving_way

    return giving_way(device)


def _watched(
    child: subprocess.Popen[bytes], choice: ModelChoice, seconds: float, memory_mb: float, cancelled: Callable[[], bool]
) -> str:
    """Wait for the child; returns the limit that it broke, empty when it ended by itself."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(asdict(choice)).encode() + b"\n")
        child.stdin.close()
    deadline = time.monotonic() + seconds
    process = psutil.Process(child.pid)
    while child.poll() is None:
        with contextlib.suppress(psutil.Error):
            used = process.memory_info().rss / MEGABYTE
            if used > memory_mb:
                return f"took more than {memory_mb:.0f} MB of memory while it was tried"
        if time.monotonic() > deadline:
            return f"was not ready within {seconds:g} s when it was tried"
        if cancelled():
            raise OwledError("the trial was cancelled")
        time.sleep(POLL_S)
    return ""


def _judge(choice: ModelChoice, code: int, said: bytes, last: str) -> None:
    try:
        problem = str(json.loads(said)["problem"])
    except (ValueError, LookupError, TypeError):
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        end = last.splitlines()[-1] if last else "nothing"
        raise OwledError(f"{choice.path} ended the process that tried it ({how}); it said: {end}") from None
    if problem:
        raise OwledError(problem)


def _weight_mb(choice: ModelChoice) -> float:
    return weight_bytes(Path(choice.path).expanduser(), choice.dtype) / MEGABYTE if choice.path else 0.0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
