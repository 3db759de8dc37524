"""What a model costs while it runs: rounds take turns, medians leave out the first, and what cannot be run says why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from owled_ros.errors import OwledError
from owled_ros.evaluation import running_cost
from owled_ros.evaluation.running_cost import CostTable, RunningCost, Way, measure, table_of, ways_of

PLENTY = 1 << 40


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_cost, "CHILD", "stub_cost_child")
    monkeypatch.setattr(running_cost, "available_bytes", lambda: PLENTY)


def model(place: Path, **says: Mapping[str, Any]) -> Path:
    """Make a directory of ten weights that costs what it says by runtime."""
    place.mkdir()
    save_file({"weight": torch.zeros(10)}, place / "model.safetensors")
    (place / "cost.json").write_text(json.dumps(says))
    return place


def turns_of(place: Path) -> list[str]:
    return [line.rsplit(" ", 1)[0] for line in (place / "turns").read_text().splitlines()]


def test_rounds_take_turns_and_the_first_one_warms_up(tmp_path: Path) -> None:
    dense = model(tmp_path / "dense", torch={"token_ms": [90, 4, 6, 5], "action_ms": 30.0})
    half = model(
        tmp_path / "half",
        torch={"token_ms": [9, 5, 5, 5], "action_ms": 31.0},
        sparse={"token_ms": [9, 1, 3, 2], "action_ms": 10.0, "loaded": {"disk_bytes": 17}},
    )
    (half / "packed.owled").write_bytes(b".")
    table = measure(ways_of(dense, half), threads=2, rounds=3)
    assert turns_of(tmp_path) == ["dense torch", "half torch", "half sparse"] * 4
    size = (dense / "model.safetensors").stat().st_size
    assert table.rows == (
        RunningCost("dense", size, 1003, 400, 5.0, 30.0),
        RunningCost("pruned", size, 1003, 400, 5.0, 31.0),
        RunningCost("packed", 17, 1003, 400, 2.0, 10.0),
    )
    assert (table.threads, table.rounds, table.interleaved) == (2, 3, True)
    assert table_of(json.loads(json.dumps(table.as_json()))) == table
    left = [int(line.split()[-1]) for line in (tmp_path / "turns").read_text().splitlines()]
    assert not any(psutil.pid_exists(pid) for pid in left)


def test_what_was_not_packed_is_listed_with_the_reason(tmp_path: Path) -> None:
    dense = model(tmp_path / "dense", torch={"token_ms": [1, 1]})
    (row,) = (way for way in ways_of(dense, dense, "it has sliding windows") if way.name == "packed")
    assert row.problem == "not packed: it has sliding windows"
    table = measure([Way("dense", dense), row], rounds=1)
    assert table.rows[1] == RunningCost("packed", note="not packed: it has sliding windows")
    assert table.rows[0].token_ms == 1.0
    assert ways_of(dense, dense)[2].problem == f"not packed: `owled pack {dense}` does it"


def test_a_model_that_cannot_be_run_and_a_process_that_dies_leave_the_others_alone(tmp_path: Path) -> None:
    ways = [
        Way("refused", model(tmp_path / "a", torch={"problem": "it has no chat template"})),
        Way("dies", model(tmp_path / "b", torch={"token_ms": [1, 1, 1], "dies_at": 1})),
        Way("runs", model(tmp_path / "c", torch={"token_ms": [1, 2, 2]})),
    ]
    refused, dies, runs = measure(ways, rounds=2).rows
    assert refused.note == "not run: it has no chat template"
    assert dies.note == "not run: its process ended (SIGKILL)"
    assert dies.token_ms is None
    assert (runs.token_ms, runs.action_ms, runs.note) == (2.0, None, "")


def test_memory_decides_whether_they_run_together_one_by_one_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = {"token_ms": [1, 1, 1]}
    ways = [Way("a", model(tmp_path / "a", torch=says)), Way("b", model(tmp_path / "b", torch=says))]
    monkeypatch.setattr(running_cost, "available_bytes", lambda: 700_000_000)  # for one process, not for two
    table = measure(ways, rounds=2)
    assert not table.interleaved
    assert turns_of(tmp_path) == ["a torch"] * 3 + ["b torch"] * 3
    monkeypatch.setattr(running_cost, "available_bytes", lambda: 100_000_000)
    table = measure(ways, rounds=2)
    assert table.rows[0].note == "not run: it needs about 0.6 GB, 0.1 GB are free"
    assert len(turns_of(tmp_path)) == 6


def test_no_round_begins_after_the_time_is_up_but_one_always_counts(tmp_path: Path) -> None:
    way = Way("a", model(tmp_path / "a", torch={"token_ms": [9, 3]}))
    table = measure([way], rounds=5, budget_s=0.0)
    assert (table.rounds, table.rows[0].token_ms) == (1, 3.0)


@pytest.mark.parametrize("content", [{}, {"rows": [{"nme": 1}]}, {"rows": [], "threads": "x"}, {"rows": 3}])
def test_a_section_that_cannot_be_read_is_a_sentence(content: dict[str, Any]) -> None:
    with pytest.raises(OwledError, match="cost section"):
        table_of(content)


def test_the_table_fits_eighty_columns() -> None:
    from rich.console import Console

    from owled_ros.commands.inspect import cost_table

    rows = (
        RunningCost("dense", 16_700_000_000, 33_812_345_678, 412_000_000, 1234.5, 56789.1),
        RunningCost(
            "packed", note="not packed: the packed decoder cannot run /models/my model: it has sliding windows"
        ),
    )
    console = Console(width=80, record=True)
    for part in cost_table(CostTable(rows, 4, 1, False)):
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "16700.0" in text
    assert "33812.3" in text
    assert "ms per token" in text
    assert "1234" in text
    assert "it has sliding windows" in " ".join(text.split())
