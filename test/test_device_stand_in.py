"""test/stand_in_checks.py in a process of its own: PyTorch counts devices at the first backward pass, and has none for one made later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("stand_in_checks.py")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_stays_behind_on_the_cpu() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKS.parent.parent)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
