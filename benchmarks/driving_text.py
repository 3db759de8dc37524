"""Which lines of a file of driving text calibrate and which judge: its frames are consecutive, so there is a gap between them."""

from __future__ import annotations

from pathlib import Path


def parts_of(path: Path) -> tuple[range, range]:
    """Return the lines of the first quarter, which calibrate, and those of the last two thirds, which judge (200 and 530 of 790)."""
    with path.open("rb") as file:
        count = sum(1 for _ in file)
    return range(count * 20 // 79), range(count * 26 // 79, count)
