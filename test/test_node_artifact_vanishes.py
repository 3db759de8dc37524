"""An artifact is deleted while a real driving node with the bundled model loads it: it goes on driving with the earlier one."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import NODE, Bench, NodeProcess, free_domain

from owled_ros.models.driving_model import resolve_model
from owled_ros.srv import LoadModel

pytestmark = pytest.mark.slow
DOMAIN = free_domain()
DELAYS_S = (0.0, 0.05, 0.15, 0.3, 0.6, 1.2)  # before the deletion; loading takes about half a second
PATIENCE_S = 120.0


def test_the_earlier_model_drives_on(tmp_path: Path) -> None:
    bundled = resolve_model("")
    arguments = [
        "-m",
        "owled_ros.nodes",
        "driving_node",
        "--ros-args",
        "-p",
        "confidence_floor:=0.0",
        "-p",
        "max_frame_age_s:=30.0",
    ]
    with NodeProcess(arguments, DOMAIN, tmp_path / "log") as process, Bench(DOMAIN) as bench:
        process.wait_for_text("odometry <-", PATIENCE_S)
        expected = bench.drive()["model_id"]
        client = bench.node.create_client(LoadModel, f"{NODE}/load_model")
        assert bench.spin_until(client.service_is_ready)
        outcomes = []
        for number, delay in enumerate(DELAYS_S):
            copy = shutil.copytree(bundled, tmp_path / f"copy{number}")
            future = client.call_async(LoadModel.Request(path=str(copy)))
            begun = time.monotonic()
            bench.spin_until(lambda begun=begun, delay=delay: time.monotonic() - begun >= delay)  # type: ignore[misc]
            shutil.rmtree(copy)
            assert bench.spin_until(future.done, PATIENCE_S)
            answer = future.result()
            assert answer.success or answer.message, "a refusal has words"
            outcomes.append(answer.success)
            expected = answer.model_id if answer.success else expected
            assert bench.drive()["model_id"] == answer.model_id == expected
        assert not outcomes[0], "deleted before it was read"
        assert process.process.poll() is None
    assert "Traceback" not in process.text()
