"""One product of one vector with every packed format, larger than the processor's cache: bytes a weight and processor time of one thread.

Matrices of 5632 x 2048 (the MLP of a 1.1B model) with random weights, eight of each format one after the other. The time is the
thread's own processor time, formats in turn; beside other work it still counts their share of cache and memory.

    python benchmarks/sparse_formats.py --work DIR --kernel avx2 --rounds 40
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from owled_ros.sparse.format import Role, Writer
from owled_ros.sparse.native import NativeModel
from owled_ros.sparse.quantise import pack_matrix

ROWS, COLUMNS, COPIES = 5632, 2048, 8
# share of zeros at any places, or N:M, N zeros of every M; precision, columns of a scale
FORMS: dict[str, tuple[float | str, str, int]] = {
    "int8, 128": (0.0, "int8", 128),
    "int8, 128, 60 % zeros": (0.6, "int8", 128),
    "int8, 32": (0.0, "int8", 32),
    "int4, 32": (0.0, "int4", 32),
    "int4, 128": (0.0, "int4", 128),
    "int4, 32, 50 % zeros": (0.5, "int4", 32),
    "int4, 32, 60 % zeros": (0.6, "int4", 32),
    "int4, 64, 60 % zeros": (0.6, "int4", 64),
    "int4, 32, 70 % zeros": (0.7, "int4", 32),
    "int4, 32, two of four": ("2:4", "int4", 32),
    "int4, 128, two of four": ("2:4", "int4", 128),
    "int4, 32, eight of sixteen": ("8:16", "int4", 32),
    "int4, 128, eight of sixteen": ("8:16", "int4", 128),
    "int4, 32, six of sixteen": ("10:16", "int4", 32),
}


def main() -> None:
    """Pack what is not there yet, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="for the packed matrices, 450 MB")
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    files = {form: _packed(arguments.work, form) for form in FORMS}
    models = {form: NativeModel(file, 1, arguments.kernel, verify=False) for form, file in files.items()}
    x = np.random.default_rng(1).standard_normal((1, COLUMNS), dtype=np.float32)
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(arguments.rounds + 1):
        for form, model in models.items():
            start = time.thread_time()
            for index in range(COPIES):
                model.multiply(index, x, ROWS)
            times[form].append((time.thread_time() - start) / COPIES * 1e3)
    print(f"{arguments.kernel}, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| format | bytes a weight | ms, least | ms, median | x int8, 128 (least) |\n|---|---|---|---|---|")
    least = {form: min(found[1:]) for form, found in times.items()}
    for form, found in times.items():
        size = files[form].stat().st_size / (COPIES * ROWS * COLUMNS)
        ratio = least["int8, 128"] / least[form]
        print(f"| {form} | {size:.3f} | {least[form]:.2f} | {np.median(found[1:]):.2f} | {ratio:.2f} |")


def _packed(work: Path, form: str) -> Path:
    place = work / f"{form.replace(', ', '_').replace(' ', '-').replace('-%', '')}.owled"
    if place.exists():
        return place
    zeros, precision, group = FORMS[form]
    packed = pack_matrix("", Role.OTHER, -1, _weights(zeros), None, precision, None, group)
    aside = place.with_suffix(".aside")
    with open(aside, "w+b") as stream:
        writer = Writer(stream)
        for index in range(COPIES):
            writer.add(replace(packed, name=f"m{index}"))
        writer.finish(None, {})
    return aside.rename(place)


def _weights(zeros: float | str) -> np.ndarray:
    weight = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    size = np.abs(weight)
    if isinstance(zeros, str):
        count, group = map(int, zeros.split(":"))
        groups = size.reshape(-1, group)
        weight.reshape(-1, group)[groups <= np.partition(groups, count - 1, axis=1)[:, count - 1 : count]] = 0
    elif zeros:
        weight[size <= np.quantile(size, zeros)] = 0
    return weight


if __name__ == "__main__":
    main()
