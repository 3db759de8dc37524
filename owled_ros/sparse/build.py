"""Build the native library from csrc/ with the system's C++ compiler: `python -m owled_ros.sparse.build`. Needs g++ or clang++.

ament and pip build the same sources with CMake; this is for running from a source tree. The result goes to the user's
cache, named by the hash of the sources, so a changed source is built again and an old library is never used.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from owled_ros.errors import OwledError

logger = logging.getLogger(__name__)
SOURCES = Path(__file__).resolve().parents[2] / "csrc"
COMPILERS = ("c++", "g++", "clang++")
BUILD_TIMEOUT_S = 600
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=fast", "-fPIC", "-fvisibility=hidden", "-pthread", "-DNDEBUG")
AVX2 = ("-mavx2", "-mfma", "-mpopcnt", "-mbmi2")
AVX512 = (*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vbmi", "vbmi2", "vnni")))
# Kernel files that need more than the base instruction set, per machine; the same lists stand in CMakeLists.txt.
KERNELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"kernels_avx2": AVX2, "kernels_avx512": AVX512, "kernels_avx512bf16": (*AVX512, "-mavx512bf16")},
    "aarch64": {"kernels_neon": ()},
}


def sources(directory: Path = SOURCES) -> list[Path]:
    """List the sources for this machine; empty where the package was installed without them."""
    chosen = KERNELS.get(platform.machine(), {})
    every = {name for kernels in KERNELS.values() for name in kernels}
    return [path for path in sorted(directory.glob("src/*.cpp")) if path.stem not in every or path.stem in chosen]


@functools.lru_cache(maxsize=1)
def cached_library() -> Path | None:
    """Name the library in the cache that belongs to these sources; it may not exist yet. None without sources."""
    if not sources():
        return None
    digest = hashlib.sha256(" ".join((*FLAGS, platform.machine())).encode())
    for path in sorted([*SOURCES.glob("src/*"), *SOURCES.glob("include/*")]):
        digest.update(path.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "owled_ros" / "sparse" / digest.hexdigest()[:16] / "libowled_sparse.so"


def build(extra_flags: tuple[str, ...] = (), out_file: Path | None = None) -> Path:
    """Compile the library; about a minute, once.

    Args:
        extra_flags: For instance sanitizers.
        out_file: Where it goes; None: the cache.

    Raises:
        OwledError: No sources, no compiler, or the compiler failed.
    """
    target = out_file or cached_library()
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if target is None or not sources():
        raise OwledError(
            "the sparse kernels are not installed and their sources (csrc/) are not here; torch is used instead"
        )
    if compiler is None:
        raise OwledError(
            "no C++ compiler (g++ or clang++) to build the sparse kernels with; install one, or torch is used"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    logger.info("building the sparse kernels with %s into %s (once, about a minute)", compiler, target.parent)
    aside = target.parent / f".build-{os.getpid()}"
    aside.mkdir(exist_ok=True)
    try:
        objects = [_compile(compiler, path, aside, extra_flags) for path in sources()]
        library = aside / target.name
        _run([compiler, "-shared", "-pthread", *extra_flags, *map(str, objects), "-o", str(library)])
        os.replace(library, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _compile(compiler: str, source: Path, directory: Path, extra_flags: tuple[str, ...]) -> Path:
    machine = KERNELS.get(platform.machine(), {}).get(source.stem, ())
    out = directory / f"{source.stem}.o"
    _run([compiler, *FLAGS, *machine, *extra_flags, f"-I{SOURCES / 'include'}", "-c", str(source), "-o", str(out)])
    return out


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    except subprocess.CalledProcessError as err:
        raise OwledError(f"building the sparse kernels failed: {' '.join(command)}\n{err.stderr[-2000:]}") from err
    except subprocess.TimeoutExpired as err:
        raise OwledError(f"building the sparse kernels took longer than {BUILD_TIMEOUT_S} s") from err


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        sys.stdout.write(f"{build()}\n")
    except OwledError as error:
        sys.exit(str(error))
