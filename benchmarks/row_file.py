"""Finished rows of a long benchmark, one JSON object per line with a `key`: a killed run goes on where it stood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by key; none when the file is not there yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a finished row."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
