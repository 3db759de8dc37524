"""The number type to compute in, asked of the hardware; the type that weights are stored in is another matter. Needs torch.

On a CPU without bfloat16 instructions (most desktops: AVX2 only) torch multiplies in bfloat16 some ten to fifty times more
slowly than in float32. So everything that computes asks here first.
"""

from __future__ import annotations

import functools
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_INFO = Path("/proc/cpuinfo")
FASTEST, SMALLEST, EXACT = "fastest-int8", "smallest-int8", "sparse-bf16"
SPARSE_GOALS = (FASTEST, SMALLEST, EXACT)  # of a pruned model's matrices on CUDA (models.sparse_weights)
X86_FLAGS = {"avx512_bf16", "amx_bf16"}  # either multiplies bfloat16 in hardware
ARM_FLAG = "bf16"
logger = logging.getLogger(__name__)


def fast_dtype(device: str = "cpu") -> str:
    """Name the type in which a device multiplies fastest: bfloat16 where it has it, else float16 (CUDA) or float32 (CPU)."""
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.split(":")[0] == "cpu" and cpu_multiplies_bfloat16() else "float32"


def computing_dtype(wanted: str, device: str = "cpu") -> str:
    """Choose float32 or bfloat16 for work that needs bfloat16's range: "auto" is bfloat16 where the device has it."""
    if wanted == "auto":
        return "bfloat16" if fast_dtype(device) == "bfloat16" else "float32"
    if wanted == "bfloat16" and device.split(":")[0] == "cpu" and not cpu_multiplies_bfloat16():
        logger.warning(
            "this CPU has no bfloat16 instructions: computing in bfloat16 as asked is many times slower here"
        )
    return wanted


def autocast(wanted: str, device: str = "cpu", cached: bool = True) -> torch.autocast:
    """Return the context in which products run: float32, or bfloat16 with float32 sums (see `computing_dtype`).

    `cached` keeps cast weights while entered: right for training, wrong where weights change inside.
    """
    import torch

    enabled = computing_dtype(wanted, device) == "bfloat16"
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=enabled, cache_enabled=cached)


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Tell whether this CPU has instructions that multiply bfloat16."""
    import torch

    flags = _cpu_flags()
    if platform.machine().lower() in ("aarch64", "arm64"):
        return ARM_FLAG in flags and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(flags & X86_FLAGS)


def _cpu_flags() -> set[str]:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # not Linux: float32 is right everywhere
        return set()
    words = next((line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))), "")
    return set(words.split())
