"""The life of real driving nodes: transitions, failing models, clocks, quality of service, and signals at any moment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import (
    BEST_EFFORT,
    NODE,
    PATIENCE_S,
    TEST,
    Bench,
    NodeProcess,
    fake_node,
    free_domain,
    parameter_words,
    until,
)
from fake_driving_node import make_model
from lifecycle_msgs.msg import Transition
from rosgraph_msgs.msg import Clock

from owled_ros.nodes.conversions import stamp_to_time

SECOND = 1_000_000_000
DOMAIN = free_domain()
SLOW_TO_PUBLISH = """
import runpy, sys, threading, time
from rclpy.publisher import Publisher
publish = Publisher.publish
def slowly(self, message):
    if threading.current_thread().name == "inference":
        print("publishing", flush=True)
        time.sleep(0.2)
    publish(self, message)
Publisher.publish = slowly
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_a_failing_configure_keeps_the_words_and_can_be_repeated(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with fake_node(DOMAIN, tmp_path / "log", model_path=model) as process, Bench(DOMAIN) as bench:
        process.wait_for_text("autostart failed")
        status = bench.status("model", f"model directory {model} has no control.json")
        assert status.level == status.ERROR
        assert bench.state() == "unconfigured"
        make_model(model, load_fails=True)  # half-written
        assert not bench.change(Transition.TRANSITION_CONFIGURE)
        bench.status("model", "OSError: safetensors header is damaged")
        make_model(model)
        assert bench.change(Transition.TRANSITION_CONFIGURE)
        bench.status("model", "loaded")
        assert bench.change(Transition.TRANSITION_ACTIVATE)
        bench.drive_until("VALID")
        assert bench.change(Transition.TRANSITION_DEACTIVATE)
        bench.spin(0.3)
        silent = len(bench.answers)
        bench.send_image()
        bench.spin(0.5)
        assert len(bench.answers) == silent, "an inactive node hears nothing"
        assert bench.change(Transition.TRANSITION_ACTIVATE)
        bench.drive_until("VALID")
        assert bench.change(Transition.TRANSITION_DEACTIVATE)
        assert bench.change(Transition.TRANSITION_CLEANUP)
        assert bench.state() == "unconfigured"
        assert bench.change(Transition.TRANSITION_CONFIGURE)
        assert bench.change(Transition.TRANSITION_CLEANUP)
        assert bench.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert process.end()[0] == 0
    assert "Traceback" not in process.text()


def test_exit_on_failure_ends_the_process_with_an_error(tmp_path: Path) -> None:
    with fake_node(DOMAIN, tmp_path / "log", model_path=tmp_path / "none", exit_on_failure=True) as process:
        assert process.process.wait(PATIENCE_S) == 1
        assert "has no control.json" in process.text()


def test_a_parameter_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    with fake_node(DOMAIN, tmp_path / "log", model_path=make_model(tmp_path / "m"), dtype="float7") as process:
        assert process.process.wait(PATIENCE_S) != 0
        assert "expected one of auto, float32, bfloat16, float16" in process.text()


def test_simulated_time_missing_wrong_and_jumping_back(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    with fake_node(DOMAIN, tmp_path / "log", model_path=model, use_sim_time=True) as process, Bench(DOMAIN) as bench:
        process.wait_for_text("odometry <-")
        clock = bench.node.create_publisher(Clock, "/clock", BEST_EFFORT)
        answer = bench.drive_until("CLOCK_JUMP")
        assert "no /clock has come" in answer["detail"]

        def at(seconds: float) -> int:
            stamp = round(seconds * SECOND)
            clock.publish(Clock(clock=stamp_to_time(stamp)))
            bench.send_ego(stamp)
            bench.spin(0.03)
            return bench.send_image(stamp)

        def nothing() -> None:
            pass

        bench.drive_until("VALID", ego=nothing, image=lambda: at(100.0))
        wall = bench.drive_until("CLOCK_JUMP", ego=nothing)  # stamps of the wall clock
        assert "ahead of the node's clock" in wall["detail"]
        assert "use_sim_time" in wall["detail"]
        bench.drive_until("VALID", ego=nothing, image=lambda: at(101.0))
        bench.drive_until("VALID", ego=nothing, image=lambda: at(10.0))  # the bag restarts
        bench.drive_until("VALID", ego=nothing, image=lambda: at(10.1))
        assert bench.spin_until(lambda: int(bench.values("inference")["clock_jumps"]) > 0)
        assert process.end()[0] == 0


def test_incompatible_quality_of_service_is_named_and_comes_from_the_parameters(tmp_path: Path) -> None:
    overrides = {f"qos_overrides.{NODE}/input/image.subscription.reliability": "reliable"}
    with fake_node(DOMAIN, tmp_path / "log", model_path=make_model(tmp_path / "m"), input_timeout_s=0.3, **overrides):
        with Bench(DOMAIN) as bench:
            words = "bench: Best effort publisher and reliable subscription"  # the name is known a little after the publisher
            status = bench.status("image", words, meanwhile=bench.send_image)
            assert "incompatible QoS" in status.message
            bench.status("odometry", "receiving", meanwhile=bench.send_ego)


def test_no_publisher_is_named_with_the_remapped_topic(tmp_path: Path) -> None:
    arguments = [str(TEST / "fake_driving_node.py"), "--ros-args", "-p", f"model_path:={make_model(tmp_path / 'm')}"]
    arguments += ["-r", "~/input/image:=/front/image", "-r", "__ns:=/car1", "-p", "input_timeout_s:=0.3"]
    with NodeProcess(arguments, DOMAIN, tmp_path / "log"), Bench(DOMAIN) as bench:
        bench.status("image", "no publisher on /front/image")
        bench.status("odometry", "no publisher on /car1/driving_node/input/odometry")


END_S = 20.0  # a node leaves within 2 s on a quiet machine; what waits for the model takes three times as long as this
MOMENTS = ("importing", "loading", "failed", "idle", "inferring")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_signals_end_the_node_at_any_moment(tmp_path: Path, moment: str, number: int) -> None:
    model = make_model(tmp_path / "m", load_s=3 * END_S if moment == "loading" else 0.0, delay_s=0.0)
    if moment == "failed":
        model = tmp_path / "none"
    words = {"loading": "loading ", "failed": "autostart failed", "idle": "odometry <-", "inferring": "odometry <-"}
    with fake_node(DOMAIN, tmp_path / "log", model_path=model) as process:
        if moment == "importing":
            assert until(lambda: _handles(process.process.pid, number))
        else:
            process.wait_for_text(words[moment])
        if moment == "inferring":
            with Bench(DOMAIN) as bench:
                bench.drive()
                make_model(model, delay_s=3 * END_S)
                bench.send_ego()
                bench.send_image()
                bench.spin(0.3)
        segments = _own_segments(process.process.pid)
        code, _ = process.end(number, END_S)
    assert code == 0, process.text()
    assert "Traceback" not in process.text()
    assert [path for path in segments if path.exists()] == [], "shared memory is given back"
    assert segments or moment == "importing"


@pytest.mark.parametrize("description_rate_hz", [0.0, 50.0])
def test_what_is_being_published_is_finished_before_ros_shuts_down(tmp_path: Path, description_rate_hz: float) -> None:
    parameters = {"model_path": make_model(tmp_path / "m"), "description_rate_hz": description_rate_hz}
    program = ["-c", SLOW_TO_PUBLISH, str(TEST / "fake_driving_node.py"), "--ros-args", *parameter_words(parameters)]
    with NodeProcess(program, DOMAIN, tmp_path / "log") as process, Bench(DOMAIN) as bench:
        process.wait_for_text("odometry <-")

        def begun() -> bool:
            bench.send_ego()
            bench.send_image()  # best effort: lost as long as the node does not know the publisher
            bench.spin(0.3)
            return "publishing\n" in process.text()

        assert until(begun), process.text()
        last = 7 if description_rate_hz else 3  # the messages of an action, then those of a scene
        assert until(lambda: bench.spin(0.02) or process.text().count("publishing\n") >= last), process.text()
        code, _ = process.end(signal.SIGINT, END_S)
    assert code == 0, process.text()
    assert "Traceback" not in process.text()


def _handles(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal (bit mask SigCgt in /proc)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _own_segments(pid: int) -> list[Path]:
    """Return the shared memory that a process made: it holds the lock file beside it open."""
    locks = [Path(os.readlink(entry)) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()]
    named = [path for path in locks if path.name.startswith("fastrtps_") and path.name.endswith("_el")]
    return [path.with_name(path.name.removesuffix("_el")) for path in named if "port" not in path.name]


def test_signals_before_ros_is_imported_end_the_process(tmp_path: Path) -> None:
    source = (
        "from owled_ros.nodes.process import watch_signals, leave\n"
        "import sys, time\n"
        "stop = watch_signals()\n"
        "assert 'rclpy' not in sys.modules, 'the signals are handled before ROS is imported'\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.01)\n"  # never looks at `stop`
    )
    log = tmp_path / "log"
    with NodeProcess(["-c", source], DOMAIN, log) as process:
        process.wait_for_text("ready")
        started = time.monotonic()
        code, _ = process.end(signal.SIGTERM)
        assert (code, process.text()) == (0, "ready\n")
        assert time.monotonic() - started > 1.0, "only after the time of grace"
