"""Set up what is missing, then run: `./owled` comes here with any Python 3.8 or newer. Needs the standard library only.

./owled test …      the tests, on all cores          ./owled python …    Python in this environment
./owled shell       a shell in it      ./owled --setup-only
./owled anything …  the owled command
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from environment import WHEELS_RMW, build_environment, run_environment
from installs import install_packages
from layout import Layout
from machine import CANDIDATES, check_disk, check_platform, check_tools, choose_python, inspect, sourced_ros
from parallel import parallel_options
from problem import SetupProblem
from stamps import hash_of, is_ready
from steps import say

from build import build_key, build_package

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


def main() -> None:
    """Set up, then become the wanted program."""
    layout = Layout(Path(__file__).resolve().parent.parent)
    words = sys.argv[1:]
    try:
        ros = sourced_ros(os.environ)
        set_up(layout, ros)
        if words == ["--setup-only"]:
            say(f"ready: {layout.venv} and {layout.install}")
            return
        _become(layout, ros, words)
    except SetupProblem as problem:
        print(f"owled: {problem}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        say("interrupted; run again to resume from here")
        sys.exit(EXIT_INTERRUPTED)


def set_up(layout: Layout, ros: str | None) -> None:
    """Install and build what is not there yet; a second process waits for the first."""
    packages, build = _keys(layout, ros)
    if is_ready(layout.packages_stamp, packages) and is_ready(layout.build_stamp, build):
        return
    layout.build.mkdir(exist_ok=True)
    with open(layout.build / "setup.lock", "w") as lock:
        _wait_for(lock)
        env = build_environment(layout, ros, os.environ)
        if not is_ready(layout.packages_stamp, packages):
            say(
                f"setting up with ROS 2 {ros}"
                if ros
                else "no ROS 2 is sourced here: setting up with its wheels in .venv (once)"
            )
            if not ros:
                check_platform()
            check_tools()
            check_disk(layout.top)
            python = inspect("python3") if ros else choose_python([str(layout.venv_python), *CANDIDATES])
            if python is None:
                raise SetupProblem("python3 does not run; expected the Python that this ROS 2 was built for")
            install_packages(layout, python, ros, packages, env)
        check_tools()
        build_package(layout, ros, build, env)


def _keys(layout: Layout, ros: str | None) -> tuple[str, str]:
    place = (str(layout.top), ros or "wheels")
    packages = hash_of([layout.requirements, Path(__file__).parent / "ros_wheels.py"], *place)
    return packages, build_key(layout, packages, *place)


def _wait_for(lock) -> None:  # type: ignore[no-untyped-def]
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another ./owled is setting up; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _become(layout: Layout, ros: str | None, words: list[str]) -> None:
    wanted = os.environ.get("RMW_IMPLEMENTATION", "")
    if not ros and wanted not in ("", WHEELS_RMW):
        say(f"RMW_IMPLEMENTATION={wanted} is not among the wheels: {WHEELS_RMW} is used")
    env = run_environment(layout, ros, os.environ)
    python = str(layout.venv_python)
    verb, rest = (words[0], words[1:]) if words else ("", [])
    if verb == "test":
        os.chdir(layout.top)
        command = [python, "-m", "pytest", *parallel_options(rest), *rest]
    elif verb == "python":
        command = [python, *rest]
    elif verb == "shell":
        command = [env.get("SHELL", "/bin/sh"), *rest]
    else:
        command = [python, "-m", "owled_ros", *words]
    sys.stdout.flush()
    os.execvpe(command[0], command, env)
