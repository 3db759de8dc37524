"""The sparse kernels' own source, compiled by a C++ compiler over emulated blocks of threads (cuda_block_on_cpu.h)."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from owled_ros.sparse import cuda_kernels
from owled_ros.sparse.cuda_kernels import Run

HEADER = Path(__file__).with_name("cuda_block_on_cpu.h")
HOW = ("-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas")
ARGUMENTS = {
    "tiles_product": "const byte*, const word*, const half_word*, const half_word*, half_word*, int, int, int, int, int",
    "tiles_widened": "const byte*, const word*, half_word*, int, int, int",
    "deltas_product": "const uint4*, const word*, const word*, const half_word*, const half_word*, half_word*, int, int, int",
    "deltas_widened": "const uint4*, const word*, const word*, half_word*, int, int",
}


@functools.cache
def emulated_run() -> Run:
    """Give what launches the kernels on the CPU; the test is skipped where there is no compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    files = [HEADER, cuda_kernels.PARTS, *sorted({cuda_kernels.HERE / file for file in cuda_kernels.KERNELS.values()})]
    text = "".join(f'#include "{file}"\n' for file in files)
    for name, kinds in ARGUMENTS.items():
        told = ", ".join(f"{kind} a{number}" for number, kind in enumerate(kinds.split(", ")))
        handed_on = ", ".join(f"a{number}" for number in range(kinds.count(",") + 1))
        text += f'extern "C" void run_{name}(int blocks, int threads, int shared, {told}) {{\n'
        text += f"  launch(blocks, threads, shared, [=] {{ {name}({handed_on}); }});\n}}\n"
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        source.write_text(text)
        subprocess.run([compiler, *HOW, str(source), "-o", str(built)], check=True)
        library = ctypes.CDLL(str(built))

    def run(name: str, blocks: int, threads: int, shared: int, arguments: list[Any]) -> None:
        assert all(a.is_contiguous() for a in arguments if isinstance(a, torch.Tensor))
        assert [kind.endswith("*") for kind in ARGUMENTS[name].split(", ")] == [
            isinstance(a, torch.Tensor) for a in arguments
        ]
        places = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in arguments]
        library[f"run_{name}"](blocks, threads, shared, *places)

    return run
