"""Finished rows of a long benchmark, one JSON object per line with a `key`: a killed run resumes where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by key; none when the file is not there yet. A last line that is half there is cut off."""
    if not path.exists():
        return {}
    whole = path.read_bytes().rpartition(b"\n")[0]
    rows = {row["key"]: row for row in map(json.loads, whole.splitlines())}
    os.truncate(path, len(whole) + bool(whole))
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a finished row, on the disk too."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
