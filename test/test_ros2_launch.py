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

from owled_ros.deployment.deployment import create_deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TOP = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0  # the bundled model is loaded with torch
LISTENING = ("loaded ", "image <- ", "odometry <- ")
DOMAIN = str(free_domain())
BUNDLED = TOP / "owled_ros" / "share" / "mini"
ASKED = "the bundled demonstration model was asked for by name"
NOT_ASKED = "the BUNDLED demonstration model drives"


@contextmanager
def launched(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start ros2 launch with these words in a home of its own; whatever happens, nothing of it stays."""
    home, cache = log.with_name("home"), os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    given = {"ROS_DOMAIN_ID": DOMAIN, "PYTHONUNBUFFERED": "1", "HOME": str(home), "XDG_CACHE_HOME": cache}
    environment = {**os.environ, **given}
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


def write_parameters(file: Path, **values: object) -> None:
    """Write a parameter file of an operator."""
    lines = (f"    {name}: {value}\n" for name, value in values.items())
    file.write_text("".join(["/**:\n  ros__parameters:\n", *lines]))


def wait_for(process: subprocess.Popen[bytes], log: Path, words: tuple[str, ...]) -> None:
    """Wait until every word stands in the log."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        if all(word in log.read_text(errors="replace") for word in words):
            return
        time.sleep(0.2)
    raise AssertionError(f"{words} did not come:\n{log.read_text(errors='replace')}")


LAUNCHES = [
    (("owled_ros", "driving.launch.xml"), (*LISTENING, NOT_ASKED)),
    (
        ("owled_ros", "autoware_driving.launch.xml", "camera:=camera4"),
        (*LISTENING, "/sensing/camera/camera4/image_raw"),
    ),
    (("owled_ros", "recalibration.launch.xml"), ("current: none", "its base model is to drive")),
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
    said = log.read_text(errors="replace")
    assert "Traceback" not in said
    assert "process has finished cleanly" in said


@pytest.mark.parametrize("name", ["driving.launch.xml", "autoware_driving.launch.xml"])
def test_what_a_params_file_says_drives_and_counts(name: str, tmp_path: Path) -> None:
    """The file's model_path, image_transport and autostart are the operator's; the launch file must not overwrite them."""
    file, log = tmp_path / "mine.yaml", tmp_path / "log"
    write_parameters(file, model_path=BUNDLED, image_transport="compressed")
    with launched(log, "owled_ros", name, f"params_file:={file}") as process:
        wait_for(process, log, (f"loading {BUNDLED} ", "sensor_msgs/msg/CompressedImage", "loaded mini@"))
        assert NOT_ASKED not in log.read_text()
    write_parameters(file, model_path=BUNDLED, autostart="false")
    with launched(log, "owled_ros", name, f"params_file:={file}", "autostart:=true") as process:
        wait_for(process, log, (f"loading {BUNDLED} ",))  # an argument that was given goes before the file


def test_a_params_file_that_names_no_model_drives_nothing(tmp_path: Path) -> None:
    file, log = tmp_path / "mine.yaml", tmp_path / "log"
    write_parameters(file, deadline_s=0.4, exit_on_failure="true")
    with launched(log, "owled_ros", "driving.launch.xml", f"params_file:={file}") as process:
        wait_for(process, log, ("a parameter file was given but no model",))
    assert "loading the bundled model" not in log.read_text()
    with launched(log, "owled_ros", "driving.launch.xml", f"params_file:={file}", "model_path:=mini") as process:
        wait_for(process, log, ("loading the bundled model", NOT_ASKED, ASKED))


def test_recalibration_takes_its_deployment_from_the_argument_and_from_the_file(tmp_path: Path) -> None:
    file, log = tmp_path / "mine.yaml", tmp_path / "log"
    for place in ("in_file", "given"):
        create_deployment(tmp_path / place, BUNDLED)
    write_parameters(file, deployment=tmp_path / "in_file")
    for words, expected in (((), "in_file"), ((f"deployment:={tmp_path / 'given'}",), "given")):
        with launched(log, "owled_ros", "recalibration.launch.xml", f"params_file:={file}", *words) as process:
            wait_for(process, log, (f"deployment {tmp_path / expected}, current: none",))


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
