"""Damage to a store under running nodes. Each maker damages it and returns what mends it again. Needs the store's layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hostile_words import JSON, LONG

from owled_ros.deployment.store import ARTIFACTS, CURRENT, HISTORY
from owled_ros.models.manifest import MANIFEST_NAME

Mend = Callable[[], object]
VERSION = "000999-abcdef123456"


def history(data: bytes) -> Callable[[Path], Mend]:
    """Write something into the history."""

    def damage(root: Path) -> Mend:
        path = root / HISTORY
        kept = path.read_bytes() if path.is_file() else None
        path.write_bytes(data)
        return lambda: path.unlink(missing_ok=True) if kept is None else path.write_bytes(kept)

    return damage


def current(lead: Callable[[Path], object]) -> Callable[[Path], Mend]:
    """Put something in the place of `current`."""

    def damage(root: Path) -> Mend:
        path = root / CURRENT
        kept = os.readlink(path) if path.is_symlink() else None
        path.unlink(missing_ok=True)
        lead(path)

        def mend() -> None:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            if kept is not None:
                path.symlink_to(kept)

        return mend

    return damage


def version(fill: Callable[[Path], object], name: str = VERSION) -> Callable[[Path], Mend]:
    """Lay a version into the store that is none."""

    def damage(root: Path) -> Mend:
        place = root / ARTIFACTS / name
        place.mkdir(parents=True)
        fill(place)
        return lambda: shutil.rmtree(place)

    return damage


def swapped(name: str, make: Callable[[Path], object]) -> Callable[[Path], Mend]:
    """Put something else in the place of a part of the store."""

    def damage(root: Path) -> Mend:
        path, aside = root / name, root / f"kept-{name}"
        there = path.exists()
        if there:
            path.rename(aside)
        make(path)

        def mend() -> None:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            if there:
                aside.rename(path)

        return mend

    return damage


def _manifest(data: bytes) -> Callable[[Path], object]:
    return lambda place: (place / MANIFEST_NAME).write_bytes(data)


def _many(root: Path) -> Mend:
    places = [root / ARTIFACTS / f"{number:06}-{number:012x}" for number in range(700, 1200)]
    for place in places:
        place.mkdir()
    return lambda: [place.rmdir() for place in places]


DAMAGES: dict[str, Callable[[Path], Mend]] = {
    **{f"history, {name}": history(data) for name, data in JSON.items()},
    "history of a million": history(json.dumps({"format_version": 1, "promoted": ["x"] * LONG}).encode()),
    "history of odd things": history(b'{"format_version": 1, "promoted": [NaN, {}, [], null, "../../etc", 7]}'),
    "history is a folder": swapped(HISTORY, Path.mkdir),
    "history is a pipe": swapped(HISTORY, os.mkfifo),
    **{f"manifest, {name}": version(_manifest(data)) for name, data in JSON.items()},
    "manifest is a folder": version(lambda place: (place / MANIFEST_NAME).mkdir()),
    "manifest is a pipe": version(lambda place: os.mkfifo(place / MANIFEST_NAME)),
    "manifest leads to a device": version(lambda place: (place / MANIFEST_NAME).symlink_to("/dev/zero")),
    "a version of a large number": version(lambda place: None, "9" * 200 + "-abcdef123456"),
    "five hundred versions of nothing": _many,
    "current leads nowhere": current(lambda path: path.symlink_to("artifacts/000777-abcdef123456")),
    "current leads to itself": current(lambda path: path.symlink_to(CURRENT)),
    "current leads outside": current(lambda path: path.symlink_to("/etc")),
    "current is a folder": current(Path.mkdir),
    "current is a file": current(lambda path: path.write_text("000001-abcdef123456")),
    "artifacts is a file": swapped(ARTIFACTS, lambda path: path.write_text("")),
    "artifacts leads to itself": swapped(ARTIFACTS, lambda path: path.symlink_to(ARTIFACTS)),
    "work is a file": swapped("work", lambda path: path.write_text("")),
}
