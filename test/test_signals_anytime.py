"""Ctrl-C, SIGTERM and SIGKILL at several moments of an evaluation, a job, a demonstration and a node that hangs.

Whatever the moment: the exit code is not 0, every file is whole or goes on where it was, no process stays, no traceback is shown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_driver import spec
from recorded_drives import make_bag
from stored_artifacts import make_artifact
from stub_child import command

from owled_ros.deployment.store import Store
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.result import read_result
from owled_ros.evaluation.scenario import Scenario

PATIENCE_S = 120.0
ENDS = {signal.SIGINT: (130,), signal.SIGTERM: (143, -signal.SIGTERM), signal.SIGKILL: (-signal.SIGKILL,)}
MARK = "OWLED_TEST_MARK"
IMAGES = 250  # of 20 ms each: longer than every moment below
EVALUATE = """
import sys
from fake_driver import spec
from owled_ros import cli
from owled_ros.commands import evaluate
evaluate._specs = lambda *words: [spec("slow")]
sys.argv = ["owled", "evaluate", *sys.argv[1:]]
try:  # the signal may come before the next line
    print("at once", flush=True)
    cli.main()
except KeyboardInterrupt:
    sys.exit(130)
"""
RECALIBRATE = """
import functools, sys
from owled_ros import cli
from owled_ros.recalibration import job
job.run_job = functools.partial(job.run_job, python=sys.argv.pop(1))
sys.argv = ["owled", "recalibrate", *sys.argv[1:]]
try:
    print("at once", flush=True)
    cli.main()
except KeyboardInterrupt:
    sys.exit(130)
"""
DEMO = """
import functools, sys
from owled_ros import cli
from owled_ros.demo import run
run.DemoOptions = functools.partial(run.DemoOptions, driver=(sys.argv.pop(1),))
sys.argv = ["owled", "demo", *sys.argv[1:]]
cli.main()
"""
HANGING = """
import time
from owled_ros.nodes.process import leave, watch_signals
watch_signals()
from owled_ros.nodes.spinning import spin_node
from rclpy.node import Node
def hang(node):
    print("hanging", flush=True)
    while True:
        time.sleep(0.01)
leave(spin_node(lambda stop: Node("hanging"), hang))
"""


class Started:
    """A program in a process of its own, marked so that everything it starts is found again."""

    def __init__(self, log: Path, program: str, *arguments: object) -> None:
        self.log, self.mark = log, str(log)
        environment = {**os.environ, MARK: self.mark, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        words = [sys.executable, "-c", program, *map(str, arguments)]
        with open(log, "wb") as stream:
            self.process = subprocess.Popen(
                words, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)

    def end(self, number: int) -> int:
        """Send the signal as a terminal (SIGINT) or a supervisor does; returns the exit code."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def assert_ended(self, number: int, *also: int) -> None:
        """Send the signal: the exit code says it, nobody is shown a traceback, and nothing that was started lives on."""
        code = self.end(number)
        assert code in (*ENDS[signal.Signals(number)], *also), self.text()
        assert "Traceback" not in self.text()
        end = time.monotonic() + PATIENCE_S
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(0.05)
        assert left == []

    def _left(self) -> list[str]:
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                alive = (place / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                if alive and wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append((place / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


@pytest.mark.parametrize(("moment", "processes"), [("at once", 1), ("first frames", 2), ("later", 1)])
@pytest.mark.parametrize("number", list(ENDS))
def test_a_stopped_evaluation_leaves_whole_files_and_nobody(
    number: int, moment: str, processes: int, tmp_path: Path
) -> None:
    bag, out = make_bag(tmp_path / "bag", images=IMAGES), tmp_path / "out"
    more = [make_bag(tmp_path / "second", images=IMAGES)] if processes == 2 else []
    part = out / "slow" / "parts" / "bag.jsonl"

    def lines() -> int:
        return part.read_bytes().count(b"\n") if part.exists() else 0

    words = [bag, *more, "-m", "slow", "--out", out, "--alone", "--camera-test", 0, "--processes", processes]
    started = Started(tmp_path / "log", EVALUATE, *words)
    if moment == "at once":
        started.wait_until(lambda: moment in started.text())
    else:
        started.wait_until(lambda: lines() > (2 if moment == "first frames" else 60))
    started.assert_ended(number)
    whole = part.read_bytes().splitlines(keepends=True) if part.exists() else []
    if number == signal.SIGKILL:
        whole = whole[:-1]  # the last line may be half there; the next run writes it again
    assert all(isinstance(json.loads(line), dict) and line.endswith(b"\n") for line in whole)
    assert not (out / "report.html").exists()
    result = out / "slow" / "result.jsonl"
    assert not result.exists() or not read_result(result).whole
    if moment == "later" and number == signal.SIGKILL:  # the same request goes on
        done = evaluate(EvaluationRequest([bag], [spec("slow")], out, Scenario(), camera_test_frames=0))
        assert [record.index for record in done[0].records] == list(range(IMAGES))


@pytest.mark.parametrize("moment", ["at once", "calibrating", "gating"])
@pytest.mark.parametrize("number", list(ENDS))
def test_a_stopped_job_leaves_the_store_as_it_was_and_nobody(number: int, moment: str, tmp_path: Path) -> None:
    base, store = tmp_path / "base", Store(tmp_path / "car")
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "control.json").write_text(json.dumps({"at": moment, "how": "hang"}))
    with store.job() as work:
        before = store.add(make_artifact(work / "candidate", "before"))
    store.promote(before.artifact_id)
    (tmp_path / "bag").mkdir()
    words = [command(tmp_path), tmp_path / "bag", "--deployment", store.root, "--model", base]
    started = Started(tmp_path / "log", RECALIBRATE, *words)
    started.wait_until(lambda: moment in started.text())
    started.assert_ended(number)
    assert store.current() == before.path
    assert [item.artifact_id for item in store.versions()] == [before.artifact_id]
    if number != signal.SIGKILL:
        assert list((store.root / "work").iterdir()) == []
    with store.job() as work:  # the lock is free, and what was left is swept
        assert [place.name for place in work.parent.iterdir()] == [work.name]


@pytest.mark.parametrize("number", list(ENDS))
def test_a_demonstration_that_is_stopped_while_its_model_loads_leaves_nobody(number: int, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    from driving_rig import TEST, free_domain
    from fake_driving_node import make_model

    model, out = make_model(tmp_path / "model", load_s=PATIENCE_S), tmp_path / "out"
    words = ["--model", model, "--out", out, "--domain", free_domain(), "--headless"]
    started = Started(tmp_path / "log", DEMO, TEST / "fake_driving_node.py", *words)
    driver = out / "driving_node.log"
    started.wait_until(lambda: driver.exists() and "loading" in driver.read_text())
    started.assert_ended(number, *([130] if number == signal.SIGTERM else []))  # children are ended in order
    assert not (out / "report.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_has_to_be_ended_by_force_ends_with_1(number: int, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    started = Started(tmp_path / "log", HANGING)
    started.wait_until(lambda: "hanging" in started.text())
    assert started.end(number) == 1, started.text()
    assert "Traceback" not in started.text()
