"""Whole tunings of tiny models: the result loads, a killed run goes on to the same weights, what cannot work is said before."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vlms import ROLES, save_family
from tuning_drives import make_drives

from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import DrivingProfile, profile_text, read_profile
from owled_ros.driving.profile_parts import Call
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.models.load import load_model
from owled_ros.models.manifest import read_manifest, verify
from owled_ros.models.tuned import read_record, traces_of_tuning
from owled_ros.pruning.prune import PruneConfig, prune
from owled_ros.tuning import curves, state
from owled_ros.tuning.material import choose_material, traces_of
from owled_ros.tuning.settings import TuneRequest, TuneSettings
from owled_ros.tuning.tune import Tuned, tune

SPEC = PointsSpec(count=2, step_s=0.5, decimals=1)
SHORT = DrivingProfile(calls=(Call(user="{images}{speed:.0f} plan?", max_tokens=40),), answer=SPEC)
FAST = TuneSettings(steps=4, batch_size=4, held_out_frames=3, frames=8, learning_rate=1e-3, measure_every=2, threads=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SmolVLM with a short profile, and two bags of two drives each."""
    home = make_home(tmp_path_factory.mktemp("tuning"))
    make_drives(home / "b", day=1)
    return home


def make_home(home: Path) -> Path:
    save_family("smolvlm", home / "model")
    (home / "model" / "driving.json").write_text(profile_text(SHORT))
    make_drives(home / "a")
    return home


def request_of(home: Path, out: Path, **changes: Any) -> TuneRequest:
    settings = replace(FAST, **{name: changes.pop(name) for name in list(changes) if hasattr(FAST, name)})
    return replace(TuneRequest(home / "model", (home / "a",), out, accept_little=True, settings=settings), **changes)


class Killed(BaseException):
    """What ends a run in the middle."""


def tuned_until(request: TuneRequest, last: int) -> None:
    """Run as far as a step, and die there."""

    def report(done: int, total: int, detail: str) -> None:
        if done >= last and detail.startswith("loss"):
            raise Killed

    with pytest.raises(Killed):
        tune(request, report)


def step_of(run: Path) -> int:
    """The step of the last state, and that it is the only one."""
    found = state.last_state(run)
    assert found is not None
    assert len(list(run.glob(f"{state.CHECKPOINT}*"))) == 1
    return int(json.loads((found / "state.json").read_text())["step"])


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(model).state_dict())


