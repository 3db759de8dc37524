"""Advisory locks between processes. Needs POSIX."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from owled_ros.errors import OwledError

LOCK_POLL_S = 0.05


@contextlib.contextmanager
def locked(path: Path, timeout_s: float, refusal: str) -> Iterator[None]:
    """Hold an advisory lock; the kernel releases it when the process dies. Raises OwledError when it cannot be had."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OwledError(
            f"cannot write {path} ({error}); free some disk space, or make the directory writable"
        ) from error
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise OwledError(refusal) from error
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(handle)
