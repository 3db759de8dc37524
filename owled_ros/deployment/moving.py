"""Directories that appear and vanish whole, whatever dies in between, and words for what a disk refuses. Needs POSIX."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from owled_ros.errors import OwledError
from owled_ros.files import ASIDE, fsync_path, fsync_tree


def move_in(candidate: Path, place: Path) -> None:
    """Give a finished directory its place; the name appears when everything is on the disk, also on another file system."""
    fsync_tree(candidate)
    try:
        os.rename(candidate, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = name_aside(place)
        try:
            shutil.copytree(candidate, aside)
            fsync_tree(aside)
            os.rename(aside, place)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        shutil.rmtree(candidate, ignore_errors=True)
    fsync_path(place.parent)


def remove(path: Path) -> None:
    """Take the name away first, so that nobody finds half a directory."""
    aside = name_aside(path)
    os.rename(path, aside)
    fsync_path(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def name_aside(path: Path) -> Path:
    """Name a place beside a path that nobody finds, and that is swept when its writer dies."""
    return path.with_name(f".{path.name}{ASIDE}{os.getpid()}-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def writable(root: Path) -> Iterator[None]:
    """Say in a sentence what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise OwledError(
            f"cannot change the store {root} ({error}); free some disk space, or make it writable"
        ) from error
