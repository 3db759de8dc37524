"""Versioned artifacts and which of them is current, whole at every moment, also after a power cut. Needs POSIX.

    <root>/artifacts/000012-<artifact id>/   finished artifacts, numbered in the order of their arrival
    <root>/current -> artifacts/000012-...    what is to drive; absent: the base model, nothing was promoted yet
    <root>/history.json                       what was promoted before, for the way back
    <root>/work/                              unfinished jobs; whoever holds the job lock may empty it

Everything is written aside, fsynced and renamed. Numbers order the versions, so a wrong clock does no harm. A switch is
one rename: what must succeed before it (the driver has the model ready, the history is written) comes before, and nothing
that follows can undo it. The history may hold more than was promoted: it counts only up to the last entry that is current.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from owled_ros.deployment.locks import locked
from owled_ros.deployment.moving import move_in, name_aside, remove, writable
from owled_ros.errors import OwledError
from owled_ros.files import fsync_path, sweep_asides, tree_bytes, write_json
from owled_ros.models.manifest import Manifest, add_section, artifact_id, read_manifest, verify

CURRENT, ARTIFACTS, WORK, HISTORY = "current", "artifacts", "work", "history.json"
FORMAT_VERSION = 1
LOCK_TIMEOUT_S = 60.0  # a promotion holds the lock while the driving node loads
NAME = re.compile(r"(?P<number>\d{6,})-(?P<id>[0-9a-f]{6,64})")
MIN_HASH_DIGITS = 6  # of a hash that names a version: less is a slip of the finger
MAX_HISTORY = 1000  # promotions that are remembered
MAX_HISTORY_BYTES = 1 << 20
UNREADABLE = (OwledError, OSError, ValueError, LookupError, TypeError, RecursionError, MemoryError)
logger = logging.getLogger(__name__)


class SwitchCancelledError(OwledError):
    """A switch was cancelled before it was committed; nothing has changed."""


class Driver(Protocol):
    """Whoever drives from this store, asked in two steps; None stands for the base model."""

    def prepare(self, directory: Path | None) -> None:
        """Load a directory beside the running model and try it; raises OwledError, then nothing has changed."""

    def commit(self) -> None:
        """Drive with what was prepared; raises OwledError when the driver cannot be reached."""

    def abort(self) -> None:
        """Forget what was prepared; never raises."""


@dataclass(frozen=True)
class Version:
    """One artifact of the store."""

    number: int
    artifact_id: str
    path: Path
    created: str  # ISO 8601, wall clock
    bytes: int  # on disk, everything in its directory
    sparsity: float  # share of zeros over the pruned matrices
    current: bool
    previous: bool  # what a rollback leads to
    gated: bool
    passed: bool
    fault: str = ""  # why its manifest cannot be read
    packed_bytes: int = 0  # of these, what the sparse runtime drives on; 0: not packed


@dataclass(frozen=True)
class Retention:
    """What is kept beside the current version and the one before it, which always stay."""

    max_versions: int = 8
    max_bytes: int = 50 << 30


class Store:
    """A directory of versions. Reading needs no lock; changes wait for each other, also between processes."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().absolute()

    def prepare(self) -> None:
        """Make the directories."""
        try:
            for directory in (self.root / ARTIFACTS, self.root / WORK):
                directory.mkdir(parents=True, exist_ok=True)
            fsync_path(self.root)
            fsync_path(self.root.parent)
        except OSError as error:
            raise OwledError(
                f"cannot use {self.root} as artifact store ({error}); choose a writable directory"
            ) from error

    def current(self) -> Path | None:
        """Return the directory that is current now, resolved; None before the first promotion.

        Raises OwledError when `current` was changed by hand and leads to no version.
        """
        name = self._current_name()
        if name is None:
            return None
        path = self.root / ARTIFACTS / name
        if not path.is_dir():
            raise OwledError(
                f"{self.root / CURRENT} leads to {name}, which is gone; promote another version or roll back"
            )
        return path

    def versions(self) -> list[Version]:
        """List all versions, newest first; a version whose manifest cannot be read is listed with its fault."""
        directory = self.root / ARTIFACTS
        if not directory.is_dir():
            return []
        try:
            current, previous = self._current_name(), self._previous_name()
        except OwledError as error:  # the list is what an operator needs to repair it
            logger.warning("%s", error)
            current = previous = None
        names = [path.name for path in directory.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
        return [self._version(name, current, previous) for name in sorted(names, key=_number, reverse=True)]

    def find(self, identifier: str) -> Version:
        """Find a version by its short hash (or the beginning of it) or its full name; raises OwledError."""
        known = self.versions()
        found = [
            item
            for item in known
            if item.path.name == identifier
            or (len(identifier) >= MIN_HASH_DIGITS and item.artifact_id.startswith(identifier))
        ]
        if len(found) != 1:
            listed = ", ".join(item.artifact_id for item in known) or "nothing"
            raise OwledError(
                f"{identifier[:80]!r} names {len(found)} versions of {self.root}; give a full name or at least "
                f"{MIN_HASH_DIGITS} digits of the hash; it holds {listed}"
            )
        return found[0]

    @contextlib.contextmanager
    def job(self) -> Iterator[Path]:
        """Hold the store for one recalibration and yield its empty work directory, which is removed at the end.

        What killed jobs left behind is swept first. Raises OwledError while another process recalibrates.
        """
        self.prepare()
        with locked(
            self.root / ".job.lock", 0.0, f"another recalibration is using {self.root}; wait for its end or cancel it"
        ):
            with writable(self.root):
                for leftover in (self.root / WORK).iterdir():
                    shutil.rmtree(leftover, ignore_errors=True)
                work = self.root / WORK / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
                work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def add(self, candidate: Path) -> Version:
        """Move a finished artifact into the store in one step; one of another file system is copied aside first.

        The same model, method and calibration have the same hash: then the version that is here stays, with the new verdict.
        """
        with self._changing():
            manifest = read_manifest(candidate)
            identity = artifact_id(manifest)
            same = [item for item in self.versions() if item.artifact_id == identity]
            if same and self._kept(same[0], manifest):
                return self.find(same[0].path.name)
            numbers = [_number(path.name) for path in (self.root / ARTIFACTS).iterdir() if NAME.fullmatch(path.name)]
            name = f"{max(numbers, default=0) + 1:06d}-{identity}"
            move_in(candidate, self.root / ARTIFACTS / name)
            for old in same:  # damaged, or without what the new one has
                remove(old.path)
            return self.find(name)

    def promote(self, identifier: str, force: bool = False, driver: Driver | None = None) -> str:
        """Make a version current; returns the hash of the one before, or an empty string.

        Args:
            identifier: short hash or name.
            force: also a version that the gate did not pass.
            driver: prepares before the switch and commits after it; when it cannot prepare, nothing is switched.
        """
        with self._changing():
            version = self.find(identifier)
            verify(version.path)
            if not force and not version.passed:
                what = "was refused by the gate" if version.gated else "was never judged by the gate"
                raise OwledError(f"version {version.artifact_id} {what}; inspect its verdict, or force the promotion")
            before = self._current_name()
            if before == version.path.name:
                return _identity(self._previous_name())
            self._switch(version.path.name, [*self._history(), version.path.name][-MAX_HISTORY:], driver)
            return _identity(before)

    def rollback(self, driver: Driver | None = None) -> str:
        """Go back to the version that was current before; returns its hash, empty where that is the dense model.

        Raises OwledError when nothing was promoted or the version before is damaged; then nothing changes.
        """
        with self._changing():
            history = self._history()
            if not history:
                raise OwledError(f"nothing was promoted in {self.root}; there is nothing to roll back to")
            target = history[-2] if len(history) > 1 else None
            if target is not None:
                verify(self.root / ARTIFACTS / target)
            self._switch(target, history, driver)
            self._shorten(history[:-1])
            return _identity(target)

    def retain(self, retention: Retention, protect: tuple[str, ...] = ()) -> list[str]:
        """Delete the oldest versions above the limits; never the current one, the one before it, or `protect` (hashes)."""
        removed = []
        with self._changing():
            kept = self.versions()
            while kept and (
                len(kept) > retention.max_versions or sum(item.bytes for item in kept) > retention.max_bytes
            ):
                free = [item for item in kept if not (item.current or item.previous or item.artifact_id in protect)]
                if not free:
                    break
                remove(free[-1].path)
                removed.append(free[-1].artifact_id)
                kept.remove(free[-1])
        return removed

    def _version(self, name: str, current: str | None, previous: str | None) -> Version:
        path = self.root / ARTIFACTS / name
        manifest, fault = None, ""
        try:
            manifest = read_manifest(path)
        except UNREADABLE as error:  # whatever lies there, the others are listed
            fault = str(error) or type(error).__name__
        verdict = (manifest.gate if manifest else None) or {}
        return Version(
            number=_number(name),
            artifact_id=_identity(name),
            path=path,
            created=manifest.created if manifest else "",
            bytes=_bytes_of(path),
            sparsity=manifest.sparsity if manifest else 0.0,
            current=name == current,
            previous=name == previous,
            gated=bool(verdict),
            passed=bool(verdict.get("passed")),
            fault=fault[:500],
            packed_bytes=int((manifest.packed or {}).get("bytes", 0)) if manifest else 0,
        )

    def _kept(self, known: Version, manifest: Manifest) -> bool:
        """Keep a version that is here already; False when it is damaged or lacks something and may be replaced."""
        try:
            here = verify(known.path)
        except OwledError as error:
            if known.current:
                raise OwledError(f"the current version is damaged ({error}); roll back first") from error
            return False
        if manifest.packed and not here.packed and not known.current:
            return False
        if manifest.gate is not None:
            add_section(known.path, "gate", manifest.gate)
        return True

    def _current_name(self) -> str | None:
        try:
            target = Path(os.readlink(self.root / CURRENT))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OwledError(
                f"{self.root / CURRENT} is not a link ({error}); remove it and promote a version"
            ) from error
        if target.parent != Path(ARTIFACTS) or not NAME.fullmatch(target.name):
            raise OwledError(
                f"{self.root / CURRENT} leads to {target}, outside the store; remove it and promote a version"
            )
        return target.name

    def _history(self) -> list[str]:
        """Return what was promoted, in order, ending with what is current: a crash can leave one entry too many."""
        current = self._current_name()
        if current is None:
            return []
        names = self._written_history()
        if current not in names:
            return [current]
        past = names[: len(names) - names[::-1].index(current)]
        return [name for name in past if name == current or (self.root / ARTIFACTS / name).is_dir()]

    def _written_history(self) -> list[str]:
        """Return the names in the file, more than were promoted perhaps; none where it cannot be read."""
        path = self.root / HISTORY
        try:
            if path.stat().st_size > MAX_HISTORY_BYTES:
                raise ValueError("it is too long")
            promoted = json.loads(path.read_text())["promoted"]
            return [name for name in promoted[-MAX_HISTORY:] if NAME.fullmatch(name)]
        except FileNotFoundError:
            return []
        except UNREADABLE as error:
            logger.warning("%s cannot be read (%s): rollback ends here", path, error or type(error).__name__)
            return []

    def _previous_name(self) -> str | None:
        history = self._history()
        return history[-2] if len(history) > 1 else None

    def _switch(self, name: str | None, history: list[str], driver: Driver | None) -> None:
        """Prepare, rename, commit; until the rename nothing has changed, and after it nothing can fail."""
        if driver is not None:
            driver.prepare(None if name is None else self.root / ARTIFACTS / name)
        try:
            if history != self._written_history():
                write_json(self.root / HISTORY, {"format_version": FORMAT_VERSION, "promoted": history})
            if name is None:
                os.unlink(self.root / CURRENT)
            else:
                self._link(name)
        except OSError as error:
            if driver is not None:
                driver.abort()
            raise OwledError(
                f"cannot switch the store {self.root} ({error}); the current version is unchanged"
            ) from error
        except BaseException:
            if driver is not None:
                driver.abort()
            raise
        self._settle(driver)

    def _settle(self, driver: Driver | None) -> None:
        """Do what follows the rename; what fails here is said and changes nothing."""
        with contextlib.suppress(OSError):  # the name has moved; a power cut may still take it back, whole
            fsync_path(self.root)
        if driver is not None:
            try:
                driver.commit()
            except OwledError as error:
                logger.error("the store has switched, the driving node has not confirmed it yet: %s", error)

    def _shorten(self, history: list[str]) -> None:
        """Cut the history after a rollback; a longer one is understood too, as long as it is cut before the next."""
        try:
            write_json(self.root / HISTORY, {"format_version": FORMAT_VERSION, "promoted": history})
        except OSError as error:
            logger.warning("%s was not shortened (%s); the next change does it", self.root / HISTORY, error)

    def _link(self, name: str) -> None:
        aside = name_aside(self.root / CURRENT)
        os.symlink(f"{ARTIFACTS}/{name}", aside)
        try:
            os.replace(aside, self.root / CURRENT)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the store for a short change; leftovers of writers that died are swept first."""
        self.prepare()
        busy = f"another process is changing {self.root}; try again"
        with locked(self.root / ".lock", LOCK_TIMEOUT_S, busy), writable(self.root):
            for directory in (self.root, self.root / ARTIFACTS, *(self.root / ARTIFACTS).glob("[0-9]*-*")):
                sweep_asides(directory)
            yield


def _number(name: str) -> int:
    return int(name.partition("-")[0])


def _identity(name: str | None) -> str:
    return name.partition("-")[2] if name else ""


def _bytes_of(path: Path) -> int:
    try:
        return tree_bytes(path)
    except OSError:  # deleted while counting
        return 0
