"""The environment variables in which owled_ros runs. Needs the standard library only.

Python comes straight from the source tree, the generated messages from install/. A variable of config/transport.env
that is set already is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from layout import Layout

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
WHEELS_RMW = "rmw_fastrtps_cpp"  # the only middleware among the wheels
REEXEC_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"  # set: the wheels do not start every Python twice


def build_environment(layout: Layout, ros: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for pip, CMake and colcon."""
    env = dict(environ)
    env["VIRTUAL_ENV"] = str(layout.venv)
    env["PATH"] = _joined([layout.venv / "bin"], env.get("PATH", os.defpath))
    env.pop("PYTHONHOME", None)
    if not ros:
        env.pop("PYTHONPATH", None)
        env["AMENT_PREFIX_PATH"] = str(layout.venv)
    return env


def run_environment(layout: Layout, ros: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the `owled` command, the nodes and the tests."""
    env = build_environment(layout, ros, environ)
    python_version = next((layout.install / "lib").glob("python3*"), layout.install / "lib" / "python3").name
    messages = _site_packages(layout, python_version)
    env["PYTHONPATH"] = _joined([layout.top, *messages], env.get("PYTHONPATH", ""))
    env["AMENT_PREFIX_PATH"] = _joined([layout.install], env.get("AMENT_PREFIX_PATH", ""))
    libraries = [layout.install / "lib"]
    if not ros:
        libraries += [layout.venv / "lib", *sorted(layout.venv.glob("lib/python3*/site-packages/ros_*.libs"))]
        env[REEXEC_GUARD] = "1"
        env["RMW_IMPLEMENTATION"] = WHEELS_RMW
    env["LD_LIBRARY_PATH"] = _joined(libraries, env.get("LD_LIBRARY_PATH", ""))
    for name, value in {**transport_settings(layout), **_kernels(messages)}.items():
        env.setdefault(name, value)
    return env


def transport_settings(layout: Layout) -> dict[str, str]:
    """Read config/transport.env and name the Fast DDS profile."""
    lines = (layout.top / "config" / "transport.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    profile = str(layout.top / "config" / "fastdds.xml")
    return {**settings, **{name: profile for name in PROFILE_VARIABLES}}


def _kernels(site_packages: list[Path]) -> dict[str, str]:
    """Name the sparse kernels that colcon built, because the sources beside which they belong lie elsewhere."""
    built = [path / "owled_ros" / "sparse" / "libowled_sparse.so" for path in site_packages]
    library = next((path for path in built if path.is_file()), None)
    return {"OWLED_SPARSE_LIBRARY": str(library)} if library else {}


def _site_packages(layout: Layout, python_version: str) -> list[Path]:
    """Where CMake put the messages: Debian's Python calls the folder dist-packages."""
    found = sorted(layout.install.glob(f"**/{python_version}/*-packages"))
    return found or [layout.install / "lib" / python_version / "site-packages"]


def _joined(first: list[Path], rest: str) -> str:
    names = [str(path) for path in first]
    return os.pathsep.join(names + [name for name in rest.split(os.pathsep) if name and name not in names])
