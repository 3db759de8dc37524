"""Is the set-up still that of the present files? Stamps hold a hash of what went in. Needs the standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

INSTALLING = "installing"  # state of a stamp while its step runs: an interrupted run is seen by the next
READY = "ready"


def read_stamp(path: Path) -> dict[str, str]:
    """Return a stamp; an unreadable or missing one is empty."""
    try:
        stamp = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(path: Path, state: str, key: str) -> None:
    """Write a stamp in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".aside")
    aside.write_text(json.dumps({"state": state, "key": key}) + "\n")
    aside.replace(path)


def is_ready(path: Path, key: str) -> bool:
    """Say whether a step was finished with this key."""
    return read_stamp(path) == {"state": READY, "key": key}


def hash_of(paths: Iterable[Path], *words: str) -> str:
    """Hash words and files; of a directory, every file in it; a missing path counts as missing."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"\0{path.name}/{file.relative_to(path)}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()
