"""Facts of this machine that decide how fast owled_ros runs: CPU features, cores, memory, disk, GPU, compiler.

Needs the standard library only; Linux. The functions named check_* give one line each to `owled doctor`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from owled_ros.doctor.findings import Finding, Severity
from owled_ros.python_child import run_child

CPU_FEATURES = ("avx512_bf16", "avx512_vnni", "avx512_vbmi2", "avx512f", "avx_vnni", "avx2", "fma", "asimd")
SHOWN_AS = {"asimd": "neon"}
SMALL_MEMORY = 4 << 30  # [bytes], torch and a small model want about 2 GB
SMALL_DISK = 2 << 30  # [bytes]
TWO_CORES = 2


def cpu_features(cpuinfo: str) -> list[str]:
    """Return the vector features of a /proc/cpuinfo that owled_ros' kernels and torch make use of."""
    words = set(cpuinfo.split())
    return [SHOWN_AS.get(name, name) for name in CPU_FEATURES if name in words]


def check_cpu() -> Finding:
    """Vector features and cores that this process may use."""
    text = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    features = cpu_features(text)
    cores = len(os.sched_getaffinity(0))
    found = f"{model}, {cores} cores, {' '.join(features) or 'no vector features'}"
    if not {"avx2", "neon"} & set(features):
        return Finding(
            "cpu",
            Severity.WARN,
            found,
            "Without AVX2 or NEON the kernels are plain C++: expect one tenth of the speed.",
        )
    if cores < TWO_CORES:
        return Finding("cpu", Severity.WARN, found, "One core for images and inference: expect dropped frames.")
    return Finding("cpu", Severity.OK, found)


def check_kernel() -> Finding:
    """Which sparse kernel would run here."""
    name, problem = run_child(
        "from owled_ros.sparse.library import kernels; print(kernels()[0], 'of', ', '.join(kernels()))"
    )
    if problem:
        return Finding(
            "sparse kernel",
            Severity.WARN,
            f"none: {problem}",
            "Pruned models run through torch, slower. A C++ compiler and CMake are needed once.",
        )
    return Finding("sparse kernel", Severity.OK, name)


def check_gpu() -> Finding:
    """A CUDA device that torch can use."""
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    name, problem = run_child(code)
    if problem:
        return Finding("gpu", Severity.WARN, problem, "torch could not say; see its own line.")
    if name:
        return Finding("gpu", Severity.OK, name)
    if shutil.which("nvidia-smi"):
        return Finding(
            "gpu",
            Severity.WARN,
            "nvidia-smi is here, but torch sees no CUDA device",
            "Is it a CPU build of torch, or an old driver?",
        )
    return Finding("gpu", Severity.OK, "none; models run on the CPU")


def check_memory() -> Finding:
    """Memory that is free now."""
    facts = {line.split(":")[0]: int(line.split()[1]) << 10 for line in Path("/proc/meminfo").read_text().splitlines()}
    free, total = facts["MemAvailable"], facts["MemTotal"]
    found = f"{free / 2**30:.1f} of {total / 2**30:.1f} GB available"
    if free < SMALL_MEMORY:
        return Finding(
            "memory",
            Severity.WARN,
            found,
            "A swap of models needs room for two; recalibration is refused when it is short.",
        )
    return Finding("memory", Severity.OK, found)


def check_disk() -> Finding:
    """Room for bags, artifacts and reports where this runs."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 2**30:.1f} GB free at {Path.cwd()}"
    if free < SMALL_DISK:
        return Finding(
            "disk",
            Severity.WARN,
            found,
            "Artifacts are written beside the old ones before they replace them: free some space.",
        )
    return Finding("disk", Severity.OK, found)


def check_compiler() -> Finding:
    """What builds the messages and the kernels."""
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None or shutil.which("cmake") is None:
        missing = "no C++ compiler" if compiler is None else "no cmake"
        return Finding(
            "compiler",
            Severity.WARN,
            missing,
            "What is built keeps working; to build: sudo apt install build-essential cmake",
        )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return Finding("compiler", Severity.OK, (version.splitlines() or [compiler])[0])
