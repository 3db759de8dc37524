"""A driving model with its packed weights against the same model in torch: time from picture to action, and same answers?

Needs an artifact or model directory with packed.owled (owled pack). Both runtimes answer the same unseen rendered scenes in
turn, in one process. With --dense-reference the packed answers are also compared with torch on float32.

    python benchmarks/sparse_driving.py DIR --scenes 100 --threads 1
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from owled_ros.driving.frame import Frame
from owled_ros.evaluation.rendered import evaluation_scenes
from owled_ros.models.driving_model import load_engine
from owled_ros.models.engine import VlmEngine


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--describe", action="store_true", help="compare descriptions too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load_engine(arguments.model, runtime="torch", threads=arguments.threads).close()  # imports count for nobody
    engines: dict[str, VlmEngine] = {}
    resident: dict[str, float] = {}
    for name, runtime, dtype in (
        ("sparse", "sparse", "auto"),
        ("torch bf16", "torch", "bfloat16"),
        ("torch fp32", "torch", "float32"),
    ):
        before = resident_bytes()
        engines[name] = load_engine(arguments.model, runtime=runtime, dtype=dtype, threads=arguments.threads)
        gc.collect()
        resident[name] = (resident_bytes() - before) / 1e6
    actions: dict[str, list[str]] = {name: [] for name in engines}
    scenes: dict[str, list[str]] = {name: [] for name in engines}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for index, scene in enumerate(evaluation_scenes(arguments.scenes, arguments.first_seed)):
        frame = Frame(scene.image, index, scene.ego)
        for name, engine in engines.items():
            start = time.perf_counter()
            prefix = engine.see(frame)
            actions[name].append(engine.act(prefix).generation.text)
            times[name].append((time.perf_counter() - start) * 1e3)
            if arguments.describe:
                answer = engine.describe(prefix)
                scenes[name].append("" if answer is None else answer.generation.text)
    print(f"{arguments.scenes} scenes, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}, "
          f"kernel {engines['sparse'].facts['kernel']}\n")  # fmt: skip
    print(
        "| | camera to action p50 ms | p95 | same action as fp32 | same description | resident MB |\n|---|---|---|---|---|---|"
    )
    for name in engines:
        times[name] = times[name][3:]  # the first ones warm up
        same = [np.mean([a == b for a, b in zip(answers[name], answers["torch fp32"], strict=True)] or [np.nan])
                for answers in (actions, scenes)]  # fmt: skip
        p50, p95 = statistics.median(times[name]), np.percentile(times[name], 95)
        print(f"| {name} | {p50:.1f} | {p95:.1f} | {same[0]:.1%} | {same[1]:.1%} | {resident[name]:.0f} |")


def resident_bytes() -> int:
    """Read this process's resident memory [bytes]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
