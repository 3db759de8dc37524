"""benchmarks/gpu.sh: every step with tiny shapes on a CPU, the script itself, and what becomes of a step that hangs or fails."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
HERE = TOP / "benchmarks" / "gpu"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the steps be imported as their processes import them."""
    monkeypatch.syspath_prepend(str(HERE))


def rows_of(monkeypatch: pytest.MonkeyPatch, file: Path, name: str) -> dict[str, dict[str, object]]:
    """Run a step here, which spares starting Python and importing torch for each; returns its rows by what they measure."""
    run, rows = importlib.import_module("run"), importlib.import_module("rows")
    script, _, words = run.STEPS[name]
    monkeypatch.setattr(sys, "argv", [script, str(file), name, "cpu", "tiny", *words])
    importlib.import_module(script.removesuffix(".py")).main()
    return {row.what: vars(row) | {"passed": row.passed} for row in rows.read_rows(file)}


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize(("name", "shape"), [("decode_7b", "llava_7b"), ("decode_3b", "qwen_3b")])
def test_decoding(name: str, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(monkeypatch, tmp_path / "rows", name)
    token = rows[f"{shape}, a decoded token"]
    assert str(token["note"]).startswith("fixed step")
    assert all(float(str(token[what])) > 0 for what in ("measured", "limit"))
    assert "the first 7 of 7 tokens equal" in str(rows[f"{shape}, a token launched anew"]["note"])
    assert f"{shape}, camera to action, 12 tokens" in rows


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("int8", "bundled model, int8, answers that stay the same"),
        ("sparse", "tiny, 60% zeros, tiles of int8"),
        ("prune", "sparsegpt, the whole command"),
        ("train", "train-mini, 1 rendering processes"),
        ("beside", "p99 beside a recalibration, times alone"),
        ("memory", "bundled model drives"),
        ("peer_compile", "llava_7b, a token of generate with static cache"),
    ],
)
def test_the_other_steps(name: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(monkeypatch, tmp_path / "rows", name)
    assert found in rows
    assert all(row["passed"] in (None, True) for row in rows.values())


@pytest.mark.usefixtures("steps")
def test_tokens_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(monkeypatch, tmp_path / "rows", "correct")
    assert rows["families whose tokens equal the CPU's in float32"]["passed"]


def test_the_script_writes_numbers_and_a_table(tmp_path: Path) -> None:
    command = [
        str(TOP / "benchmarks" / "gpu.sh"),
        str(tmp_path),
        "--tiny",
        "--device",
        "cpu",
        "--steps",
        "machine",
    ]
    environment = {"PYTHON": sys.executable, "PATH": os.defpath, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["steps"]["machine"].startswith("ended")
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {row['step']} | {row['what']} |" in table for row in found["rows"])


def test_a_machine_without_pydantic_builds_the_same_profiles() -> None:
    code = (
        "import sys; [sys.modules.update({name: None}) for name in ('rclpy', 'rosbags', 'simplejpeg', 'apsw')]; import pydantic;"
        "from owled_ros.driving.presets import preset; from owled_ros.driving.profile import read_profile;"
        "from owled_ros.models.driving_model import bundled_model;"
        "told = lambda profile: ([(vars(call)) for call in profile.calls], vars(profile.answer), vars(profile.confidence));"
        "print(told(read_profile(bundled_model())), told(preset('points').model_copy(update={'system': 'x'})));"
        "print(pydantic.__file__)"
    )
    said = []
    for place in ("", str(HERE / "bare")):
        path = os.pathsep.join(part for part in (place, str(TOP), os.environ.get("PYTHONPATH", "")) if part)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.splitlines())
    assert said[0][0] == said[1][0]
    assert said[1][1].startswith(str(HERE))
    assert not said[0][1].startswith(str(HERE))


@pytest.mark.usefixtures("steps")
def test_the_shares_of_all_steps_fit_into_eight_minutes() -> None:
    run = importlib.import_module("run")
    assert sum(share for _, share, _ in run.STEPS.values()) <= run.LIMIT_S <= 8 * 60
    assert all((HERE / script).is_file() for script, _, _ in run.STEPS.values())


@pytest.mark.usefixtures("steps")
def test_no_step_takes_the_share_of_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares 10, 20 and 30 of 60 s: what the first leaves, 4 s, is the second's; with half of the limit everything is half."""
    run = importlib.import_module("run")
    monkeypatch.setattr(run, "STEPS", {name: ("x.py", share, ()) for name, share in (("a", 10), ("b", 20), ("c", 30))})
    monkeypatch.setattr(run, "LIMIT_S", 60.0)
    assert run.time_for(["b", "c"], 60.0, 0.0) == 10.0
    assert run.time_for(["c"], 60.0, 6.0) == 24.0
    assert run.time_for([], 60.0, 30.0) == 30.0
    assert run.time_for(["b", "c"], 30.0, 0.0) == 5.0
    assert run.time_for([], 60.0, 0.0) == 60.0  # asked for alone


@pytest.mark.usefixtures("steps")
def test_a_step_for_which_no_time_is_left_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module("run")
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path), "--steps", "peer_compile", "--limit", "4"])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 1
    assert "| peer_compile | left out: no time left |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.usefixtures("steps")
def test_a_step_that_hangs_or_fails_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = importlib.import_module("run")
    (tmp_path / "slow.py").write_text(
        "import time\nfrom rows import step_arguments\n"
        "step_arguments().rows.add('before it hung', 'ms', 3.0, bar=2.0)\ntime.sleep(600)\n"
    )
    (tmp_path / "broken.py").write_text("raise SystemExit('no such thing')\n")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    known = {"slow": ("slow.py", 12, ()), "broken": ("broken.py", 20, ()), "absent": ("absent.py", 20, ())}
    monkeypatch.setattr(run, "STEPS", known)
    monkeypatch.setattr(run, "LIMIT_S", 52.0)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path / "out"), "--limit", "52"])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 1
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["steps"] == {
        "slow": "cut off after 12 s", "broken": "failed (1): no such thing", "absent": "not there yet (absent.py)"
    }  # fmt: skip
    assert [(row["what"], row["passed"]) for row in found["rows"]] == [("before it hung", False)]
    assert "| slow | before it hung | 3 ms | at most 2 **missed** |" in (tmp_path / "out" / "gpu.md").read_text()
