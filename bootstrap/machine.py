"""What this machine has: a ROS 2, a fitting Python, a compiler, disk. Needs the standard library only."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from problem import SetupProblem

WHEEL_PYTHONS = ((3, 11), (3, 13))  # first and last version that the lock is made for
WHEEL_GLIBC = (2, 28)
FREE_DISK_GB = 4.0
CANDIDATES = ("python3", "python3.12", "python3.11", "python3.13")
PROBE = (
    "import importlib.util, os, sys, sysconfig; "
    "print(sys.version_info[0], sys.version_info[1], int(sys.maxsize > 2**32), "
    "int(bool(importlib.util.find_spec('venv') and importlib.util.find_spec('ensurepip'))), "
    "int(os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h'))), sep='\\n'); "
    "print(os.path.realpath(sys.executable)); print(sysconfig.get_path('include'))"
)


@dataclass(frozen=True)
class Interpreter:
    """A Python that was asked about itself."""

    command: str
    version: tuple[int, int]
    is_64bit: bool
    has_venv: bool
    has_headers: bool
    executable: str
    include: str

    @property
    def name(self) -> str:
        """Version in words."""
        return f"Python {self.version[0]}.{self.version[1]}"

    def faults(self) -> list[str]:
        """Say what this interpreter lacks for the ROS 2 wheels; empty when it will do."""
        first, last = WHEEL_PYTHONS
        if not first <= self.version <= last:
            return [f"expected Python {first[0]}.{first[1]} to {last[0]}.{last[1]}"]
        faults = [] if self.is_64bit else ["it is a 32-bit build"]
        if not self.has_venv:
            faults.append(f"no venv module (apt install python{self.version[0]}.{self.version[1]}-venv)")
        if not self.has_headers:
            faults.append(f"no Python.h (apt install python{self.version[0]}.{self.version[1]}-dev)")
        return faults


def sourced_ros(environ: Mapping[str, str]) -> str | None:
    """Name the ROS 2 that is sourced in this shell and whose rclpy can be imported, or None; refuse one that is too old."""
    distro = environ.get("ROS_DISTRO")
    if not distro:
        return None
    probe = "import sys; print(*sys.version_info[:2]); sys.stdout.flush(); import rclpy"
    answer = subprocess.run(["python3", "-c", probe], capture_output=True, text=True, env=dict(environ))
    version = tuple(int(part) for part in answer.stdout.split()[:2])
    if version and version < WHEEL_PYTHONS[0]:
        raise SetupProblem(
            f"ROS 2 {distro} is sourced, with Python {version[0]}.{version[1]}; expected ROS 2 Jazzy or newer, with Python "
            f"{WHEEL_PYTHONS[0][0]}.{WHEEL_PYTHONS[0][1]} or newer (docs/install.md, Platforms). Source a newer one, or open a shell "
            "without ROS 2 to use the wheels from PyPI."
        )
    if answer.returncode != 0:
        reason = answer.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise SetupProblem(
            f"ROS 2 {distro} is sourced, but python3 cannot import rclpy ({reason[0]}). Expected the Python that this ROS 2 "
            "was built for: leave any virtual environment, or open a shell without ROS 2 to use the wheels from PyPI."
        )
    return distro


def inspect(command: str) -> Interpreter | None:
    """Ask a Python about itself; None where it does not run."""
    if shutil.which(command) is None:
        return None
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    probe = subprocess.run([command, "-I", "-S", "-c", PROBE], capture_output=True, text=True, env=environ)
    if probe.returncode != 0:
        return None
    major, minor, is_64bit, has_venv, has_headers, executable, include = probe.stdout.splitlines()
    version = (int(major), int(minor))
    return Interpreter(command, version, is_64bit == "1", has_venv == "1", has_headers == "1", executable, include)


def choose_python(commands: Iterable[str]) -> Interpreter:
    """Return the first fitting Python; raises SetupProblem that lists every one found and what it lacks."""
    found = [interpreter for interpreter in map(inspect, commands) if interpreter is not None]
    for interpreter in found:
        if not interpreter.faults():
            return interpreter
    listed = "\n".join(f"    {item.command}: {item.name}, {'; '.join(item.faults())}" for item in found) or "    none"
    raise SetupProblem(
        f"No Python here fits the ROS 2 wheels. Found:\n{listed}\nInstall one with its headers, for example on Debian or Ubuntu:\n"
        "    sudo apt install python3.12 python3.12-venv python3.12-dev"
    )


def check_platform() -> None:
    """Raise SetupProblem where there are no ROS 2 wheels for the machine."""
    machine, (libc, version) = platform.machine(), platform.libc_ver(sys.executable)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if sys.platform != "linux" or machine != "x86_64" or libc != "glibc" or numbers < WHEEL_GLIBC:
        raise SetupProblem(
            f"There are no ROS 2 wheels for {sys.platform} {machine} with {libc or 'an unknown C library'} {version}; expected "
            f"Linux x86_64 with glibc {WHEEL_GLIBC[0]}.{WHEEL_GLIBC[1]} or newer. Install ROS 2 Jazzy, source its setup file and "
            "run ./owled again: it uses a ROS 2 that is sourced."
        )


def check_tools() -> None:
    """Raise SetupProblem where there is no C++ compiler or no make."""
    missing = [] if any(map(shutil.which, ("c++", "g++", "clang++"))) else ["a C++ compiler"]
    if not any(map(shutil.which, ("make", "ninja", "gmake"))):
        missing.append("make")
    if missing:
        raise SetupProblem(
            f"Missing: {' and '.join(missing)}, needed to build the messages. On Debian or Ubuntu:\n    sudo apt install build-essential"
        )


def check_disk(directory: Path) -> None:
    """Raise SetupProblem where the disk is too full for the environment."""
    free = shutil.disk_usage(directory).free / 1e9
    if free < FREE_DISK_GB:
        raise SetupProblem(
            f"Only {free:.1f} GB are free on the disk of {directory}; expected {FREE_DISK_GB:.0f} GB. Free some and run again."
        )
