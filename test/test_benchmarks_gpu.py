"""benchmarks/gpu.sh with tiny shapes on a CPU: every step that is there ends, and its numbers stand in both files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
STEPS = ("machine", "decode_7b", "decode_3b", "memory", "train", "correct")
sys.path.insert(0, str(TOP / "benchmarks" / "gpu"))


@pytest.mark.slow
def test_the_script_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [
        str(TOP / "benchmarks" / "gpu.sh"),
        str(tmp_path),
        "--tiny",
        "--device",
        "cpu",
        "--limit",
        "3600",
        "--stretch",
        "20",
    ]
    done = subprocess.run(
        [*command, "--steps", ",".join((*STEPS, "sparse"))], capture_output=True, text=True, timeout=3600,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    logs = "\n".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {(row["step"], row["what"]): row for row in found["rows"]}
    assert all(found["steps"][step].startswith("ended") for step in STEPS)
    for step, shape in (("decode_7b", "llava_7b"), ("decode_3b", "qwen_3b")):
        token = rows[step, f"{shape}, a decoded token"]
        assert token["note"].startswith("fixed step")
        assert min(token["measured"], token["peer"], token["limit"]) > 0
        assert "the first 7 of 7 tokens equal" in rows[step, f"{shape}, a token launched anew"]["note"]
    assert rows["correct", "families whose tokens equal the CPU's in float32"]["passed"]
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {step} | {what} |" in table for step, what in rows)


def test_a_step_that_hangs_or_fails_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import run

    (tmp_path / "slow.py").write_text(
        "import time\nfrom rows import step_arguments\n"
        "step_arguments().rows.add('before it hung', 'ms', 3.0, bar=2.0)\ntime.sleep(600)\n"
    )
    (tmp_path / "broken.py").write_text("raise SystemExit('no such thing')\n")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(TOP / "benchmarks" / "gpu"))
    steps = {"slow": ("slow.py", 20, ()), "broken": ("broken.py", 60, ()), "absent": ("absent.py", 60, ())}
    monkeypatch.setattr(run, "STEPS", steps)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 1
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["steps"] == {
        "slow": "cut off after 20 s", "broken": "failed (1): no such thing", "absent": "not there yet (absent.py)"
    }  # fmt: skip
    assert [(row["what"], row["passed"]) for row in found["rows"]] == [("before it hung", False)]
    assert "| slow | before it hung | 3 ms | at most 2 **missed** |" in (tmp_path / "out" / "gpu.md").read_text()
