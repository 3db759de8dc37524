"""What recalibration costs driving, and what driving costs recalibration: every means of courtesy on and off.

A driver answers pictures of 1280x720 at a fixed rate in this process; beside it runs the real job on a bag that is made
first. Conditions take turns, `--rounds` times. Speed of the job: pictures that the dense model answers per second, in the
first stage, which is even. Prints p50 and p99 of the driver, their ratio to driving alone, and the job's speed as a share of
its speed while nobody drives.

    python benchmarks/recalibration_latency.py --rounds 3 --seconds 20
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from owled_ros.bags.write import BagWriter
from owled_ros.driving.frame import EgoState, Frame
from owled_ros.models.driving_model import load_engine, resolve_model
from owled_ros.recalibration.courtesy import Courtesy, Pacer
from owled_ros.recalibration.gate_rules import packaged_rules
from owled_ros.recalibration.job import JobCancelledError, JobProgress, Plan, run_job
from owled_ros.recalibration.request import Request
from owled_ros.recalibration.store import Store
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.sample import sample_snapshot

START = 1_700_000_000_000_000_000
PICTURES = 400  # of each of two drives
SEEDS = 900_000
NO_JOB = "driving alone"
NO_DRIVER = "recalibration alone"


@dataclass(frozen=True)
class Condition:
    """Which means are on."""

    name: str
    courtesy: Courtesy | None
    pausing: bool = False
    driving: bool = True


@dataclass
class Measured:
    """Of one condition, over all rounds."""

    latencies_ms: list[float] = field(default_factory=list)
    answered: int = 0
    seconds: float = 0.0
    stops: int = 0


def conditions() -> list[Condition]:
    """List them; the unprotected job takes all cores, as torch does by itself."""
    cores = sorted(os.sched_getaffinity(0))
    everything = Courtesy(idle=False, threads=len(cores))
    polite = Courtesy(idle=True, threads=1, cores=tuple(cores[-max(len(cores) // 2, 1) :]))
    return [
        Condition(NO_JOB, None),
        Condition(NO_DRIVER, polite, driving=False),
        Condition("no protection", everything),
        Condition("one thread", Courtesy(idle=False, threads=1)),
        Condition("one thread, half of the cores", Courtesy(idle=False, threads=1, cores=polite.cores)),
        Condition("one thread, idle scheduling", Courtesy(idle=True, threads=1)),
        Condition("one thread, idle, half of the cores", polite),
        Condition("all, with pauses", polite, pausing=True),
    ]


def make_bag(path: Path) -> Path:
    """Record two drives of rendered pictures."""
    camera = Camera().resized(640, 360)
    pictures = [sample_snapshot(SEEDS + number, camera).image for number in range(8)]
    with BagWriter(path) as bag:
        for drive in range(2):
            for number in range(PICTURES):
                stamp = START + drive * 10**12 + number * 10**8
                bag.odometry(stamp, EgoState(stamp, 5.0 + number % 7, 0.0))
                bag.image(stamp, pictures[number % len(pictures)], encoding="jpeg")
    return path


@contextlib.contextmanager
def running_job(
    condition: Condition, root: Path, bag: Path, model: Path, pacer: Pacer | None, start_s: float
) -> Iterator[list[JobProgress]]:
    """Run a job beside; yields what it says as soon as its even stage has begun, or after `start_s`: it stands still."""
    said: list[JobProgress] = []
    stop = threading.Event()
    assert condition.courtesy is not None
    request = Request(
        (bag,),
        model,
        Path(),
        packaged_rules(),
        calibration_frames=PICTURES,
        gate_frames=2,
        threads=condition.courtesy.threads,
    )

    def work() -> None:
        with contextlib.suppress(JobCancelledError):
            run_job(request, Store(root / "store"), Plan(courtesy=condition.courtesy), said.append, stop.is_set, pacer)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        end = time.monotonic() + start_s
        while thread.is_alive() and not any(item.stage == "calibrating" for item in said) and time.monotonic() < end:
            time.sleep(0.05)
        yield said
    finally:
        stop.set()
        thread.join()


def drive(engine: object, frame: Frame, seconds: float, rate_hz: float, pacer: Pacer | None) -> list[float]:
    """Answer pictures at a rate; returns the latencies [ms]."""
    latencies = []
    due = time.monotonic()
    end = due + seconds
    while due < end:
        time.sleep(max(due - time.monotonic(), 0.0))
        begun = time.monotonic()
        engine.act(engine.see(frame))  # type: ignore[attr-defined]
        latencies.append((time.monotonic() - begun) * 1e3)
        if pacer is not None:
            pacer.sample(latencies[-1])
        due = max(due + 1.0 / rate_hz, time.monotonic())
    return latencies


def measure(arguments: argparse.Namespace, root: Path) -> dict[str, Measured]:
    """Take turns."""
    model = resolve_model(arguments.model)
    engine = load_engine(model, threads=arguments.driver_threads)
    image = sample_snapshot(SEEDS, Camera().resized(1280, 720)).image
    frame = Frame(image, START, EgoState(START, 8.0))
    bag = make_bag(root / "bag")
    drive(engine, frame, 2.0, arguments.rate_hz, None)
    found = {condition.name: Measured() for condition in conditions()}
    pacer = Pacer()
    for latency in drive(engine, frame, arguments.seconds, arguments.rate_hz, None):
        pacer.sample(latency)
    for turn in range(arguments.rounds):
        for condition in conditions()[turn % 2 :] + conditions()[: turn % 2]:
            measured = found[condition.name]
            if condition.courtesy is None:
                alone = drive(engine, frame, arguments.seconds, arguments.rate_hz, None)
                measured.latencies_ms += alone
                for latency in alone:
                    pacer.sample(latency)
                continue
            used = pacer if condition.pausing else None
            with running_job(condition, root, bag, model, used, arguments.start_s) as said:
                before, begun = len(answered(said)), time.monotonic()
                if condition.driving:
                    measured.latencies_ms += drive(engine, frame, arguments.seconds, arguments.rate_hz, used)
                else:
                    time.sleep(arguments.seconds)
                measured.answered += len(answered(said)) - before
                measured.seconds += time.monotonic() - begun
            measured.stops += pacer.stops if condition.pausing else 0
            print(f"turn {turn + 1}: {condition.name}: {measured.answered} pictures", file=sys.stderr, flush=True)
    return found


def answered(said: list[JobProgress]) -> list[JobProgress]:
    """Return the steps of the even stage."""
    return [item for item in said if item.stage == "calibrating" and not item.paused]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="per condition and round")
    parser.add_argument("--rate-hz", type=float, default=10.0)
    parser.add_argument("--start-s", type=float, default=120.0, help="a job that has not begun by then stands still")
    parser.add_argument("--driver-threads", type=int, default=1)
    parser.add_argument("--model", default="", help="directory; empty: the bundled model")
    parser.add_argument("--json", default="", help="write the numbers to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = measure(arguments, Path(root))
    alone = np.percentile(found[NO_JOB].latencies_ms, [50, 99])
    undisturbed = found[NO_DRIVER].answered / max(found[NO_DRIVER].seconds, 1e-9)
    rows = []
    print(f"{'condition':40} {'p50 ms':>8} {'p99 ms':>8} {'p50 x':>6} {'p99 x':>6} {'job speed':>10} {'stops':>6}")
    for name, measured in found.items():
        p50, p99 = np.percentile(measured.latencies_ms, [50, 99]) if measured.latencies_ms else (np.nan, np.nan)
        speed = measured.answered / measured.seconds / undisturbed if measured.seconds and undisturbed else np.nan
        rows.append({"condition": name, "p50_ms": p50, "p99_ms": p99, "p99_ratio": p99 / alone[1], "job_speed": speed})
        print(
            f"{name:40} {p50:8.1f} {p99:8.1f} {p50 / alone[0]:6.2f} {p99 / alone[1]:6.2f} {speed:10.2f} {measured.stops:6d}"
        )
    if arguments.json:
        plain = [
            {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()}
            for row in rows
        ]
        Path(arguments.json).write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
