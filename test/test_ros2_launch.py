"""The launch files started by ros2 launch itself, and ended by Ctrl-C; only where a ROS 2 with this package is sourced.

The wheels have no launch system: there test_launch_files.py reads the files, and the same nodes are started as processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if shutil.which("ros2") is None:
    pytest.skip("there is no ros2 command", allow_module_level=True)
pytest.importorskip("launch_ros")
pytest.importorskip("owled_ros.msg")

from driving_rig import free_domain
from recorded_drives import make_bag

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TOP = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0  # the bundled model is loaded with torch
LISTENING = ("loaded ", "image <- ", "odometry <- ")


@contextmanager
def launched(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start ros2 launch with these words; whatever happens, nothing of it stays."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(free_domain()), "PYTHONUNBUFFERED": "1"}
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            ["ros2", "launch", *words], env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(process: subprocess.Popen[bytes], log: Path, words: tuple[str, ...]) -> None:
    """Wait until every word stands in the log."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        if all(word in log.read_text(errors="replace") for word in words):
            return
        time.sleep(0.2)
    raise AssertionError(f"{words} did not come:\n{log.read_text(errors='replace')}")


LAUNCHES = [
    (("owled_ros", "driving.launch.xml"), LISTENING),
    (
        ("owled_ros", "autoware_driving.launch.xml", "camera:=camera4"),
        (*LISTENING, "/sensing/camera/camera4/image_raw"),
    ),
    (("owled_ros", "recalibration.launch.xml"), ("store ",)),
    ((str(TOP / "examples" / "launch" / "my_camera.launch.xml"),), (*LISTENING, "/front_camera/image_raw")),
    ((str(TOP / "examples" / "autoware" / "owled.launch.xml"),), LISTENING),
]


@pytest.mark.parametrize(("words", "expected"), LAUNCHES, ids=lambda value: Path(value[-1]).name)
def test_a_launch_file_starts_its_node_and_ends_on_interrupt(
    words: tuple[str, ...], expected: tuple[str, ...], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with launched(log, *words) as process:
        wait_for(process, log, expected)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text(errors="replace")
    assert "Traceback" not in log.read_text(errors="replace")


def test_replay_ends_by_itself_with_a_verdict(tmp_path: Path) -> None:
    bag, result, log = make_bag(tmp_path / "bag", images=20), tmp_path / "result", tmp_path / "log"
    words = ("owled_ros", "replay_eval.launch.py", f"bag:={bag}", f"result:={result}", "pace:=lockstep")
    with launched(log, *words) as process:
        process.wait(PATIENCE_S)
    assert (result / "result.jsonl").exists(), log.read_text(errors="replace")


def test_run_starts_an_installed_executable(tmp_path: Path) -> None:
    found = subprocess.run(
        ["ros2", "pkg", "executables", "owled_ros"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in found.splitlines()} >= {"driving_node", "recalibration_node", "owled"}
    help_text = subprocess.run([sys.executable, "-m", "owled_ros.cli", "--help"], capture_output=True, text=True).stdout
    assert "demo" in help_text
