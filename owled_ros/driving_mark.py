"""Whether a frame is being driven on a GPU just now: its driver marks it, a job in another process looks. Needs Linux, torch for names.

The mark is a read lock of an open file description (fcntl(2), F_OFD_SETLK) on an empty file in shared memory, one for each GPU. Setting
it never waits, because nobody holds another lock there: who looks only asks whether there is one. The kernel takes it away when
its owner ends, however it ends. So a driver that dies leaves no mark, and a job that is stopped or killed holds nobody up.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
from pathlib import Path

DIRECTORY = Path("/dev/shm")
PREFIX = "owled-driving-"
FLOCK = "hhqqi4x"  # struct flock with 64 bits: type, whence, start, length, process (0: of the open file)
logger = logging.getLogger(__name__)


def file_of(device: str) -> Path | None:
    """Name the file of a CUDA device, the same in every process that sees this GPU and this /dev/shm; None for others."""
    if not device.startswith("cuda"):
        return None
    import torch

    facts = torch.cuda.get_device_properties(torch.device(device))
    return DIRECTORY / f"{PREFIX}{getattr(facts, 'uuid', None) or torch.device(device).index or 0}"


class DrivingMark:
    """A driver's mark: entered while a frame is in work. Without a file, or where none can be made, it does nothing."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._opened = None if file is None else _opened(file)

    def __enter__(self) -> None:
        self._set(fcntl.F_RDLCK)

    def __exit__(self, *problem: object) -> None:
        self._set(fcntl.F_UNLCK)

    def close(self) -> None:
        """Take the mark away for good."""
        opened, self._opened = self._opened, None
        if opened is not None:
            os.close(opened)

    def _set(self, kind: int) -> None:
        if self._opened is not None:
            with contextlib.suppress(OSError):  # no locks here (some file systems): nobody is told
                fcntl.fcntl(self._opened, fcntl.F_OFD_SETLK, _lock(kind))


class DrivingWatch:
    """What a job asks: is a frame in work? A driver that comes later is seen too."""

    def __init__(self, file: Path) -> None:
        self._opened = _opened(file)

    @property
    def works(self) -> bool:
        """Whether marks can be seen here at all."""
        return self._opened is not None

    def driving(self) -> bool:
        """Tell whether any driver has marked a frame; about a microsecond."""
        if self._opened is None:
            return False
        try:
            found = fcntl.fcntl(self._opened, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK))
        except OSError:
            return False
        return bool(struct.unpack(FLOCK, found)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Stop looking."""
        opened, self._opened = self._opened, None
        if opened is not None:
            os.close(opened)


def _opened(file: Path) -> int | None:
    """Open for reading, which is enough for both sides; nothing is ever written. None where that cannot be."""
    how = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        if not hasattr(fcntl, "F_OFD_SETLK"):
            raise OSError("this system has no locks of open files")
        with contextlib.suppress(FileNotFoundError):
            return os.open(file, how)  # first without making it: of another user it may only be opened
        return os.open(file, how | os.O_CREAT, 0o644)
    except OSError as error:
        logger.warning("driving and jobs cannot see each other through %s (%s)", file, error)
        return None


def _lock(kind: int) -> bytes:
    return struct.pack(FLOCK, kind, os.SEEK_SET, 0, 0, 0)
