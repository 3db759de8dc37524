"""Ray gives what one process gives; without Ray the reason is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fake_driver import DEADLY, spec
from recorded_drives import IMAGE_PERIOD, START, image, make_bag, record_drive

from owled_ros.bags.write import BagWriter
from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.fleet import evaluate_on_fleet
from owled_ros.evaluation.result import without_timings
from owled_ros.evaluation.scenario import Scenario


def test_without_ray_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OwledError, match="pip install 'ray'"):
        evaluate_on_fleet(EvaluationRequest([tmp_path], [spec()], tmp_path / "out", Scenario()), "local")


@pytest.fixture
def cluster(monkeypatch):
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a cluster of this test alone: no token in the home directory


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_lost_worker_costs_only_its_bag(tmp_path):
    with BagWriter(tmp_path / "one") as bag:
        record_drive(bag, images=10)
        bag.image(START + 10 * IMAGE_PERIOD, image(DEADLY))
    bags = [tmp_path / "one", make_bag(tmp_path / "two")]
    (result,) = evaluate_on_fleet(
        EvaluationRequest(bags, [spec("dying")], tmp_path / "out", Scenario(), processes=2), "local"
    )
    assert not result.success
    assert "one: its worker was lost" in result.summary
    assert {record.bag for record in result.records} == {"two"}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_what_one_process_gives(tmp_path):
    bags = [make_bag(tmp_path / name) for name in ("one", "two")]
    (alone,) = evaluate(EvaluationRequest(bags, [spec()], tmp_path / "alone", Scenario()))
    (together,) = evaluate_on_fleet(
        EvaluationRequest(bags, [spec()], tmp_path / "together", Scenario(), processes=2), "local"
    )
    lines = [[without_timings(line) for line in path.read_text().splitlines()] for path in (alone.path, together.path)]
    assert lines[0] == lines[1]
