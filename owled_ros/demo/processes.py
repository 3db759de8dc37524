"""Child processes that never outlive the demonstration, and the shared memory they would leave behind. Needs Linux."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from owled_ros.doctor.transport import orphaned
from owled_ros.shipped import shipped

SHARED_MEMORY = Path("/dev/shm")
SEGMENT_MARK = "fastrtps_"
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
ORDERLY_S = 12.0  # the source may still have a film to finish


class Child:
    """A node in a process of its own; its error output goes to a log file."""

    def __init__(self, program: Sequence[str], arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.killed = False
        command = [sys.executable, *program, "--ros-args", *arguments]
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C reaches the demonstration alone, which then ends everybody in order
                preexec_fn=_end_with_parent,
            )

    @property
    def code(self) -> int | None:
        """Exit code, None while it runs."""
        return self.process.poll()

    def text(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 12) -> str:
        """Return the end of its log."""
        return "\n".join(self.text().splitlines()[-lines:])

    def end(self, timeout: float = ORDERLY_S) -> None:
        """Ask it to end, and kill it when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.killed = True
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def reaped(*started: Child) -> Iterator[None]:
    """End all children, the last one first, however the block ends; segments of killed ones are removed."""
    before = _segments()
    try:
        yield
    finally:
        for child in reversed(started):
            child.end()
        if any(child.killed or (child.code or 0) < 0 for child in started):
            sweep_segments(before)


def transport_environment() -> dict[str, str]:
    """Return this process' environment with our Fast DDS profile and malloc settings where none are set."""
    config = shipped("config")
    profile = str(config / "fastdds.xml")
    profiles = {"FASTRTPS_DEFAULT_PROFILES_FILE": profile, "FASTDDS_DEFAULT_PROFILES_FILE": profile}
    return {**profiles, "PYTHONUNBUFFERED": "1", **_read_settings(config / "transport.env"), **os.environ}


def node_environment(domain: int | None) -> dict[str, str]:
    """Return the environment of the demonstration's nodes: as for any node of ours, on this machine only unless set."""
    kept_here = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "RCUTILS_COLORIZED_OUTPUT": "0"}
    environment = {**kept_here, **transport_environment()}
    if domain is not None:
        environment["ROS_DOMAIN_ID"] = str(domain)
    return environment


def sweep_segments(before: set[Path]) -> list[Path]:
    """Remove Fast DDS segments that are new since `before` and that no process has mapped or open; returns them."""
    fresh = _segments() - before
    if not fresh:
        return []
    time.sleep(0.1)
    orphans = orphaned(sorted(fresh))
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans


def _segments() -> set[Path]:
    return {path for path in SHARED_MEMORY.glob("*") if SEGMENT_MARK in path.name} if SHARED_MEMORY.is_dir() else set()


def _read_settings(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _end_with_parent() -> None:
    """Let the kernel ask the child to end when the demonstration is killed (runs in the child, before exec)."""
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
