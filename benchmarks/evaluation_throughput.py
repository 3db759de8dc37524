"""Frames per second of a whole evaluation against the engine alone, and of several processes against one.

    ./owled python benchmarks/evaluation_throughput.py BAG [BAG…] [--model mini] [--frames 60] [--rounds 3] [--processes 2]

Engine alone: images already decoded in memory, `see`, `act` and `describe` for each. Whole: from the bag to the finished part,
with truth, fingerprints and the file. Both alternate in one process with one loaded engine; medians and their ratio are printed,
by the wall clock and by processor time (all threads), which a busy machine disturbs less. With several bags `owled evaluate` is
run on them as a command of its own, with one and with several processes, start and all.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from owled_ros.bags.frames import read_frames
from owled_ros.driving.engine import Engine, predict
from owled_ros.driving.frame import Frame
from owled_ros.evaluation.part import PartOptions, evaluate_part
from owled_ros.evaluation.result import without_timings
from owled_ros.evaluation.run import EngineSpec
from owled_ros.models.driving_model import resolve_model


def now() -> np.ndarray:
    """Return wall clock and processor time [s]."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds_alone(engine: Engine, frames: list[Frame]) -> np.ndarray:
    """Answer images in memory; returns seconds per frame, (2,) as `now`."""
    started = now()
    for frame in frames:
        predict(engine, frame)
    return (now() - started) / len(frames)


def seconds_whole(engine: Engine, bag: Path, folder: Path) -> np.ndarray:
    """Evaluate one bag into a fresh part; returns seconds per frame, (2,) as `now`."""
    options = PartOptions(camera_test_frames=0)
    started = now()
    count = sum(1 for _ in evaluate_part(engine, bag, bag.name, folder / f"{time.monotonic_ns()}.jsonl", options))
    return (now() - started) / count


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
        a, w = np.median(alone, axis=0), np.median(whole, axis=0)
        for clock, one, all_of_it in zip(("wall clock", "processor"), a, w, strict=True):
            print(f"{clock}: engine alone {1 / one:.1f} frames/s, whole evaluation {1 / all_of_it:.1f} frames/s, "
                  f"ratio {one / all_of_it:.2f}")  # fmt: skip
    if len(options.bags) > 1:
        compare_processes(options.bags, options.model, options.processes)


def compare_processes(bags: list[Path], model: str, processes: int) -> None:
    """Run `owled evaluate` as a user does, with one process and with several."""
    times = {}
    with tempfile.TemporaryDirectory() as name:
        for count in (1, processes):
            command = [sys.executable, "-m", "owled_ros", "evaluate", *map(str, bags), "-m", model, "--no-report",
                       "--camera-test", "0", "--processes", str(count), "--out", f"{name}/{count}"]  # fmt: skip
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            times[count] = time.perf_counter() - started
            if not (Path(name) / str(count)).is_dir():
                raise SystemExit(done.stderr)
        names = [path.relative_to(f"{name}/1") for path in Path(f"{name}/1").rglob("result.jsonl")]
        same = all(stripped(Path(name) / "1" / path) == stripped(Path(name) / str(processes) / path) for path in names)
    print(f"{len(bags)} bags, whole commands: 1 process {times[1]:.1f} s, {processes} processes {times[processes]:.1f} s, "
          f"{times[1] / times[processes]:.2f} times as fast, results {'the same' if same else 'DIFFER'}")  # fmt: skip


def stripped(path: Path) -> list[str]:
    """Return the lines of a result without timings."""
    return [without_timings(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
