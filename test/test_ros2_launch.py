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
from dataclasses import replace
from pathlib import Path

import pytest

if shutil.which("ros2") is None:
    pytest.skip("there is no ros2 command", allow_module_level=True)
pytest.importorskip("launch_ros")
pytest.importorskip("owled_ros.msg")

from autoware_standins import environment
from driving_rig import free_domain
from recorded_drives import START

from owled_ros.bags.write import BagWriter
from owled_ros.deployment.deployment import create_deployment
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.sample import sample_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TOP = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0  # the bundled model is loaded with torch
LISTENING = ("loaded ", "image <- ", "odometry <- ")
DOMAIN = str(free_domain())
BUNDLED = TOP / "owled_ros" / "share" / "mini"
NOT_ASKED = "the BUNDLED demonstration model drives"


@contextmanager
def launched(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start ros2 launch with these words in a home of its own; whatever happens, nothing of it stays."""
    home, cache = log.with_name("home"), os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    given = {"ROS_DOMAIN_ID": DOMAIN, "PYTHONUNBUFFERED": "1", "HOME": str(home), "XDG_CACHE_HOME": cache}
    env = {**(environment(os.environ) if any("autoware" in word for word in words) else os.environ), **given}
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            ["ros2", "launch", *words], env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
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
        (*LISTENING, "/sensing/camera/camera4/image_raw", "generator owled_ros"),
    ),
    (
        (
            "owled_ros",
            "autoware_driving.launch.xml",
            "route:=true",
            "namespace:=/second",
            "instance:=second",
            "generator_name:=two",
        ),
        (*LISTENING, "generator two", "no command: no route has come"),
    ),
    (("owled_ros", "recalibration.launch.xml"), ("neither deployment nor model_path is given", "owled deploy")),
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
        wait_for(process, log, ("loading the bundled model", *LISTENING, "no publisher on /camera/image"))
    assert NOT_ASKED not in log.read_text(), "it was asked for by name"


def test_recalibration_takes_its_deployment_from_the_argument_and_from_the_file(tmp_path: Path) -> None:
    file, log = tmp_path / "mine.yaml", tmp_path / "log"
    for place in ("in_file", "given"):
        create_deployment(tmp_path / place, BUNDLED)
    write_parameters(file, deployment=tmp_path / "in_file")
    for words, expected in (((), "in_file"), ((f"deployment:={tmp_path / 'given'}",), "given")):
        with launched(log, "owled_ros", "recalibration.launch.xml", f"params_file:={file}", *words) as process:
            wait_for(process, log, (f"deployment {tmp_path / expected}, current: none",))


def test_a_node_that_gives_up_makes_the_launch_end_with_a_code(tmp_path: Path) -> None:
    file, log = tmp_path / "mine.yaml", tmp_path / "log"
    write_parameters(file, model_path="/nowhere")
    words = ("owled_ros", "driving.launch.xml", f"params_file:={file}", "exit_on_failure:=true")
    with launched(log, *words) as process:
        assert process.wait(PATIENCE_S) == 1, log.read_text(errors="replace")
    assert "driving_node gave up with code 1" in log.read_text()


OUTER = """<launch>
  <set_env name="MALLOC_ARENA_MAX" value="7"/>
  <set_env name="FASTDDS_DEFAULT_PROFILES_FILE" value="{mine}"/>
  <include file="$(find-pkg-share owled_ros)/launch/autoware_driving.launch.xml">
    <arg name="params_file" value="{file}"/>
    <arg name="exit_on_failure" value="true"/>
    <arg name="candidates" value="false"/>
    <arg name="required" value="{required}"/>
  </include>
  <executable cmd="sh {script}" output="screen"/>
</launch>
"""


@pytest.mark.parametrize("required", ["false", "true"])
def test_an_outer_file_keeps_its_environment_and_goes_on_unless_told_otherwise(required: str, tmp_path: Path) -> None:
    file, mine, script, outer = (tmp_path / name for name in ("mine.yaml", "mine.xml", "env.sh", "outer.launch.xml"))
    write_parameters(file, model_path="/nowhere")
    shutil.copy(TOP / "config" / "fastdds.xml", mine)
    script.write_text("echo outer: $MALLOC_ARENA_MAX $MALLOC_MMAP_THRESHOLD_ end\nsleep 1000\n")
    outer.write_text(OUTER.format(mine=mine, file=file, script=script, required=required))
    log = tmp_path / "log"
    unset = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC")}
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(unset):
            patch.delenv(name)
        with launched(log, str(outer)) as process:
            wait_for(process, log, ("outer: 7 end", "process has died"))
            if required == "false":
                time.sleep(3.0)
                assert process.poll() is None, "the outer file's own process goes on"
                process.send_signal(signal.SIGINT)
            assert process.wait(60) == 1, log.read_text(errors="replace")


def rendered_bag(path: Path) -> Path:
    """Write twenty times one image that the bundled model knows, at the speed that goes with it."""
    snapshot = sample_snapshot(3, Camera())
    with BagWriter(path) as bag:
        for step in range(105):
            stamp = START + step * 20_000_000
            bag.odometry(stamp, replace(snapshot.ego, stamp=stamp))
            if step % 5 == 0 and step < 100:
                bag.image(stamp, snapshot.image)
    return path


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        ("{must_beat: [], min_valid_share: null, require_disjoint_calibration: false}", 0),
        ("{min_evaluated_frames: 1000}", 1),
    ],
)
def test_replay_ends_by_itself_with_the_verdict_as_its_code(conditions: str, code: int, tmp_path: Path) -> None:
    bag, result, log = rendered_bag(tmp_path / "bag"), tmp_path / "result", tmp_path / "log"
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(f"name: trial\nconditions: {conditions}\n")
    words = (
        "owled_ros",
        "replay_eval.launch.py",
        f"bag:={bag}",
        f"result:={result}",
        "pace:=lockstep",
        f"scenario:={scenario}",
    )
    with launched(log, *words) as process:
        assert process.wait(PATIENCE_S) == code, log.read_text(errors="replace")
    assert (result / "result.jsonl").exists(), log.read_text(errors="replace")


def test_run_starts_an_installed_executable(tmp_path: Path) -> None:
    found = subprocess.run(
        ["ros2", "pkg", "executables", "owled_ros"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in found.splitlines()} >= {"driving_node", "recalibration_node", "owled"}
    help_text = subprocess.run([sys.executable, "-m", "owled_ros", "--help"], capture_output=True, text=True).stdout
    assert "demo" in help_text