def same(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves of one run are drawn, that of `straight`: a second each."""
    monkeypatch.setattr("owled_ros.tuning.tune.draw", lambda directory: directory / curves.DRAWING)


@pytest.fixture(scope="module")
def straight(home: Path) -> Tuned:
    """A run that nothing stopped."""
    return tune(request_of(home, home / "straight"))


def test_the_result_is_a_model_that_drives(home: Path, straight: Tuned) -> None:
    before, after = weights_of(home / "model"), weights_of(straight.model)
    assert before.keys() == after.keys()
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert read_profile(straight.model) == SHORT
    record = read_record(straight.model)
    assert record is not None
    assert (record["steps"], record["method"], record["masked"], record["frames"]) == (4, "all", False, 8)
    assert len(record["traces"]["frame_fingerprints"]) == 8
    assert len(record["traces"]["drive_digests"]) == len(record["judging_drives"]) == 1
    assert straight.curves.stat().st_size > 0
    entries = curves.read_entries(home / "straight.run")
    assert [entry["step"] for entry in entries if "in_form" in entry] == [0, 2, 4]
    assert entries[-1]["hold_m"] > 0.0
    assert straight.measure.frames == 3


def kill_runs(home: Path, place: Path, method: str, *chains: str) -> list[dict[str, Any]]:
    """Kill runs at the moments of every chain, and finish them (tuning_kills.py)."""
    program = Path(__file__).parent / "tuning_kills.py"
    words = [sys.executable, str(program), str(home), str(place), method, *chains]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check_killed(found: dict[str, Any]) -> None:
    assert found["same"], found
    assert found["halves"] == 0, found
    assert found["left"] == ["out", "out.run"], found  # nothing of the killed ones
    assert found["states"] == 1, found
    assert found["measured"] == [0, 2, 4], found


def test_sigkill_in_the_middle_and_at_the_end(home: Path, straight: Tuned, tmp_path: Path) -> None:
    """While it learns, before the last state has its name, and before the model has its."""
    (found,) = kill_runs(home, tmp_path, "all", "step 3,os.rename .checkpoint-000000004,os.rename .out")
    assert [code for code, _ in found["deaths"]] == [-9] * 3, found
    check_killed(found)


def test_more_steps_go_on_from_where_it_was(home: Path, straight: Tuned, tmp_path: Path) -> None:
    shutil.copytree(straight.model, tmp_path / "out")
    shutil.copytree(home / "straight.run", tmp_path / "out.run")
    longer = tune(request_of(home, tmp_path / "out", steps=5))
    assert longer.steps == 5
    assert not same(longer.model, straight.model)
    with pytest.raises(OwledError, match="not of this run"):
        tune(request_of(home, tmp_path / "out", seed=5))
    with pytest.raises(OwledError, match="has taken 5 steps already"):
        tune(request_of(home, tmp_path / "out", steps=4))
    with state.only_one(tmp_path / "out.run"), pytest.raises(OwledError, match="another process works on"):
        tune(request_of(home, tmp_path / "out", steps=6))


def test_adapters_are_merged_and_resumed(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    monkey = pytest.MonkeyPatch()
    monkey.setattr("owled_ros.tuning.training.LOG_EVERY_S", 0.0)
    request = request_of(home, tmp_path / "one", method="lora", rank=2, steps=3, measure_every=3, save_every_s=0.0)
    tuned_until(replace(request, out=tmp_path / "two"), 2)
    one, two = tune(request), tune(replace(request, out=tmp_path / "two"))
    monkey.undo()
    assert same(one.model, two.model)
    before, after = weights_of(home / "model"), weights_of(one.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name or "fc" in name for name in changed), changed
    record = read_record(one.model)
    assert record is not None
    assert record["method"] == "lora"


def test_an_artifact_learns_with_what_is_left(home: Path, tmp_path: Path) -> None:
    batches = [{"input_ids": torch.arange(24)[None] + shift} for shift in (0, 24)]
    config = PruneConfig(
        home / "model", tmp_path / "artifact", 0.5, "magnitude", "uniform", components=("language",), dtype="float32"
    )
    prune(config, batches)
    tuned = tune(replace(request_of(home, tmp_path / "out"), model=tmp_path / "artifact"))
    manifest, before = verify(tuned.model), read_manifest(tmp_path / "artifact")
    assert manifest.tuning is not None
    assert manifest.tuning["masked"] is True
    assert (manifest.sparsity, manifest.blocks, manifest.base) == (before.sparsity, before.blocks, before.base)
    assert before.tuning is None
    assert "tuning" not in json.loads((tmp_path / "artifact/owled.json").read_text())
    pruned, learned = weights_of(tmp_path / "artifact"), weights_of(tuned.model)
    changed = 0
    for name, weight in pruned.items():
        if weight.ndim == 2 and "layers" in name and "text_model" in name:
            assert torch.equal(learned[name][weight == 0], weight[weight == 0]), name
            changed += not torch.equal(learned[name], weight)
    assert changed
    with pytest.raises(OwledError, match="fill its zeros"):
        tune(replace(request_of(home, tmp_path / "other", method="lora"), model=tmp_path / "artifact"))


def test_a_loss_that_is_no_number_keeps_the_last_state(home: Path, tmp_path: Path) -> None:
    request = request_of(home, tmp_path / "out", save_every_s=0.0)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("owled_ros.tuning.training.LOG_EVERY_S", 0.0)
    tuned_until(request, 3)
    monkey.undo()
    with pytest.raises(OwledError, match=r"no number any more.*last state.*whole.*--learning-rate"):
        tune(replace(request, settings=replace(request.settings, steps=9, learning_rate=1e30)))
    assert step_of(tmp_path / "out.run") == 2


def test_a_full_disk_leaves_the_last_state_whole(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(home, tmp_path / "out", save_every_s=0.0)
    write, count = state.save_file, 0

    def full(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 6:  # two files a state: the moments of the third
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OwledError, match="free some disk space"):
        tune(request)
    assert step_of(tmp_path / "out.run") == 2


def changed_model(home: Path, directory: Path, profile: DrivingProfile, **changes: Any) -> Path:
    save_family("smolvlm", directory, **changes)
    (directory / "driving.json").write_text(profile_text(profile))
    return directory


def test_a_template_without_images_is_refused(home: Path, tmp_path: Path) -> None:
    model = changed_model(home, tmp_path / "model", SHORT, template=ROLES.replace("IMAGE", ""))
    with pytest.raises(OwledError, match="chat template cannot hold the prompt"):
        tune(replace(request_of(home, tmp_path / "out"), model=model))


def test_an_answer_that_does_not_fit_is_refused(home: Path, tmp_path: Path) -> None:
    narrow = SHORT.model_copy(update={"calls": (SHORT.calls[0].model_copy(update={"max_tokens": 10}),)})
    model = changed_model(home, tmp_path / "model", narrow)
    with pytest.raises(
        OwledError, match=r"may have 10 tokens, but .* has \d+ with its end: raise max_tokens of call answer"
    ):
        tune(replace(request_of(home, tmp_path / "out"), model=model))


def test_a_tokenizer_without_action_tokens_is_refused(home: Path, tmp_path: Path) -> None:
    steps = [[2.5, 0.0, 0.0], [2.0, 0.0, 0.0], [2.5, 0.1, 0.1]]
    tokens = {"count": 2, "step_s": 0.5, "codebook": "steps.json", "entries": 3, "base_id": 400}
    text = json.dumps(
        {
            "format_version": 2,
            "calls": [{"user": "{images} plan?", "max_tokens": 8}],
            "answer": {"kind": "action_tokens", **tokens},
        }
    )
    save_family("smolvlm", tmp_path / "model")
    (tmp_path / "model" / "driving.json").write_text(text)
    (tmp_path / "model" / "steps.json").write_text(json.dumps(steps))
    with pytest.raises(OwledError, match=r"no token '<action_0>' with the id 400.*add the 3 action tokens"):
        tune(replace(request_of(home, tmp_path / "out"), model=tmp_path / "model"))


def test_too_little_driving_says_how_much_of_what_is_missing(home: Path, tmp_path: Path) -> None:
    # a drive of 12 s has 11 s whose next second is known; turning: 4 of its phases' seconds at 0.25 rad/s
    with pytest.raises(
        OwledError,
        match=r"0\.8\d min of driving \(there are 0\.1\d, at least 1 are needed\).*standing or stopping.*--accept-little",
    ):
        tune(replace(request_of(home, tmp_path / "out"), accept_little=False))


def test_no_drive_is_on_both_sides(home: Path, tmp_path: Path) -> None:
    request = request_of(home, tmp_path / "out")
    shutil.copytree(home / "a", tmp_path / "renamed")
    with pytest.raises(OwledError, match="a drive that was learned from cannot judge"):
        tune(replace(request, held_out=(tmp_path / "renamed",)))
    make_drives(tmp_path / "lone", drives=1)
    with pytest.raises(OwledError, match="hold one drive"):
        tune(replace(request, bags=(tmp_path / "lone",)))
    assert not (tmp_path / "out.run").exists()


def test_what_was_learned_from_before_does_not_judge(home: Path, straight: Tuned, tmp_path: Path) -> None:
    request = replace(request_of(home, tmp_path / "out"), model=straight.model, bags=(home / "a", home / "b"))
    before = traces_of_tuning(straight.model)
    for seed in range(6):  # of the four drives one was learned from
        settings = replace(request.settings, seed=seed)
        material = choose_material(replace(request, settings=settings), SHORT, VehicleParameters(), before)
        assert material.judging_drives
        assert not {*material.judging_drives} & {*before["drive_digests"]}
        traces = traces_of(material, ["f"], before)
        assert {*traces["frame_fingerprints"]} == {*before["frame_fingerprints"], "f"}
        assert {*traces["drive_digests"]} == {*before["drive_digests"], *material.drives}
    with pytest.raises(OwledError, match="tuned on before: it cannot judge"):
        tune(replace(request, bags=(home / "b",), held_out=(home / "a",)))


def test_a_model_without_profile_is_told_to_name_one(home: Path, tmp_path: Path) -> None:
    save_family("smolvlm", tmp_path / "model")
    with pytest.raises(OwledError, match=r"no driving\.json: say how it shall be asked.*points"):
        tune(replace(request_of(home, tmp_path / "out"), model=tmp_path / "model"))
    assert preset("points").answer.kind == "points"
