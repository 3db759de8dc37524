"""The mark of a frame in work: seen by others, gone with its owner, never waited for; and the inference thread that sets it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from owled_ros import driving_mark
from owled_ros.driving_mark import DrivingMark, DrivingWatch, file_of
from owled_ros.onboard import worker as worker_room
from owled_ros.onboard.worker import Worker

OWNER = """
import sys, time
from pathlib import Path
from owled_ros.driving_mark import DrivingMark
with DrivingMark(Path(sys.argv[1])):
    print("marked", flush=True)
    time.sleep(600)
"""


def test_a_mark_is_seen_as_long_as_any_driver_sets_one(tmp_path: Path) -> None:
    watch = DrivingWatch(tmp_path / "gpu")
    one, other = DrivingMark(tmp_path / "gpu"), DrivingMark(tmp_path / "gpu")
    assert watch.works
    assert not watch.driving()
    with one:
        assert watch.driving()
        with other:
            assert watch.driving()
        assert watch.driving()
    assert not watch.driving()
    with one:  # again, for the next frame
        assert watch.driving()
        one.close()  # and gone with what it is set on
        assert not watch.driving()
    watch.close()
    assert not watch.driving()


def test_who_looks_sets_nothing_that_another_could_see(tmp_path: Path) -> None:
    one, other = DrivingWatch(tmp_path / "gpu"), DrivingWatch(tmp_path / "gpu")
    assert not one.driving()
    assert not other.driving()


def test_a_killed_driver_leaves_no_mark(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", OWNER, str(tmp_path / "gpu")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "marked\n"
            watch = DrivingWatch(tmp_path / "gpu")
            assert watch.driving()
        finally:
            owner.send_signal(signal.SIGKILL)
    assert not watch.driving()


def test_where_no_file_can_be_made_nobody_is_told_and_both_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")  # somebody else's trap
    for file in (tmp_path / "no" / "gpu", tmp_path / "link"):
        watch = DrivingWatch(file)
        with DrivingMark(file):
            assert not watch.works
            assert not watch.driving()
    assert "driving and jobs cannot see each other through" in caplog.text
    assert not (tmp_path / "target").exists()
    with DrivingMark(None):
        pass


def test_a_file_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"GPU-{device.index}"))
    assert file_of("cpu") is None
    assert file_of("cuda:1") == driving_mark.DIRECTORY / "owled-driving-GPU-1"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    assert file_of("cuda") == driving_mark.DIRECTORY / "owled-driving-0"


def test_the_inference_thread_marks_a_frame_from_its_decoding_to_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []

    def stream(device: str) -> contextlib.AbstractContextManager[None]:
        entered.append(device)
        return contextlib.nullcontext()

    monkeypatch.setattr(
        worker_room, "file_of", lambda device: None if device == "cpu" else tmp_path / device.replace(":", "")
    )
    monkeypatch.setattr(worker_room, "driving_stream", stream)
    watches = {device: DrivingWatch(tmp_path / device.replace(":", "")) for device in ("cuda:0", "cuda:1")}
    seen: list[list[str]] = []

    def climb(arrival: Any, limits: Any) -> Any:
        seen.append([device for device, watch in watches.items() if watch.driving()])
        if arrival == "broken":
            raise RuntimeError
        return SimpleNamespace(reason=None, answer=None, valid=False)

    engine = SimpleNamespace(facts={"device": "cpu"}, close=lambda: None)
    ladder = SimpleNamespace(engine=engine, prefix=None, climb=climb, views=SimpleNamespace(close=lambda: None))
    worker = Worker(ladder, lambda: None, lambda: (0.0, 0.0), lambda outcome: None, lambda *told: None)  # type: ignore[arg-type, return-value]
    arrivals = ["on the cpu", "on a gpu", "broken", "on another gpu"]
    devices = iter(["cpu", "cuda:0", "cuda:0", "cuda:1"])

    def take(patience: float) -> str:
        assert not any(watch.driving() for watch in watches.values())  # between two frames
        engine.facts = {"device": next(devices)}
        if len(arrivals) == 1:
            worker._stopping.is_set = iter([False, True]).__next__  # type: ignore[method-assign]
        return arrivals.pop(0)

    worker.slot = SimpleNamespace(take=take, wake=lambda: None)  # type: ignore[assignment]
    worker._run()
    assert seen == [[], ["cuda:0"], ["cuda:0"], ["cuda:1"]]
    assert entered == ["cpu", "cuda:0", "cuda:0", "cuda:1"]
    assert not any(watch.driving() for watch in watches.values())
