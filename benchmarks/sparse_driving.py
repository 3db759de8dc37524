"""A driving model with its packed weights against the same model in torch: time, answers, driving metrics, memory, disk.

Needs an artifact or model directory with packed.owled (owled pack). All runtimes answer the same unseen rendered scenes in
turn, in one process; resident memory is read in a process of its own per runtime, once it has answered.

    python benchmarks/sparse_driving.py DIR --scenes 100 --threads 1 --describe
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.driving.frame import Frame
from owled_ros.driving.prediction import Prediction
from owled_ros.evaluation.metrics import summarise
from owled_ros.evaluation.record import Record, Timing, Truth, make_record, make_truth
from owled_ros.evaluation.rendered import evaluation_scenes
from owled_ros.models.driving_model import load_engine
from owled_ros.models.engine import VlmEngine
from owled_ros.models.weights import weight_files
from owled_ros.sparse.pack import PACKED_NAME

RUNTIMES = {"packed": ("sparse", "auto"), "torch bf16": ("torch", "bfloat16"), "torch fp32": ("torch", "float32")}
REFERENCE = "torch fp32"
WARM = 3  # scenes that count for no time
NANOSECONDS_APART = 10_000_000_000  # scenes are drives of their own for the bootstrap
METRICS = ("acceleration_mae_mps2", "steering_mae_rad", "manoeuvre_accuracy", "good_action_share", "E_car", "Acc_TL")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--describe", action="store_true", help="compare descriptions too")
    parser.add_argument("--metrics", action="store_true", help="also the driving metrics with their 95 %% intervals")
    parser.add_argument("--memory-of", choices=RUNTIMES, help="only print this runtime's resident memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(memory_after_answers(arguments, arguments.memory_of))
        return
    engines = {name: open_engine(arguments, name) for name in RUNTIMES}
    records: dict[str, list[Record]] = {name: [] for name in engines}
    for index, scene in enumerate(evaluation_scenes(arguments.scenes, arguments.first_seed)):
        truth = make_truth(Truth(), scene.action, scene.scene)
        for name, engine in engines.items():
            records[name].append(answer(engine, index, scene, truth, arguments.describe))
    report(arguments, engines, records)


def open_engine(arguments: argparse.Namespace, name: str) -> VlmEngine:
    """Load the model with one runtime."""
    runtime, dtype = RUNTIMES[name]
    return load_engine(arguments.model, runtime=runtime, dtype=dtype, threads=arguments.threads)


def answer(engine: VlmEngine, index: int, scene: Any, truth: Truth, describe: bool) -> Record:
    """Answer one scene; the time from image to action is in the record."""
    stamp = index * NANOSECONDS_APART
    start = time.perf_counter()
    prefix = engine.see(Frame(scene.image, stamp, scene.ego))
    action = engine.act(prefix)
    timing = Timing(act_s=time.perf_counter() - start, action_tokens=action.generation.tokens)
    said = engine.describe(prefix) if describe else None
    if said is not None:
        timing = replace(timing, scene_tokens=said.generation.tokens)
    prediction = Prediction(stamp, action, said, engine.identity)
    return make_record("scenes", index, index, scene.ego, prediction, truth, timing)


def report(arguments: argparse.Namespace, engines: dict[str, VlmEngine], records: dict[str, list[Record]]) -> None:
    """Print the tables."""
    print(f"{arguments.scenes} scenes, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}, "
          f"kernel {engines['packed'].facts['kernel']}\n")  # fmt: skip
    print("| | camera to action p50 ms | p95 | same action as fp32 | same description | process MB now / peak |")
    print("|---|---|---|---|---|---|")
    reference = records[REFERENCE]
    for name, rows in records.items():
        times = [row.timing.action_latency_s * 1e3 for row in rows[WARM:]]
        actions = np.mean([a.text == b.text for a, b in zip(rows, reference, strict=True)])
        scenes = np.mean([a.scene_text == b.scene_text for a, b in zip(rows, reference, strict=True)])
        print(f"| {name} | {statistics.median(times):.1f} | {np.percentile(times, 95):.1f} | {actions:.1%} | "
              f"{f'{scenes:.1%}' if arguments.describe else ''} | {ask_memory(arguments, name)} |")  # fmt: skip
    if arguments.metrics:
        print("\n| mean [95 % interval] | " + " | ".join(records) + " |\n|---" + "|---" * len(records) + "|")
        summaries = {name: summarise(rows) for name, rows in records.items()}
        for metric in METRICS:
            cells = []
            for summary in summaries.values():
                low, high = summary["intervals_95"][metric] or (float("nan"),) * 2
                cells.append(f"{summary['means'][metric]:.4f} [{low:.4f}, {high:.4f}]")
            print(f"| {metric} | " + " | ".join(cells) + " |")
    print("\n" + disk(arguments.model))


def ask_memory(arguments: argparse.Namespace, name: str) -> str:
    """Run this script once more for one runtime's memory [MB]: now and at its peak."""
    command = [sys.executable, __file__, str(arguments.model), "--memory-of", name, "--threads", str(arguments.threads)]
    usual = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=usual).stdout.splitlines()[-1]


def memory_after_answers(arguments: argparse.Namespace, name: str) -> str:
    """Answer a few scenes and read this process's memory, imports and all [MB]."""
    engine = open_engine(arguments, name)
    for index, scene in enumerate(evaluation_scenes(WARM)):
        answer(engine, index, scene, Truth(), describe=True)
    gc.collect()
    status = Path("/proc/self/status").read_text()
    now, peak = (float(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6 for field in ("VmRSS", "VmHWM"))
    return f"{now:.0f} / {peak:.0f}"


def disk(model: Path) -> str:
    """Say what the packed file weighs beside the weights in bf16."""
    from safetensors import safe_open

    entries = 0
    for file in weight_files(model):
        with safe_open(file, framework="pt") as reader:
            entries += sum(int(np.prod(reader.get_slice(name).get_shape())) for name in reader.keys())  # noqa: SIM118
    packed = (model / PACKED_NAME).stat().st_size
    return f"disk: packed {packed / 1e6:.2f} MB; all weights as dense bf16 {2 * entries / 1e6:.2f} MB"


if __name__ == "__main__":
    main()
