"""What recalibration costs driving, and what driving costs recalibration: every means of courtesy on and off.

A driver answers images of 1280x720 at a fixed rate in this process; beside it runs the real job on a bag that is made
first. Conditions take turns, `--rounds` times. Speed of the job: images that the dense model answers per second, in the
first stage, which is even. Prints p50 and p99 of the driver, their ratio to driving alone, and the job's speed as a share of
its speed while nobody drives. With `--whole` every job runs from its start to its verdict, with the usual numbers of
images, and its speed is that of the whole job.

    python benchmarks/recalibration_latency.py --rounds 3 --seconds 20
    python benchmarks/recalibration_latency.py --rounds 3 --seconds 20 --whole
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from owled_ros.bags.write import BagWriter
from owled_ros.deployment.store import Store
from owled_ros.driving.frame import EgoState, Frame
from owled_ros.models.driving_model import load_engine, resolve_model
from owled_ros.recalibration.courtesy import Courtesy, Pacer
from owled_ros.recalibration.job import JobCancelledError, JobProgress, run_job
from owled_ros.recalibration.parameters import JobParameters
from owled_ros.recalibration.request import JobRequest
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.sample import sample_snapshot

START = 1_700_000_000_000_000_000
IMAGES = 400  # of each of two drives
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
    driver_cores: tuple[int, ...] = ()  # empty: all
    whole: bool = True  # worth a whole job


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
    half = tuple(cores[-max(len(cores) // 2, 1) :])
    polite = Courtesy(idle=True, threads=1)
    return [
        Condition(NO_JOB, None),
        Condition(NO_DRIVER, polite, driving=False),
        Condition("no protection", Courtesy(idle=False, threads=len(cores))),
        Condition("one thread", Courtesy(idle=False, threads=1), whole=False),
        Condition("one thread, half of the cores", Courtesy(idle=False, threads=1, cores=half), whole=False),
        Condition("one thread, idle scheduling", polite),
        Condition("one thread, idle, half of the cores", Courtesy(idle=True, threads=1, cores=half), whole=False),
        Condition(
            "one thread, idle, driver's core only", Courtesy(idle=True, threads=1, cores=(cores[0],)),
            driver_cores=(cores[0],), whole=False,
        ),
        Condition("one thread, idle, pauses (default)", polite, pausing=True),
    ]  # fmt: skip


def make_bag(path: Path) -> Path:
    """Record two drives of rendered images."""
    camera = Camera().resized(640, 360)
    images = [sample_snapshot(SEEDS + number, camera).image for number in range(8)]
    with BagWriter(path) as bag:
        for drive in range(2):
            for number in range(IMAGES):
                stamp = START + drive * 10**12 + number * 10**8
                bag.odometry(stamp, EgoState(stamp, 5.0 + number % 7, 0.0))
                bag.image(stamp, images[number % len(images)], encoding="jpeg")
    return path


@contextlib.contextmanager
def running_job(
    condition: Condition, root: Path, request: JobRequest, pacer: Pacer | None, start_s: float
) -> Iterator[tuple[list[JobProgress], threading.Thread]]:
    """Run a job beside; yields what it says, and its thread, when its even stage has begun, or after `start_s`."""
    said: list[JobProgress] = []
    stop = threading.Event()
    assert condition.courtesy is not None
    told = replace(request.parameters, threads=condition.courtesy.threads, promote=False)
    courtesy, asked = condition.courtesy, replace(request, parameters=told)

    def work() -> None:
        with contextlib.suppress(JobCancelledError), tempfile.TemporaryDirectory(dir=root) as store:
            run_job(asked, Store(Path(store)), said.append, stop.is_set, pacer, courtesy=courtesy)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        end = time.monotonic() + start_s
        while thread.is_alive() and not any(item.stage == "calibrating" for item in said) and time.monotonic() < end:
            time.sleep(0.05)
        yield said, thread
    finally:
        stop.set()
        thread.join()


def drive(
    engine: object,
    frame: Frame,
    going: Callable[[], bool],
    rate_hz: float,
    pacer: Pacer | None,
    cores: tuple[int, ...] = (),
) -> list[float]:
    """Answer images at a rate; returns the latencies [ms]."""
    latencies = []
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or allowed)
    due = time.monotonic()
    while going():
        time.sleep(max(due - time.monotonic(), 0.0))
        begun = time.monotonic()
        engine.act(engine.see(frame))  # type: ignore[attr-defined]
        latencies.append((time.monotonic() - begun) * 1e3)
        if pacer is not None:
            pacer.sample(latencies[-1])
        due = max(due + 1.0 / rate_hz, time.monotonic())
    os.sched_setaffinity(0, allowed)
    return latencies


def lasting(seconds: float) -> Callable[[], bool]:
    """Return what is true for so long."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def measure(arguments: argparse.Namespace, root: Path) -> dict[str, Measured]:
    """Take turns."""
    model = resolve_model(arguments.model)
    engine = load_engine(model, threads=arguments.driver_threads)
    image = sample_snapshot(SEEDS, Camera().resized(1280, 720)).image
    frame = Frame(image, START, EgoState(START, 8.0))
    told = JobParameters() if arguments.whole else JobParameters(calibration_frames=IMAGES, gate_frames=2)
    request = JobRequest((make_bag(root / "bag"),), model, told)
    drive(engine, frame, lasting(2.0), arguments.rate_hz, None)
    chosen = [condition for condition in conditions() if condition.whole or not arguments.whole]
    found = {condition.name: Measured() for condition in chosen}
    pacer = Pacer()
    for latency in drive(engine, frame, lasting(arguments.seconds), arguments.rate_hz, None):
        pacer.sample(latency)
    for turn in range(arguments.rounds):
        for condition in chosen[turn % 2 :] + chosen[: turn % 2]:
            measured = found[condition.name]
            if condition.courtesy is None:
                alone = drive(engine, frame, lasting(arguments.seconds), arguments.rate_hz, None)
                measured.latencies_ms += alone
                for latency in alone:
                    pacer.sample(latency)
                continue
            used = pacer if condition.pausing else None
            start_s = 0.0 if arguments.whole else arguments.start_s
            with running_job(condition, root, request, used, start_s) as (said, thread):
                before, begun = len(answered(said)), time.monotonic()
                going = thread.is_alive if arguments.whole else lasting(arguments.seconds)
                if condition.driving:
                    measured.latencies_ms += drive(
                        engine, frame, going, arguments.rate_hz, used, condition.driver_cores
                    )
                while going():
                    time.sleep(0.01)
                measured.answered += 1 if arguments.whole else len(answered(said)) - before
                measured.seconds += time.monotonic() - begun
            measured.stops += pacer.stops if condition.pausing else 0
            print(
                f"turn {turn + 1}: {condition.name}: {measured.answered} in {measured.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
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
    parser.add_argument("--whole", action="store_true", help="whole jobs instead of their even stage")
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
