"""How many processes run the tests. Needs the standard library only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

MOST = 4  # each holds torch and a tiny model or two, about 1.5 GB
OWN_WAY = (
    "--numprocesses",
    "--dist",
    "no:xdist",
    "--pdb",
    "--trace",
    "--collect-only",
    "--co",
    "-s",
    "--capture",
    "-h",
    "--help",
    "--version",
)


def parallel_options(words: Sequence[str]) -> list[str]:
    """Return pytest's options for running on all cores; none where files are named or the words say how to run.

    A named file or two are done sooner in one process than torch is imported in several.
    """
    if any(word.startswith("-n") or word.split("=")[0] in OWN_WAY for word in words):
        return []
    if any(Path(word.split("::")[0]).exists() for word in words if not word.startswith("-")):
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, MOST)
    return ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
