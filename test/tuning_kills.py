"""Kills a tuning with SIGKILL at named moments, one after the other, and lets the same command go on to its end.

tuning_kills.py HOME PLACE METHOD CHAIN…: HOME as in test_tuning_run. A CHAIN is a list of moments with commas between: how one reads
(`step 3`, `os.rename .out`), or its number behind the last step. One line of JSON per chain. Every run is a fork of this process,
which has imported everything and computed nothing; with several chains the runs to kill begin behind the last but one step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers.models.smolvlm.modeling_smolvlm  # noqa: F401  # once, for all forks
from test_tuning_run import FAST, request_of

from owled_ros.models import write
from owled_ros.models.processor import load_processor
from owled_ros.tuning import curves, measuring, training, tune
from owled_ros.tuning.settings import TuneRequest

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")  # told before they happen
CALLS = ((measuring.HeldOut, "measure"), (tune, "merged"), (write, "load_back"), (tune, "_finished"))


class Clock:
    """Counts moments, and kills at one."""

    def __init__(self, home: Path, fatal: str) -> None:
        self.home, self.fatal = str(home), fatal
        self.number, self.counting = 0, False

    def tick(self, what: str) -> None:
        self.number += self.counting
        if self.fatal == str(self.number) or (not self.fatal.isdecimal() and what.startswith(self.fatal)):
            print(what, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(self.home):
            return
        if event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            self.tick(f"{event} {Path(str(arguments[0])).name}")

    def wrap(self, owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.tick(f"before {name}")
            found = inner(*arguments, **options)
            self.tick(f"behind {name}")
            return found

        setattr(owner, name, counted)

    def report(self, done: int, total: int, detail: str) -> None:
        if detail.startswith("loss"):
            self.counting = done == total
            self.tick(f"step {done}")


def forked(work: Callable[[], None]) -> tuple[int, str]:
    """Run in a fork; returns how it ended (negative: the signal), and what it printed last."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(writer, 1)
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read().strip()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.splitlines()[-1] if said else ""


def tuned(request: TuneRequest, fatal: str) -> tuple[int, str]:
    """Tune in a fork that dies at a moment; an empty one is never."""

    def work() -> None:
        clock = Clock(request.out.parent, fatal or "never")
        sys.addaudithook(clock.audit)
        for owner, name in CALLS:
            clock.wrap(owner, name)
        tune.tune(request, clock.report)

    return forked(work)


def digest(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def killed(request: TuneRequest, chain: list[str], right: str) -> dict[str, Any]:
    """Kill at every moment of a chain, then go on to the end; tells what came of it."""
    deaths, halves = [], 0
    for fatal in chain:
        code, said = tuned(request, fatal)
        deaths.append([code, said])
        halves += request.out.exists() and digest(request.out) != right  # a model has its name when it is whole
    code, _ = tuned(request, "")
    return {
        "deaths": deaths, "halves": halves, "ended": code, "same": code == 0 and digest(request.out) == right,
        "left": sorted(path.name for path in request.out.parent.iterdir()),
        "states": len(list(request.run.glob("checkpoint-*"))),
        "measured": [entry["step"] for entry in curves.read_entries(request.run) if "in_form" in entry],
    }  # fmt: skip


def main(home: Path, place: Path, method: str, chains: list[str]) -> None:
    load_processor(home / "model")  # imports what it needs
    training.LOG_EVERY_S = 0.0
    tune.draw = lambda directory: directory / curves.DRAWING
    request = request_of(home, place / "straight" / "out", method=method, rank=2, save_every_s=0.0)
    straight = home / "straight"  # of test_tuning_run
    if method != "all" or not straight.exists():
        straight = request.out
        assert tuned(request, "")[0] == 0
    right = digest(straight)
    if len(chains) > 1:
        assert tuned(replace(request, out=place / "first" / "out"), f"step {FAST.steps}")[0] == -signal.SIGKILL
    for number, chain in enumerate(chains):
        there = place / str(number)
        if len(chains) > 1:
            shutil.copytree(place / "first", there)
        found = killed(replace(request, out=there / "out"), chain.split(","), right)
        print(json.dumps(found), flush=True)
        shutil.rmtree(there)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
