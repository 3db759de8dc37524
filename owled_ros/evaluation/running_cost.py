"""What a model costs while it runs on the CPU: disk, resident memory, a token, camera to action; dense beside pruned beside packed.

Needs psutil; the models run in child processes (running_cost_child), so that the memory of one is not that of another.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.models.memory import available_bytes
from owled_ros.models.weights import find_weights
from owled_ros.sparse.pack import PACKED_NAME

DENSE, PRUNED, PACKED = "dense", "pruned", "packed"
ROUNDS = 5  # at most; the first one warms up
BUDGET_S = 60.0  # no further round is begun after this
LIMIT_S = 1800.0  # a child that takes longer is given up
PROCESS_BYTES = 600_000_000  # of Python, torch and transformers
WEIGHT_FACTOR = 3.0  # of the stored weights, while they are converted
CHILD = "owled_ros.evaluation.running_cost_child"


@dataclass(frozen=True)
class Way:
    """One way of running a model."""

    name: str
    path: Path
    runtime: str = "torch"  # or "sparse"
    problem: str = ""  # why it cannot be run; then it is only listed


@dataclass(frozen=True)
class RunningCost:
    """What one way costs; None where it was not measured, and `note` says why."""

    name: str
    disk_bytes: int | None = None  # of the weights that it runs on
    resident_bytes: int | None = None  # of the whole process
    library_bytes: int | None = None  # of these, before the model was loaded
    token_ms: float | None = None  # a further token of an answer, median
    action_ms: float | None = None  # from the image in memory to the decoded action, median; None also without a camera
    note: str = ""


@dataclass(frozen=True)
class CostTable:
    """The rows and how they were measured."""

    rows: tuple[RunningCost, ...]
    threads: int
    rounds: int
    interleaved: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return what a manifest holds."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


def table_of(content: Mapping[str, Any]) -> CostTable:
    """Read what a manifest holds; raises OwledError."""
    try:
        rows = tuple(RunningCost(**row) for row in content["rows"])
        return CostTable(rows, int(content["threads"]), int(content["rounds"]), bool(content["interleaved"]))
    except (LookupError, TypeError, ValueError) as error:
        raise OwledError(f"the cost section of the manifest cannot be read ({error}); prune again") from error


def ways_of(dense: Path, artifact: Path, packed_problem: str = "") -> list[Way]:
    """List the three ways of an artifact; `packed_problem` says why it was not packed."""
    if not (artifact / PACKED_NAME).is_file():
        packed_problem = packed_problem or f"`owled pack {artifact}` does it"
    problem = f"not packed: {packed_problem}" if packed_problem else ""
    return [Way(DENSE, dense), Way(PRUNED, artifact), Way(PACKED, artifact, "sparse", problem)]


def measure(ways: Sequence[Way], threads: int = 1, rounds: int = ROUNDS, budget_s: float = BUDGET_S) -> CostTable:
    """Run every way in a process of its own and return the medians of rounds that take turns.

    Where the memory does not hold all at once, they run one after the other; what does not fit alone is listed with that.
    """
    rows = {way.name: RunningCost(way.name, _disk_bytes(way), note=way.problem) for way in ways}
    runnable = [way for way in ways if not way.problem]
    needed = {way.name: _needed_bytes(way) for way in runnable}
    free = available_bytes()
    for way in runnable:
        if needed[way.name] > free:
            words = f"not run: it needs about {needed[way.name] / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            rows[way.name] = replace(rows[way.name], note=words)
    runnable = [way for way in runnable if not rows[way.name].note]
    together = sum(needed[way.name] for way in runnable) <= free
    done = 0
    for group in [runnable] if together else [[way] for way in runnable]:
        with contextlib.ExitStack() as stack:
            children = {way.name: stack.enter_context(_child(way, threads)) for way in group}
            measured, turns = _take_turns(children, rounds, budget_s)
        done = max(done, turns)
        for name, found in measured.items():
            rows[name] = replace(rows[name], **found)
    return CostTable(tuple(rows.values()), threads, done, together)


def _take_turns(children: Mapping[str, _Child], rounds: int, budget_s: float) -> tuple[dict[str, dict[str, Any]], int]:
    """Return what every child measured, and the number of rounds that count."""
    heard: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
    notes = {name: note for name, child in children.items() if (note := child.ready())}
    end = time.monotonic() + budget_s
    turns = 0
    while turns < rounds + 1 and (turns < 2 or time.monotonic() < end):
        for name, child in children.items():
            if name not in notes:
                answer = child.ask()
                if "problem" in answer:
                    notes[name] = f"not run: {answer['problem']}"
                heard[name].append(answer)
        turns += 1
    found: dict[str, dict[str, Any]] = {}
    for name in children:
        if name in notes:
            found[name] = {"note": notes[name]}
            continue
        counted = heard[name][1:]
        actions = [item["action_ms"] for item in counted if item["action_ms"] is not None]
        tokens = [item["token_ms"] for item in counted if item["token_ms"] is not None]
        found[name] = {
            **children[name].loaded,
            "resident_bytes": heard[name][-1]["resident_bytes"],
            "token_ms": round(statistics.median(tokens), 3) if tokens else None,
            "action_ms": round(statistics.median(actions), 2) if actions else None,
        }
    return found, turns - 1


class _Child:
    """A process that holds one model and measures a round when it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.loaded: dict[str, Any] = {}  # what it said when the model was loaded

    def ready(self) -> str:
        """Wait until the model is loaded; returns why it is not, empty when it is."""
        answer = self._read()
        if "problem" in answer:
            return f"not run: {answer['problem']}"
        self.loaded = answer
        return ""

    def ask(self) -> dict[str, Any]:
        """Measure one round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("round\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return dict(json.loads(line))
        except ValueError:
            code = self._process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return {"problem": f"its process ended ({how})"}


@contextlib.contextmanager
def _child(way: Way, threads: int) -> Iterator[_Child]:
    """Start a child; whatever happens, it is gone at the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
            text=True, start_new_session=True, env=environment,
        )  # fmt: skip
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.daemon = True
        limit.start()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"path": str(way.path), "runtime": way.runtime, "threads": threads}) + "\n")
            process.stdin.flush()
            yield _Child(process)
        finally:
            limit.cancel()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not written has nobody to read it
                    stream.close() if stream is not None else None


def _disk_bytes(way: Way) -> int | None:
    """Count the weights that a way runs on; of a packed model its process says it."""
    if way.runtime == "sparse":
        return None
    return _stored_bytes(way.path)


def _stored_bytes(path: Path) -> int:
    files = (path,) if path.is_file() else find_weights(path).files
    return sum(file.stat().st_size for file in files)


def _needed_bytes(way: Way) -> int:
    return PROCESS_BYTES + int(WEIGHT_FACTOR * _stored_bytes(way.path))
