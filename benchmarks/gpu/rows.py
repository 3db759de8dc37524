"""What the steps of benchmarks/gpu.sh write: one row per number, kept at once, so that a step that is cut off loses nothing."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One number beside what it is held against; None where there is no such thing."""

    step: str
    what: str
    unit: str
    measured: float | None = None
    bar: float | None = None
    at_least: bool = False  # the bar is a least value, not a largest one
    peer: float | None = None
    peer_name: str = ""
    limit: float | None = None  # what the hardware allows
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the bar is met; None without a bar or a number."""
        if self.bar is None or self.measured is None:
            return None
        return self.measured >= self.bar if self.at_least else self.measured <= self.bar


class Rows:
    """Appends rows of one step to its file."""

    def __init__(self, file: Path, step: str) -> None:
        self.file, self._step = file, step

    def add(self, what: str, unit: str, measured: float | None = None, **more: object) -> None:
        """Keep a row; see `Row` for what more it may hold."""
        row = Row(self._step, what, unit, measured, **more)  # type: ignore[arg-type]
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")


def read_rows(file: Path) -> list[Row]:
    """Read the whole rows of a step; a last line that is half there is left out."""
    if not file.is_file():
        return []
    return [Row(**json.loads(line)) for line in file.read_text().rpartition("\n")[0].splitlines()]


@dataclass(frozen=True)
class Step:
    """What a step is told."""

    rows: Rows
    device: str
    tiny: bool
    words: tuple[str, ...]

    @property
    def repeats(self) -> tuple[int, int]:
        """How often a work is timed, and how often it is done before."""
        return (1, 1) if self.tiny else (10, 3)


def step_arguments() -> Step:
    """Read the command line of a step: FILE NAME DEVICE TINY [words]."""
    parser = argparse.ArgumentParser()
    for name in ("file", "name", "device", "tiny"):
        parser.add_argument(name)
    parser.add_argument("words", nargs="*")
    told = parser.parse_args()
    return Step(Rows(Path(told.file), told.name), told.device, told.tiny == "tiny", tuple(told.words))


def settled(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str, times: int = 10, warm: int = 3) -> float:
    """Return the median time of some work [s]."""
    found = []
    for number in range(warm + times):
        settled(device)
        start = time.perf_counter()
        work()
        settled(device)
        if number >= warm:
            found.append(time.perf_counter() - start)
    return sorted(found)[len(found) // 2]
