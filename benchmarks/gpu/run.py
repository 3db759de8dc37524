"""Run the steps of benchmarks/gpu.sh, each in a process of its own, and write gpu.json and gpu.md.

All of them together have a limit, and every step a share of it that nothing before can take away; what a step leaves goes to those
behind it. So the order is that of importance, and the last ones live on what is left over.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rows import Row, read_rows

HERE = Path(__file__).resolve().parent
LIMIT_S = 480.0
LEAST_S = 5.0  # a step is not begun with less
STEPS: dict[str, tuple[str, float, tuple[str, ...]]] = {  # name: file, share of LIMIT_S that it is sure of [s], words
    "machine": ("card.py", 25, ()),
    "decode_7b": ("decode.py", 60, ("llava_7b",)),
    "int8": ("int8.py", 60, ()),
    "correct": ("correct.py", 50, ()),
    "decode_3b": ("decode.py", 50, ("qwen_3b",)),
    "prune": ("prune.py", 60, ()),
    "beside": ("beside.py", 60, ()),
    "sparse": ("sparse.py", 55, ()),
    "memory": ("memory.py", 25, ()),
    "train": ("train.py", 35, ()),
    "peer_compile": ("peer_compile.py", 0, ("llava_7b",)),  # takes long; its number is known from elsewhere
}


def main() -> None:
    """Run and report; the exit code is 0 when every step ended well."""
    told = _arguments()
    out: Path = told.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    started, rows, ends = time.monotonic(), [], {}
    names = list(told.steps or STEPS)
    for place, name in enumerate(names):
        file = out / f"{name}.jsonl"
        file.unlink(missing_ok=True)
        cap = time_for(names[place + 1 :], told.limit, time.monotonic() - started)
        ends[name] = _run(name, file, told, cap, out)
        rows += read_rows(file)
        _write(out, rows, ends, time.monotonic() - started)
        print(f"{name}: {ends[name]}", flush=True)
    print((out / "gpu.md").read_text())
    sys.exit(0 if all(end.startswith(("ended", "not there")) for end in ends.values()) else 1)


def time_for(later: Sequence[str], limit: float, gone: float) -> float:
    """Return how long the next step may take [s]: all that is left but the shares of the steps behind it."""
    return limit - gone - sum(STEPS[name][1] for name in later) * limit / LIMIT_S


def _run(name: str, file: Path, told: argparse.Namespace, cap: float, out: Path) -> str:
    """Run one step; says how it ended."""
    script, _, words = STEPS[name]
    if not (HERE / script).is_file():
        return f"not there yet ({script})"
    if cap < LEAST_S:
        return "left out: no time left"
    command = [
        sys.executable,
        str(HERE / script),
        str(file),
        name,
        told.device,
        "tiny" if told.tiny else "whole",
        *words,
    ]
    started = time.monotonic()
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(cap)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"cut off after {cap:.0f} s"
    took = time.monotonic() - started
    if code == 0:
        return f"ended in {took:.0f} s"
    last = [line for line in (out / f"{name}.log").read_text(errors="replace").splitlines() if line.strip()][-1:]
    return f"failed ({code}): {''.join(last)[:300]}"


def _write(out: Path, rows: list[Row], ends: dict[str, str], took: float) -> None:
    found = {"seconds": round(took, 1), "steps": ends, "rows": [{**asdict(row), "passed": row.passed} for row in rows]}
    (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = ["| step | what | measured | bar | peer | limit | note |", "| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [_line(row) for row in rows]
    lines += ["", "| step | how it ended |", "| --- | --- |", *(f"| {name} | {end} |" for name, end in ends.items())]
    (out / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(row: Row) -> str:
    mark = {None: "", True: " met", False: " **missed**"}[row.passed]
    bar = "" if row.bar is None else f"{'at least' if row.at_least else 'at most'} {row.bar:g}{mark}"
    peer = "" if row.peer is None else f"{row.peer:.4g} ({row.peer_name})"
    limit = "" if row.limit is None else f"{row.limit:.4g}"
    measured = "" if row.measured is None else f"{row.measured:.4g} {row.unit}"
    return f"| {row.step} | {row.what} | {measured} | {bar} | {peer} | {limit} | {row.note.replace('|', '/')} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="directory for gpu.json, gpu.md and a log per step")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: tries the script, not the machine")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for all steps together")
    parser.add_argument("--steps", type=lambda text: text.split(","), help=f"of {', '.join(STEPS)}")
    told = parser.parse_args()
    unknown = set(told.steps or ()) - set(STEPS)
    if unknown:
        parser.error(f"no step {', '.join(sorted(unknown))}; known: {', '.join(STEPS)}")
    return told


if __name__ == "__main__":
    main()
