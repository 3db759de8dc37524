"""Python code that may crash, run in a child process: a broken library takes nothing along. Needs the standard library only."""

from __future__ import annotations

import subprocess
import sys

CHILD_TIMEOUT_S = 60


def run_child(code: str) -> tuple[str, str]:
    """Run Python code in a child; returns its output and, on failure, its last word."""
    try:
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {CHILD_TIMEOUT_S} s"
    if child.returncode == 0:
        return child.stdout.strip(), ""
    lines = child.stderr.strip().splitlines()
    return "", lines[-1] if lines else f"ended with signal or code {child.returncode}"
