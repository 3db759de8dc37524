"""Does driving_node grow? Images at 10 Hz for half an hour; private memory, latency and drops every ten seconds.

    ./owled python benchmarks/soak.py [--minutes 30] [--threads 1] [--out soak.jsonl]

Prints the growth of private memory [MB/min] in the second half (least squares); exit code 1 above --limit. Needs ROS 2 and psutil.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from node_latency import NODE_TOPIC, Camera, world_images

SAMPLE_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--model", default="")
    parser.add_argument("--domain", type=int, default=34)
    parser.add_argument("--limit", type=float, default=0.5, help="[MB/min]")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    from owled_ros.demo.processes import Child, node_environment, reaped

    environment = node_environment(chosen.domain)
    os.environ.update(environment)
    camera = Camera(chosen.width, chosen.height, world_images(chosen.width, chosen.height))
    log = Path(tempfile.mkdtemp(prefix="soak_")) / "driving_node.log"
    values = ["-p", f"threads:={chosen.threads}", *(["-p", f"model_path:={chosen.model}"] if chosen.model else [])]
    driver = Child(("-m", "owled_ros.nodes", "driving_node"), values, environment, log)
    with reaped(driver):
        camera.wait_for(NODE_TOPIC)
        rows = soak(camera, psutil.Process(driver.process.pid), chosen.minutes, chosen.rate, chosen.out)
    sys.exit(judge(rows, chosen.limit))


def soak(
    camera: Camera, process: psutil.Process, minutes: float, rate: float, out: Path | None
) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    sent: list[int] = []
    start, period = time.monotonic(), 1.0 / rate
    process.cpu_percent()
    for number in range(round(minutes * 60 * rate)):
        camera.send_ego()
        camera.listen(max(start + (number + 0.5) * period - time.monotonic(), 0.0))
        camera.send_ego()
        sent.append(camera.send(NODE_TOPIC))
        camera.listen(max(start + (number + 1) * period - time.monotonic(), 0.0))
        if (number + 1) % round(SAMPLE_S * rate) == 0:
            known = [value for stamp in sent if (value := camera.latency_ms(stamp)) is not None]
            row = {
                "minute": (time.monotonic() - start) / 60,
                **resident(process.pid),
                "threads": process.num_threads(),
                "files": process.num_fds(),
                "cpu_percent": process.cpu_percent(),
                "actions": len(known),
                "images": len(sent),
                "p50_ms": float(np.median(known)) if known else float("nan"),
            }
            rows.append(row)
            print("  ".join(f"{key} {value:.1f}" for key, value in row.items()), flush=True)
            if out is not None:
                with open(out, "a") as stream:
                    stream.write(json.dumps(row) + "\n")
            sent.clear()
            camera.came.clear()
    return rows


def resident(pid: int) -> dict[str, float]:
    """Return private and shared resident memory [MB]; the shared part is the publisher's DDS segment as far as it was read."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {
        name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "Rss" in name
    }
    return {"private_mb": values["RssAnon"] / 1e3, "shared_mb": values["RssShmem"] / 1e3}


def judge(rows: list[dict[str, float]], limit: float) -> int:
    half = rows[len(rows) // 2 :]
    if len(half) < 3:
        print("too short to judge growth")
        return 0
    minutes, memory = [row["minute"] for row in half], [row["private_mb"] for row in half]
    growth = float(np.polyfit(minutes, memory, 1)[0])
    print(f"growth in the second half {growth:+.3f} MB/min, {memory[0]:.1f} -> {memory[-1]:.1f} MB")
    return int(growth > limit)


if __name__ == "__main__":
    main()
