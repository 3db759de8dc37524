"""What goes wrong in a tuning is said: a full disk wherever it writes, collapse, a lost form, a tokenizer that cannot write the form."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_tuning_run import SHORT, SPEC, make_home, request_of, step_of

from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import calibration_overlap
from owled_ros.evaluation.run import EngineSpec
from owled_ros.models import write
from owled_ros.tuning import curves, examples, training
from owled_ros.tuning import tune as tuning
from owled_ros.tuning.checks import check_read_back
from owled_ros.tuning.measuring import Measure
from owled_ros.tuning.tune import tune

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("faults"))


def full(*_: Any, **__: Any) -> None:
    raise FULL


def test_a_disk_that_is_full_at_the_end_costs_nothing_that_was_learned(home: Path, tmp_path: Path) -> None:
    """While examples are made, then while the model is written, then for the drawing alone; the same command finishes each time."""
    request = request_of(home, tmp_path / "out", steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "_store", full)
        with pytest.raises(OwledError, match=r"No space left.*free some disk space"):
            tune(request)
    assert [path.name for path in (tmp_path / "out.run").iterdir()] == ["lock"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "copy_companions", full)
        with pytest.raises(OwledError, match=r"cannot write .*out.*No space left"):
            tune(request)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.run"]
    assert step_of(tmp_path / "out.run") == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "draw", full)
        tuned = tune(request)
    assert any("curves could not be drawn" in note for note in tuned.notes)
    assert (tuned.model / "model.safetensors").is_file()
    drives = tuning.read_record(tuned.model)["traces"]["drive_digests"]  # type: ignore[index]
    found = calibration_overlap(EngineSpec(str(tuned.model), "tuned"), [], [[drives[0], "another"]])
    assert found == {"known": True, "shared_frames": 0, "shared_drives": 1}


def test_a_line_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / curves.LINES).mkdir()
    with pytest.raises(OwledError, match="the last state is whole: free some disk space"):
        curves.add_entry(tmp_path, {"step": 1})
    (tmp_path / curves.LINES).rmdir()
    curves.add_entry(tmp_path, {"step": 1})
    monkeypatch.setattr("owled_ros.files.write_atomic", full)
    with pytest.raises(OwledError, match="the last state is whole"):
        curves.cut_back(tmp_path, 1)


def test_a_prompt_that_does_not_fit_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "context_of", lambda _: 20)
    with pytest.raises(
        OwledError, match=r"question and answer of call answer have \d+ tokens, the model reads 20: show fewer"
    ):
        tune(request_of(home, tmp_path / "out"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[[4.1, 0.0], [8.3, 0.0", "which cannot be read .*whose characters it has"),
        ("[[4.1, 0.0], [8.8, 0.0]]", "which means another plan"),
    ],
)
def test_a_tokenizer_that_cannot_write_the_form_is_refused(said: str, words: str) -> None:
    prompter = SimpleNamespace(decode=lambda ids, keep_special: said)
    engine: Any = SimpleNamespace(profile=SHORT, chat=SimpleNamespace(prompter=prompter))
    encoded: Any = SimpleNamespace(answer=(1, 2, 3))
    with pytest.raises(OwledError, match=words):
        check_read_back(engine, SPEC.make(Path()), encoded, "[[4.1, 0.0], [8.3, 0.0]]", VehicleParameters())


def test_what_a_model_without_the_form_needs(tmp_path: Path) -> None:
    assert curves.last_loss(tmp_path) is None
    for step, loss in enumerate((2.0, 0.004)):
        curves.add_entry(tmp_path, {"step": step, "loss": loss})
        curves.add_entry(tmp_path, {"step": step, "in_form": 0.0})
    assert curves.last_loss(tmp_path) == 0.004
    assert "by heart (loss 0.004), so more steps do not help" in tuning._more_of(0.004)
    assert "more --steps" in tuning._more_of(0.4)


def measured(tmp_path: Path, *measures: Measure) -> None:
    """Measure as a run does, at steps 0, 2, 4, …"""
    left = list(measures)
    nothing = SimpleNamespace(eval=lambda: None)
    loop: Any = SimpleNamespace(
        learner=SimpleNamespace(model=nothing), held_out=SimpleNamespace(measure=lambda engine: left.pop(0)), engine=None,
        pace=SimpleNamespace(measured=lambda seconds: None, steps=8), directory=tmp_path, report=lambda *_: None, best_in_form=0.0,
    )  # fmt: skip
    for number in range(len(measures)):
        training._measured(loop, 2 * number)


def test_collapse_and_a_lost_form_are_said_while_it_learns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = Measure(16, 0.5, 0.5, 1.0, 2.0, 2.5, 3.0, False, "[[1.0, 0.0]]")
    collapsed = Measure(16, 1.0, 1.0, 2.0, 2.0, 2.5, 3.0, True, "[[7.0, 0.0]]")
    lost = Measure(16, 0.0, 0.0, None, 2.0, 2.5, 3.0, False, "road")
    caplog.set_level(logging.WARNING, "owled_ros.tuning")
    measured(tmp_path, collapsed, good)  # before the first step it is what the model was
    assert caplog.text == ""
    measured(tmp_path, good, collapsed)
    assert "collapse: all 16 held-out answers are the same, '[[7.0, 0.0]]'" in caplog.text
    caplog.clear()
    measured(tmp_path, good, lost)
    assert "lost the form" in caplog.text
    assert "collapse" not in caplog.text
