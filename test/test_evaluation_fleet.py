"""Ray gives what one process gives; without Ray the reason is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fake_driver import spec
from recorded_drives import make_bag

from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import Request, evaluate
from owled_ros.evaluation.fleet import evaluate_on_fleet
from owled_ros.evaluation.result import without_timings
from owled_ros.evaluation.scenario import Scenario


def test_without_ray_the_reason_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OwledError, match="pip install 'ray'"):
        evaluate_on_fleet(Request([tmp_path], [spec()], tmp_path / "out", Scenario()), "local")


@pytest.mark.slow
def test_a_cluster_gives_what_one_process_gives(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the optional package ray is not installed")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a cluster of this test alone: no token in the home directory
    bags = [make_bag(tmp_path / name) for name in ("one", "two")]
    (alone,) = evaluate(Request(bags, [spec()], tmp_path / "alone", Scenario()))
    (together,) = evaluate_on_fleet(Request(bags, [spec()], tmp_path / "together", Scenario(), processes=2), "local")
    lines = [[without_timings(line) for line in path.read_text().splitlines()] for path in (alone.path, together.path)]
    assert lines[0] == lines[1]
