"""benchmarks/owled_tables.py: an untrained model, few scenes; metrics by hand, what resumes, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owled_ros.errors import OwledError
from owled_ros.evaluation.drivingqa import QaAnswer
from owled_ros.llm_driver.host import build_tiny, save
from owled_ros.llm_driver.released import Pedals, Perception, Scenario
from owled_ros.models.vector_encoder import VectorConfig
from owled_ros.pruning.sensitivity import Sensitivity

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import owled_tables
import owled_tables_report as report

SMALL = VectorConfig(hidden_size=16, num_latents=3, num_hidden_layers=2, num_attention_heads=1, intermediate_size=16)


def scene(number: int, light: str) -> Scenario:
    distance = None if light == "none" else 20.0
    return Scenario(number, "", "", Perception(3, 1, light, distance), Pedals(0.5, 0.0), 0.0)


def right(known: Scenario) -> QaAnswer:
    return QaAnswer(known.perception, known.action, 0.25)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save(*build_tiny(0, SMALL), place, "untrained")
    return place


def run(model: Path, rows: Path, *options: str) -> None:
    owled_tables.main(
        ["--rows", str(rows), "--model", str(model), "--scenes", "2", "--samples", "4", "--out", str(rows.with_suffix(".md")),
         "--figure", str(rows.with_suffix(".png")), *options]
    )  # fmt: skip


def test_metrics_by_hand() -> None:
    scenes = [scene(0, "red"), scene(1, "none"), scene(2, "red"), scene(3, "none")]
    answers = [right(known) for known in scenes]
    wrong = replace(scenes[2].perception, cars=5, light="green", light_distance=26.0)
    answers[2] = QaAnswer(wrong, Pedals(0.1, 0.0), 0.75)
    answers[3] = QaAnswer(None, None, 0.75)
    row = report.metrics_of(answers, scenes, np.array([0, 0, 1, 1]))
    assert (row["E_car"], row["E_ped"], row["read"]) == (pytest.approx(2 / 3), 0.0, 0.75)
    assert (row["Acc_TL"], row["recall_red"], row["recall_none"]) == (pytest.approx(2 / 3), 0.5, 1.0)
    assert row["recall_green"] is None
    assert (row["D_TL_m"], row["E_lon"], row["L_token"]) == (3.0, pytest.approx(0.4 / 3), 0.5)
    assert row["intervals"]["L_token"] == [0.25, 0.75]  # two blocks: one of them twice is the least and the most
    assert row["intervals"]["E_car"] == [0.0, 2.0]


def rows_of(found: dict[str, float | None]) -> dict[str, Any]:
    """Rows of a dense model whose interval is 1 to 2 everywhere, and of one pruned model."""
    dense = {name: 1.5 for name in (*report.METRICS, *report.RECALLS)}
    ends = {name: [1.0, 2.0] for name in dense}
    pruned = {**dense, "read": 1.0, **found}
    cell = {"method": "ours", "percent": 50, "part": "both", "draw": 0, **pruned}
    return {"dense": {**dense, "read": 1.0, "intervals": ends}, "ours:50:both:0": cell}


@pytest.mark.parametrize(
    ("found", "left"),
    [
        ({"E_car": 1.9, "Acc_TL": 1.1}, []),
        ({"E_car": 0.5, "Acc_TL": 3.0}, []),  # better than the interval
        ({"E_car": 2.1, "Acc_TL": 0.9}, ["E_car", "Acc_TL"]),
        ({"D_TL_m": None, "read": 0.9}, ["D_TL_m", "read"]),
    ],
)
def test_what_leaves_the_interval(found: dict[str, float | None], left: list[str]) -> None:
    rows = rows_of(found)
    assert report.Table(rows).left(rows["ours:50:both:0"]) == left
    told = f"every metric within the interval in {0 if left else 1} of 1 draws"
    assert told in report.markdown(rows)


def test_a_killed_run_resumes_and_a_cell_made_anew_is_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    options = ("--percent", "50", "--part", "llm", "--method", "magnitude", "owled", "--draws", "1")
    run(model, rows, *options)
    whole = rows.read_text()
    keys = [json.loads(line)["key"] for line in whole.splitlines()]
    assert keys == ["setting", "constant", "dense", "magnitude:50:llm:0", "owled:50:llm:0"]
    assert "(rows.png)" in rows.with_suffix(".md").read_text()
    assert "| 50 % | OWLed |" in rows.with_suffix(".md").read_text()
    assert rows.with_suffix(".png").stat().st_size > 0
    last = json.loads(whole.splitlines()[-1])
    assert last["sparsity"] == pytest.approx(0.5, abs=1e-3)

    rows.write_text(whole[:-40])  # killed while it wrote the last row
    run(model, rows, *options)
    again = rows.read_text().splitlines()
    assert again[:-1] == whole.splitlines()[:-1]
    assert not report.unequal(last, json.loads(again[-1]))

    capsys.readouterr()
    run(model, rows, "--cell", "owled:50:llm")
    told = capsys.readouterr()
    assert not report.unequal(last, json.loads(told.out))
    assert f"as in {rows}" in told.err
    assert rows.read_text().splitlines() == again  # it adds nothing

    with pytest.raises(SystemExit, match="samples 4, this run has 6"):
        run(model, rows, "--samples", "6")


def test_what_is_refused(model: Path, tmp_path: Path) -> None:
    for text in ("ours:50", "theirs:50:both", "ours:50:all", "ours:0:both", "ours:half:both", "magnitude:50:both:1"):
        with pytest.raises(OwledError, match="is no cell"):
            owled_tables.parse_cell(text)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(SystemExit, match="holds no LlmDriver"):
        run(tmp_path, tmp_path / "rows.jsonl")
    with pytest.raises(SystemExit, match="does not exist"):
        run(model, tmp_path / "rows.jsonl", "--data", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="--samples is 1; expected 4"):
        run(model, tmp_path / "rows.jsonl", "--samples", "1")
    with pytest.raises(SystemExit, match="--scenes is 0"):
        run(model, tmp_path / "rows.jsonl", "--scenes", "0")
    assert not (tmp_path / "rows.jsonl").exists()


def test_the_encoder_is_pruned_less_where_it_costs_more() -> None:
    bench = owled_tables.Bench(Path(), (), None, (), 8)
    costs = {"vision": {0.3: 0.2, 0.7: 0.8}, "language": {0.3: 0.1, 0.7: 0.4}}
    losses = {name: {level: 1.0 + cost for level, cost in curve.items()} for name, curve in costs.items()}
    bench.sensitivities[0] = Sensitivity(1.0, losses, {"vision": 100, "language": 100})
    budgets = bench._budgets(owled_tables.Cell("owled", 50, "both"))
    assert sum(budgets.values()) == pytest.approx(1.0)
    assert budgets["vision"] < 0.5 < budgets["language"]


def test_a_part_whose_budget_is_none_stays_dense(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owled_tables.Bench, "_budgets", lambda self, cell: {"vision": 0.5, "language": 0.0})
    run(model, tmp_path / "rows.jsonl", "--cell", "owled:10:both")
    told = json.loads(capsys.readouterr().out)
    assert told["budgets"] == {"vision": 0.5, "language": 0.0}
    assert 0.0 < told["sparsity"] < 0.25  # of both parts: half of the smaller one


def test_calibrations_share_no_scene() -> None:
    scenes: Any = list(range(64))
    bench = owled_tables.Bench(Path(), (), None, scenes, 8)
    taken = [bench._driven(number, 8) for number in range(6)]
    assert len({item for one in taken for item in one}) == 48
