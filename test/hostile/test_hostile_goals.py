"""Goals by the dozen at a recalibration node whose child is a stub: every one is answered, one is worked on, the node lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

import rclpy
from action_msgs.msg import GoalStatus
from driving_rig import NodeProcess, free_domain
from target import RECALIBRATION, Target
from test_recalibration_node import Bench

from owled_ros.srv import ListArtifacts

GOALS = 50


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[tuple[NodeProcess, Target, Bench]]:
    domain = free_domain()
    bench = Bench(tmp_path / "car", domain)
    with NodeProcess(bench.arguments(driving_node_required="false"), domain, tmp_path / "log") as node:
        node.wait_for_text("current: none")
        target = Target(domain, tmp_path, store=bench.store.root)
        yield node, target, bench
        target.close()
        bench.close()
        assert node.end()[0] == 0, node.text()
    assert "Traceback" not in node.text()
    assert not rclpy.ok()


def test_fifty_goals_at_once_are_all_answered(attacked: tuple[NodeProcess, Target, Bench]) -> None:
    node, target, bench = attacked
    bench.control(step_s=0.5)
    sent = [target.send_goal(seed=number, promote=False) for number in range(GOALS)]
    handles = [target.wait(future, "recalibrate") for future in sent]
    assert all(handle.accepted for handle in handles)
    listed = target.call(ListArtifacts, f"{RECALIBRATION}/list_artifacts")
    assert listed.success, "the services answer meanwhile"
    results = [target.wait(future, "the result") for future in [handle.get_result_async() for handle in handles]]
    counts = Counter(result.status for result in results)
    assert counts[GoalStatus.STATUS_SUCCEEDED] >= 1
    assert counts[GoalStatus.STATUS_SUCCEEDED] + counts[GoalStatus.STATUS_ABORTED] == GOALS
    refused = [result.result.message for result in results if result.status == GoalStatus.STATUS_ABORTED]
    assert all("another recalibration is running" in words for words in refused)
    assert node.process.poll() is None
