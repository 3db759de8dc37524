"""The virtual environment and its packages. Needs the standard library, and pip in the environment that it makes.

Without ROS 2 everything in requirements/lock.txt is installed. Beside a sourced ROS 2 the environment sees the system's
packages and gets only what is missing; NumPy stays the system's, because rclpy and cv_bridge are built against it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from layout import Layout
from machine import Interpreter, inspect
from problem import SetupProblem
from ros_wheels import repair_ros_wheels
from stamps import INSTALLING, READY, is_ready, read_stamp, write_stamp
from steps import run_step, say

PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")
NETWORK = re.compile(
    r"name resolution|NewConnectionError|ConnectTimeout|Network is unreachable|ProxyError|Max retries exceeded", re.I
)
NO_MATCH = re.compile(
    r"No matching distribution found for (\S+)|Could not find a version that satisfies the requirement (\S+)"
)
DISK = re.compile(r"No space left on device|Disk quota exceeded", re.I)


def install_packages(layout: Layout, python: Interpreter, ros: str | None, key: str, env: Mapping[str, str]) -> None:
    """Make or repair the environment; returns at once where it is ready. An interrupted run is taken up again."""
    if is_ready(layout.packages_stamp, key) and layout.venv_python.exists():
        return
    _make_environment(layout, python, ros, env)
    if read_stamp(layout.packages_stamp).get("state") == INSTALLING:
        remove_half_installed(layout.venv)
    write_stamp(layout.packages_stamp, INSTALLING, key)
    site_packages = _ask(layout.venv_python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    if ros:
        _install(
            layout, ["-r", "run.txt", "-r", "dev.txt", *_colcon_list()], _constraints(layout), "missing packages", env
        )
    else:
        _install(layout, ["-r", "lock.txt"], None, f"{_count(layout.requirements / 'lock.txt')} packages", env)
        changed = repair_ros_wheels(layout.venv, Path(site_packages), Path(python.include))
        say(f"repaired {changed} files of the ROS 2 wheels")
        if shutil.which("cmake") is None:
            _install(layout, ["cmake"], None, "cmake", env)
    write_stamp(layout.packages_stamp, READY, key)


def remove_half_installed(venv: Path) -> list[str]:
    """Remove metadata without a RECORD, which a killed pip leaves: pip takes such a package for installed."""
    removed = []
    for metadata in venv.glob("lib/python3*/site-packages/*.dist-info"):
        if not (metadata / "RECORD").exists():
            shutil.rmtree(metadata)
            removed.append(metadata.name)
    return removed


def explain_pip(output: str) -> str:
    """Say what to do about a failed pip."""
    if DISK.search(output):
        return "The disk is full. Free some space and run again: what is installed already is kept."
    if NETWORK.search(output):
        return "The package index could not be reached. Check the network (and pip's proxy settings) and run again: it resumes from here."
    match = NO_MATCH.search(output)
    if match:
        return f"pip found no fitting {match[1] or match[2]}. Is the package index complete, and this machine Linux x86_64 with Python 3.11 to 3.13?"
    return "Run again: it resumes from here. If it fails in the same way, remove .venv first."


def note_pip(line: str) -> str:
    """Show which package pip is at."""
    match = re.match(r"\s*(Collecting|Downloading|Installing) (\S+)(.*\(([^)]*[MG]B)\))?", line)
    if not match:
        return ""
    name = match[2].rsplit("/", 1)[-1].split("==")[0] if match[1] != "Installing" else "unpacking"
    return f"{match[1].lower()} {name}{' ' + match[4] if match[4] else ''}"


def _make_environment(layout: Layout, python: Interpreter, ros: str | None, env: Mapping[str, str]) -> None:
    existing = inspect(str(layout.venv_python)) if layout.venv_python.exists() else None
    if layout.venv.exists() and not _is_ours(layout.venv):
        raise SetupProblem(f"{layout.venv} exists and is no virtual environment. Move it away and run again.")
    whole = existing is not None and _belongs_here(layout) and _has_pip(layout.venv_python)
    if whole and existing.version == python.version and _sees_system(layout.venv) == bool(ros):
        return
    if layout.venv.exists():
        say(f"{layout.venv} does not fit (another Python, another place, or half-made): it is made again")
    options = ["--clear", *(["--system-site-packages"] if ros else [])]
    command = [python.executable, "-m", "venv", *options, str(layout.venv)]
    run_step(f"virtual environment with {python.name}", command, layout.log, env, lambda _: "", _explain_venv)


def _install(layout: Layout, wanted: list[str], constraints: Path | None, title: str, env: Mapping[str, str]) -> None:
    lists = [str(layout.requirements / word) if word.endswith(".txt") else word for word in wanted]
    command = [str(layout.venv_python), *PIP, "install", "--retries", "2", *lists]
    command += ["-c", str(constraints)] if constraints else []
    run_step(f"installing {title}", command, layout.log, env, note_pip, explain_pip)


def _constraints(layout: Layout) -> Path:
    """Hold the system's NumPy, and pytest below 8 where launch_testing is there, which newer ones break."""
    probe = (
        "import importlib.util as u, numpy; print('numpy==' + numpy.__version__); print('setuptools<80'); "
        "print('pytest<8') if u.find_spec('launch_testing') else None"
    )
    path = layout.build / "constraints.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_ask(layout.venv_python, probe, isolated=False) + "\n")
    return path


def _colcon_list() -> list[str]:
    return [] if shutil.which("colcon") else ["-r", "colcon.txt"]


def _ask(python: Path, code: str, isolated: bool = True) -> str:
    command = [str(python), *(["-I"] if isolated else []), "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0:
        raise SetupProblem(f"{python} failed: {answer.stderr.strip()}. Remove .venv and run again.")
    return answer.stdout.strip()


def _explain_venv(_: str) -> str:
    return "Is the venv module whole? On Debian or Ubuntu: sudo apt install python3-venv"


def _is_ours(venv: Path) -> bool:
    return (venv / "pyvenv.cfg").exists() or not any(venv.iterdir())


def _has_pip(python: Path) -> bool:
    return subprocess.run([str(python), "-I", "-m", "pip", "--version"], capture_output=True).returncode == 0


def _belongs_here(layout: Layout) -> bool:
    """Scripts and repaired files hold absolute paths: an environment that was moved is made again."""
    script = layout.venv / "bin" / "pip"
    return script.exists() and str(layout.venv) in script.read_text(errors="replace")[:400]


def _sees_system(venv: Path) -> bool:
    return "include-system-site-packages = true" in (venv / "pyvenv.cfg").read_text()


def _count(path: Path) -> int:
    return sum("==" in line for line in path.read_text().splitlines())
