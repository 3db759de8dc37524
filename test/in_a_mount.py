"""Run a program where file systems can be mounted that nobody else sees and that vanish with it; needs Linux and `unshare`."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


@functools.cache
def unshare() -> tuple[str, ...]:
    """Return the command that gives a mount name space; skips the test where there is none."""
    program = shutil.which("unshare")
    for words in () if program is None else (("-m",), ("-U", "-r", "-m")):
        trial = [program, *words, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
        if subprocess.run(trial, capture_output=True).returncode == 0:
            return (program, *words)
    pytest.skip("this machine lets nobody mount a file system of its own (unshare -m, unshare -Urm)")


def run_mounted(options: str, place: Path, program: str, *arguments: object) -> Any:
    """Mount a tmpfs with these options at `place` and run a Python program there; returns the JSON that it prints last."""
    place.mkdir()
    mount = f'mount -t tmpfs -o {options} tmpfs "$1" && shift && exec "$@"'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    python = [sys.executable, "-c", program, str(place), *map(str, arguments)]
    command = [*unshare(), "sh", "-c", mount, "sh", str(place), *python]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
