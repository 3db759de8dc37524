"""A disk that forgets what was not fsynced, for power cuts between any two writes.

While `recording`, every step that changes the disk is counted, and what an fsync makes durable is remembered by inode: the
content of a file, or the names in a directory. `what_is_left` builds the tree that a cut after the last step leaves when
the disk kept nothing else: a name whose directory was not synced is missing or old, a file that was not synced is empty.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

STEPS = ("mkdir", "rename", "replace", "symlink", "unlink", "rmdir", "fsync")


class PowerCutError(BaseException):
    """The lights go out; no handler for Exception sees it."""


@dataclass
class Disk:
    """What is durable below `root`."""

    root: Path
    cut_after: int | None = None
    steps: int = 0
    names: dict[int, dict[str, tuple[int, str | None]]] = field(
        default_factory=dict
    )  # directory -> name -> inode, link target
    content: dict[int, bytes] = field(default_factory=dict)
    kinds: dict[int, bool] = field(default_factory=dict)  # inode -> is a directory

    def sync_everything(self) -> None:
        for directory, _, files in os.walk(self.root):
            self.sync(Path(directory))
            for name in files:
                path = Path(directory) / name
                if not path.is_symlink():
                    self.sync(path)

    def sync(self, path: Path) -> None:
        state = path.stat()
        directory = stat.S_ISDIR(state.st_mode)
        self.kinds[state.st_ino] = directory
        if not directory:
            self.content[state.st_ino] = path.read_bytes()
            return
        entries = {}
        for child in path.iterdir():
            known = child.lstat()
            target = os.readlink(child) if stat.S_ISLNK(known.st_mode) else None
            entries[child.name] = (known.st_ino, target)
            self.kinds.setdefault(known.st_ino, stat.S_ISDIR(known.st_mode))
        self.names[state.st_ino] = entries

    def step(self) -> None:
        """Count a step; the cut comes before it is done."""
        if self.cut_after is not None and self.steps >= self.cut_after:
            raise PowerCutError
        self.steps += 1

    def what_is_left(self, target: Path) -> Path:
        self._restore(self.root.stat().st_ino, target)
        return target

    def _restore(self, inode: int, target: Path) -> None:
        target.mkdir(parents=True)
        for name, (child, link) in self.names.get(inode, {}).items():
            if link is not None:
                (target / name).symlink_to(link)
            elif self.kinds[child]:
                self._restore(child, target / name)
            else:
                (target / name).write_bytes(self.content.get(child, b""))


@contextlib.contextmanager
def recording(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Watch the operating system's calls; after `cut_after` of them everything raises PowerCutError."""

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            disk.step()
            done = original(*arguments, **options)
            if name == "fsync":
                disk.sync(Path(os.readlink(f"/proc/self/fd/{arguments[0]}")))
            return done

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        yield
