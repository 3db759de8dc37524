"""Unknown models are tried in a process of their own: what it may take, and what becomes of those that take more."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from owled_ros.errors import OwledError
from owled_ros.models.driving_model import bundled_model
from owled_ros.onboard import quarantine
from owled_ros.onboard.loading import ModelChoice
from owled_ros.onboard.quarantine import TrialLimits, check_files, try_in_child

LIMITS = TrialLimits(seconds=240.0)


def choice(path: Path | str) -> ModelChoice:
    return ModelChoice(str(path), "cpu", "float32", 1, "torch")


def copy_of_bundled(target: Path) -> Path:
    """Copy with links to the weights, which are never changed."""
    target.mkdir()
    for file in bundled_model().iterdir():
        if file.suffix == ".json":
            (target / file.name).write_bytes(file.read_bytes())
        elif file.suffix == ".safetensors":
            (target / file.name).symlink_to(file)
    return target


def children() -> int:
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return found.stdout.count("onboard.quarantine")


def test_a_sound_model_passes_and_leaves_no_process(tmp_path: Path) -> None:
    try_in_child(choice(copy_of_bundled(tmp_path / "model")), LIMITS)
    assert children() == 0


def test_a_broken_model_fails_with_its_own_words(tmp_path: Path) -> None:
    model = copy_of_bundled(tmp_path / "model")
    (model / "config.json").write_text("[]")
    with pytest.raises(OwledError, match=r"config\.json|model"):
        try_in_child(choice(model), LIMITS)


def test_memory_and_time_have_an_end(tmp_path: Path) -> None:
    model = copy_of_bundled(tmp_path / "model")
    with pytest.raises(OwledError, match="took more than 100 MB of memory"):
        try_in_child(choice(model), TrialLimits(240.0, memory_mb=100.0))
    with pytest.raises(OwledError, match=r"not ready within 0\.2 s"):
        try_in_child(choice(model), TrialLimits(0.2))
    with pytest.raises(OwledError, match="cancelled"):
        try_in_child(choice(model), LIMITS, cancelled=lambda: True)
    assert children() == 0


def test_ten_million_layers_are_stopped(tmp_path: Path) -> None:
    model = copy_of_bundled(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 10_000_000
    (model / "config.json").write_text(json.dumps(config))
    started = time.monotonic()
    with pytest.raises(OwledError):
        try_in_child(choice(model), TrialLimits(30.0, memory_mb=1_500.0))
    assert time.monotonic() - started < 120.0
    assert children() == 0


def test_a_child_that_dies_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "__name__", "os as _; import os; os.abort")  # the child's program ends in a crash
    with pytest.raises(OwledError, match="ended the process that tried it"):
        try_in_child(choice(copy_of_bundled(tmp_path / "model")), LIMITS)


def test_only_regular_files_of_a_sensible_size_are_looked_at(tmp_path: Path) -> None:
    model = copy_of_bundled(tmp_path / "model")
    check_files(model)
    (model / "folder").mkdir()
    os.mkfifo(model / "folder" / "driving.json")
    with pytest.raises(OwledError, match="not a regular file"):
        check_files(model)
    (model / "folder" / "driving.json").unlink()
    with open(model / "notes.txt", "wb") as stream:
        stream.truncate(quarantine.MAX_TEXT_BYTES + 1)
    with pytest.raises(OwledError, match="no such file of a model is so large"):
        check_files(model)
    (model / "notes.txt").unlink()
    (model / "gone.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OwledError, match="cannot be read"):
        check_files(model)
    with pytest.raises(OwledError, match="does not exist"):
        check_files(tmp_path / "none")
