"""Build the interfaces and the native library with colcon, again only when their sources change.

Needs an environment in which the packages are installed. colcon sees the sources through links in build/source, because
CMake refuses include directories below the source directory, and .venv holds some.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from layout import Layout
from stamps import INSTALLING, READY, hash_of, is_ready, write_stamp
from steps import run_step

BUILT_FROM = ("CMakeLists.txt", "package.xml", "msg", "srv", "action", "csrc")  # a change here means a new build
INSTALLED_TOO = ("LICENSE", "config", "foxglove", "launch", "owled_ros", "rviz", "schema", "scripts")
NO_PYTHON_H = re.compile(r"Could NOT find Python3? .*Development", re.S)


def build_key(layout: Layout, *words: str) -> str:
    """Hash what the build is made from."""
    return hash_of([layout.top / name for name in BUILT_FROM], *words)


def build_package(layout: Layout, ros: str | None, key: str, env: Mapping[str, str]) -> None:
    """Build into install/; returns at once where it is up to date."""
    if is_ready(layout.build_stamp, key):
        return
    write_stamp(layout.build_stamp, INSTALLING, key)
    source = _link_sources(layout)
    command = [
        *_colcon(layout), "--log-base", str(layout.build / "log"), "build", "--base-paths", str(source),
        "--build-base", str(layout.build), "--install-base", str(layout.install), "--merge-install",
        *(["--symlink-install"] if ros else []), "--event-handlers", "console_direct+", "--cmake-args", "-DBUILD_TESTING=OFF",
        *([] if ros else _wheel_options(layout)),
    ]  # fmt: skip
    run_step("building messages", command, layout.log, env, _note, _explain)
    (layout.install / "COLCON_IGNORE").touch()
    write_stamp(layout.build_stamp, READY, key)


def _wheel_options(layout: Layout) -> list[str]:
    return [
        f"-DPython3_EXECUTABLE={layout.venv_python}",
        "-DPython3_FIND_VIRTUALENV=ONLY",
        f"-DCMAKE_PREFIX_PATH={layout.venv}",
        "-DOWLED_INSTALL_PYTHON=OFF",
    ]


def _link_sources(layout: Layout) -> Path:
    source = layout.build / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    (layout.build / "COLCON_IGNORE").unlink(missing_ok=True)  # colcon would not look into build/source
    for name in (*BUILT_FROM, *INSTALLED_TOO):
        if (layout.top / name).exists():
            os.symlink(os.path.relpath(layout.top / name, source), source / name)
    _forget_other_builds(layout)
    return source


def _forget_other_builds(layout: Layout) -> None:
    """A CMake cache of another environment, place or interpreter is worse than none."""
    cache = layout.build / "owled_ros" / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={layout.build / 'source'}\n" not in cache.read_text(
        errors="replace"
    ):
        shutil.rmtree(cache.parent)


def _colcon(layout: Layout) -> list[str]:
    """Its own script may be missing where the package is seen through the system's path: the module is there still."""
    own = layout.venv / "bin" / "colcon"
    if own.exists() or shutil.which("colcon"):
        return [str(own) if own.exists() else "colcon"]
    return [str(layout.venv_python), "-c", "import sys; from colcon_core.command import main; sys.exit(main())"]


def _note(line: str) -> str:
    percent = re.match(r"\[\s*(\d+%)\]", line)
    return percent[1] if percent else ""


def _explain(output: str) -> str:
    if "No space left on device" in output:
        return "The disk is full. Free some space and run again."
    if NO_PYTHON_H.search(output):
        return "CMake found no Python headers. On Debian or Ubuntu: sudo apt install python3-dev"
    if re.search(r"CMAKE_CXX_COMPILER|No CMAKE_C\w* COMPILER|Makefile.*not found", output):
        return "CMake found no working compiler. On Debian or Ubuntu: sudo apt install build-essential"
    return "Run again; if it fails in the same way, remove build/ and install/ first."
