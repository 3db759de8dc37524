"""Frames per second of a whole evaluation against the engine alone, and of several processes against one.

    ./owled python benchmarks/evaluation_throughput.py BAG [BAG…] [--model mini] [--frames 60] [--rounds 3] [--processes 2]

Engine alone: pictures already decoded in memory, `see`, `act` and `describe` for each. Whole: from the bag to the finished part,
with truth, fingerprints and the file. Both alternate in one process with one loaded engine; medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import cv2

from owled_ros.bags.frames import read_frames
from owled_ros.driving.engine import Engine, predict
from owled_ros.driving.frame import Frame
from owled_ros.evaluation.part import PartOptions, evaluate_part
from owled_ros.evaluation.run import EngineSpec, plan_jobs, run_jobs
from owled_ros.models.driving_model import resolve_model


def seconds_alone(engine: Engine, frames: list[Frame]) -> float:
    """Answer pictures in memory; returns seconds per frame."""
    started = time.perf_counter()
    for frame in frames:
        predict(engine, frame)
    return (time.perf_counter() - started) / len(frames)


def seconds_whole(engine: Engine, bag: Path, folder: Path) -> float:
    """Evaluate one bag into a fresh part; returns seconds per frame."""
    options = PartOptions(camera_test_frames=0)
    started = time.perf_counter()
    count = sum(1 for _ in evaluate_part(engine, bag, bag.name, folder / f"{time.monotonic_ns()}.jsonl", options))
    return (time.perf_counter() - started) / count


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bags", nargs="+", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    spec = EngineSpec(str(resolve_model(options.model)), "model")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = spec.load()
        frames = list(itertools.islice(read_frames(options.bags[0]), options.frames))
        seconds_alone(engine, frames[:5])
        alone, whole = [], []
        for _ in range(options.rounds):
            alone.append(seconds_alone(engine, frames))
            whole.append(seconds_whole(engine, options.bags[0], folder))
        engine.close()
        a, w = statistics.median(alone), statistics.median(whole)
        print(f"engine alone {1 / a:.1f} frames/s, whole evaluation {1 / w:.1f} frames/s, ratio {a / w:.2f}")
        if len(options.bags) > 1:
            times = {}
            for processes in (1, options.processes):
                jobs = plan_jobs(options.bags, [spec], PartOptions(camera_test_frames=0), folder / str(processes))
                started = time.perf_counter()
                failures = run_jobs([job for group in jobs.values() for job in group], processes)
                times[processes] = time.perf_counter() - started
                if failures:
                    raise SystemExit(str(failures))
            speed_up = times[1] / times[options.processes]
            print(f"{len(options.bags)} bags: 1 process {times[1]:.1f} s, {options.processes} processes "
                  f"{times[options.processes]:.1f} s (starting them included), {speed_up:.2f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()
