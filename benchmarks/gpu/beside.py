"""Driving beside a recalibration on one GPU: p99 of camera to action with each means of giving way on and off, and alone.

A driver answers images at a fixed rate here, marked as the node marks them; a job in another process (beside_job.py) prunes blocks of
a 7B all the while. The means are switched while both run, in turns, so that heat and clocks are shared. Driving alone: the job stands
still. Speed of the job: operations a second, beside one that nobody drives beside.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Step, settled, step_arguments
from shapes import make, make_engine

from owled_ros import devices
from owled_ros.devices import driving_stream
from owled_ros.driving import asking
from owled_ros.driving_mark import DrivingMark, file_of

BAR = 1.15  # of the p99 alone
RATE_HZ = 8.0
FRAMES, ROUNDS = 26, 2  # of a condition in a round
SETTLE_S = 0.3  # behind a switch
TOKENS = 4  # of an answer: frame and answer take about half of the time between two frames
JOB = Path(__file__).with_name("beside_job.py")


@dataclass
class Condition:
    """Which means are on."""

    name: str
    priority: bool = False
    pauses: bool = False
    bounded: bool = False
    held: bool = False
    latencies_ms: list[float] = field(default_factory=list)
    operations: int = 0
    seconds: float = 0.0

    def p99(self) -> float:
        """Return the 99th percentile [ms]."""
        return float(np.percentile(self.latencies_ms, 99))


ALONE, EVERYTHING = "driving alone", "all means"


def conditions() -> list[Condition]:
    """List them."""
    return [
        Condition(ALONE, priority=True, held=True),
        Condition("no means"),
        Condition("stream priority only", priority=True),
        Condition("small pieces only", bounded=True),
        Condition("pauses only", pauses=True),
        Condition(EVERYTHING, priority=True, pauses=True, bounded=True),
    ]


class Job:
    """The other process: told its manners, asked for what it has done."""

    def __init__(self, step: Step, mark: Path) -> None:
        size = "tiny" if step.tiny else "whole"
        self._process = subprocess.Popen(
            [sys.executable, str(JOB), str(mark), step.device, size],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def tell(self, pauses: bool = False, bounded: bool = False, held: bool = False) -> int:
        """Switch its means; returns the operations that it has done by now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"pauses": pauses, "bounded": bounded, "held": held}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the job ended ({self._process.wait()}); its words stand above")
        return int(line)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


class Driver:
    """The node's engine with and without priority, over one model."""

    def __init__(self, step: Step, mark: DrivingMark) -> None:
        dtype = torch.float32 if step.tiny else torch.bfloat16
        model, processor = make("qwen_3b", step.device, dtype, step.tiny)
        self.device, self.mark = step.device, mark
        self._engines: dict[bool, Any] = {}
        self._usual = devices.DRIVING_PRIORITY
        for priority in (False, True):
            devices.DRIVING_PRIORITY = self._usual if priority else 0  # what a graph is captured with
            engine = make_engine(model, processor, step.device, dtype, "fixed", TOKENS)
            image = np.random.default_rng(0).integers(0, 255, (336, 336, 3), np.uint8)
            self.frame = asking.made_up_frame(engine.profile, [image])
            self._engines[priority] = engine
            for _ in range(1 if step.tiny else 5):
                self.answer(priority)

    def answer(self, priority: bool) -> float:
        """Drive one frame as the inference thread does; returns its latency [ms]."""
        engine = self._engines[priority]
        devices.DRIVING_PRIORITY = self._usual if priority else 0
        begun = time.perf_counter()
        with driving_stream(self.device), self.mark:
            engine.act(engine.see(self.frame))
        return (time.perf_counter() - begun) * 1e3


def measure(driver: Driver, job: Job, condition: Condition, frames: int) -> None:
    """Drive some frames under a condition."""
    means = {"pauses": condition.pauses, "bounded": condition.bounded, "held": condition.held}
    job.tell(**means)
    time.sleep(SETTLE_S)
    before, begun = job.tell(**means), time.monotonic()
    due = begun
    for _ in range(frames):
        time.sleep(max(due - time.monotonic(), 0.0))
        condition.latencies_ms.append(driver.answer(condition.priority))
        due = max(due + 1.0 / RATE_HZ, time.monotonic())
    condition.operations += job.tell(**means) - before
    condition.seconds += time.monotonic() - begun


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    mark = file_of(step.device) or step.rows.file.with_suffix(".mark")
    job = Job(step, mark)
    try:
        driver = Driver(step, DrivingMark(mark))
        job.tell()  # it works by now
        found, frames = conditions(), 2 if step.tiny else FRAMES
        nobody, begun = job.tell(), time.monotonic()
        time.sleep(0.2 if step.tiny else 3.0)
        alone_rate = (job.tell() - nobody) / (time.monotonic() - begun)
        for turn, condition in itertools.product(range(1 if step.tiny else ROUNDS), found):
            measure(driver, job, condition, frames)
            if turn == 0:
                print(f"{condition.name}: {condition.latencies_ms}", flush=True)
    finally:
        job.end()
    settled(step.device)
    alone = next(condition for condition in found if condition.name == ALONE)
    for condition in found:
        speed = condition.operations / condition.seconds / max(alone_rate, 1e-9)
        count, p50 = len(condition.latencies_ms), float(np.median(condition.latencies_ms))
        step.rows.add(
            f"{condition.name}, p99 of camera to action", "ms", condition.p99(), peer=alone.p99(), peer_name="alone",
            note=f"p50 {p50:.1f} ms, {count} frames at {RATE_HZ:g} Hz; job at {speed:.0%} of its speed",
        )  # fmt: skip
    everything = next(condition for condition in found if condition.name == EVERYTHING)
    step.rows.add(
        "p99 beside a recalibration, times alone", "", everything.p99() / alone.p99(), bar=None if step.tiny else BAR,
        note="all means; two processes, one GPU",
    )  # fmt: skip


if __name__ == "__main__":
    main()
