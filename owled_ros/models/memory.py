"""How much memory this process may still take, containers included. Needs psutil."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Return what can be had before the system kills: free memory and swap, within the container's limit [bytes]."""
    free = int(psutil.virtual_memory().available) + int(psutil.swap_memory().free)
    limit = _container_bytes()
    return free if limit is None else min(free, limit)


def _container_bytes() -> int | None:
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        lines = (line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        cached = next((int(words[1]) for words in lines if words[0] == "inactive_file"), 0)
        return None if limit == "max" else max(int(limit) - used + cached, 0)
    except (OSError, ValueError, IndexError):  # no container, or one of the first kind
        return None
