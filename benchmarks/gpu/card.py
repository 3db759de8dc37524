"""The machine: versions, card, memory, the bandwidth that every limit is taken from, and what is missing here."""

from __future__ import annotations

import importlib.util
import os
import platform

import torch
import transformers
from rows import seconds, step_arguments

NEEDED = ("numpy", "safetensors", "tokenizers", "psutil", "cv2", "PIL", "jinja2", "rich", "typer")
OLDEST = (5, 17)  # of transformers: what is asked of its caches and hooks is there
GIB = 2**30


def bandwidth(device: str, size: int) -> float:
    """Return how fast a device reads its memory [bytes/s]: half of a copy is reading."""
    data = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(data)
    return 2 * size / seconds(lambda: target.copy_(data), device)


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < OLDEST:
        missing.append(f"transformers {'.'.join(map(str, OLDEST))} or later")
    name = torch.cuda.get_device_name(0) if step.device.startswith("cuda") else platform.processor() or "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    note = f"{name}; {versions}" + (f"; MISSING: {', '.join(missing)}" if missing else "")
    step.rows.add("CPU cores", "", len(os.sched_getaffinity(0)), note=note)
    if step.device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info()
        step.rows.add("GPU memory", "GiB", total / GIB, note=f"{free / GIB:.1f} free")
    size = 2**22 if step.tiny else 2**31
    step.rows.add(
        "memory bandwidth, by copying", "GB/s", bandwidth(step.device, size) / 1e9, note=f"{size / GIB:.3g} GiB"
    )


if __name__ == "__main__":
    main()
