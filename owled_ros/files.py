"""Files and directories that appear whole or not at all: written aside, fsynced, renamed. Needs a POSIX file system."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError

CHUNK_BYTES = 1 << 20
ASIDE = ".aside-"  # marker in the name of everything that is not finished yet


def sha256_file(path: Path) -> str:
    """Hash a file without holding it in memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_small_file(path: Path, max_bytes: int) -> bytes | None:
    """Read a file that someone else wrote; None where there is none. Never waits, never reads more than `max_bytes`.

    Raises:
        OwledError: it is not a regular file (a folder, a pipe, a device), too large, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise OwledError(
                f"{path} is a link to a file that is not there; restore the file or delete the link"
            ) from None
        return None
    except (OSError, ValueError) as err:
        raise OwledError(f"{path} cannot be read ({err}); check the file and its permissions") from err
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OwledError(f"{path} is not a regular file; expected a file of at most {max_bytes} bytes")
        with open(handle, "rb", closefd=False) as stream:
            data = stream.read(max_bytes + 1)
    except OSError as err:
        raise OwledError(f"{path} cannot be read ({err}); check the file and its permissions") from err
    finally:
        os.close(handle)
    if len(data) > max_bytes:
        raise OwledError(f"{path} has more than {max_bytes} bytes: that is not what it should be; restore the file")
    return data


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(directory: Path) -> None:
    """Flush every file below a directory, then the directories from the leaves up."""
    for root, _, names in os.walk(directory, topdown=False):
        for name in names:
            fsync_path(Path(root) / name)
        fsync_path(Path(root))


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace a file in one step; readers see the old or the new content, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside_name(path)
    try:
        with open(aside, "wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON in one step; NaN and infinities are refused."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def replace_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory aside; on success it is fsynced and renamed to `target`, on failure removed.

    An existing `target` is replaced: it is moved away first and deleted last, so a crash leaves one whole
    directory under one of the two names (see `sweep_asides`).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside_name(target)
    aside.mkdir()
    try:
        yield aside
        fsync_tree(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    old = None
    if target.exists():
        old = _aside_name(target)
        os.rename(target, old)
    os.rename(aside, target)
    fsync_path(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Put every file below `source` into `target` too, without copying bytes where the file system can; no links are kept.

    A file that is then replaced with write_atomic in one of the two stays as it is in the other.
    """
    for root, _, names in os.walk(source):
        below = target / Path(root).relative_to(source)
        below.mkdir(exist_ok=True)
        for name in names:
            found = (Path(root) / name).resolve(strict=True)
            try:
                os.link(found, below / name)
            except OSError:  # another file system, or one without hard links
                shutil.copy2(found, below / name)


def sweep_asides(directory: Path, name: str = "") -> list[Path]:
    """Remove what killed writers left behind in a directory, or of one `name` in it; returns what was removed."""
    begin = f".{name}{ASIDE}" if name else ""
    leftovers = [path for path in directory.iterdir() if ASIDE in path.name and path.name.startswith(begin)]
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return leftovers


def tree_bytes(path: Path) -> int:
    """Sum the sizes of all files below a path [bytes]."""
    if path.is_file():
        return path.stat().st_size
    return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())


def _aside_name(path: Path) -> Path:
    return path.with_name(f".{path.name}{ASIDE}{os.getpid()}-{uuid.uuid4().hex[:8]}")
