"""What stands beside a pruned model: found by hash and settings, made on request, shown and never judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_driver import spec
from recorded_drives import make_bag
from stored_artifacts import make_artifact
from typer.testing import CliRunner

from owled_ros.commands.counterpart import make_uniform
from owled_ros.errors import OwledError
from owled_ros.evaluation.beside import Beside, find_beside, with_references
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.report import write_html
from owled_ros.evaluation.result import read_result
from owled_ros.evaluation.run import EngineSpec
from owled_ros.evaluation.scenario import Scenario
from owled_ros.models.load import source_of
from owled_ros.models.manifest import read_manifest, write_manifest

EASY = Scenario.model_validate({"conditions": {"must_beat": []}})


def make_model(path: Path, weights: bytes = b"dense") -> Path:
    """Write a directory that has the hash of a model; nothing loads it."""
    from safetensors.numpy import save_file

    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    import numpy as np

    save_file({"w": np.frombuffer(weights, np.uint8)}, path / "model.safetensors")
    return path


def pruned(path: Path, base: Path, allocation: str = "block0", **changes: Any) -> Path:
    """Write an artifact of a base; `changes` are settings, or its calibration_sha256."""
    make_artifact(path, path.name)
    manifest = read_manifest(path)
    calibration = changes.pop("calibration_sha256", "c")
    settings = {"sparsity": 0.5, "score": "wanda", "allocation": allocation, **changes}
    write_manifest(
        path,
        manifest.model_copy(
            update={
                "base": manifest.base.model_copy(update={"name": base.name, "sha256": source_of(base).sha256}),
                "method": manifest.method.model_copy(update={"allocation": allocation, "settings": settings}),
                "calibration_sha256": calibration,
            }
        ),
    )
    return path


def test_both_are_found_beside_the_artifact(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    artifact = pruned(tmp_path / "half", base)
    pruned(tmp_path / "a-other-sparsity", base, "uniform", sparsity=0.6)
    pruned(tmp_path / "b-other-calibration", base, "uniform", calibration_sha256="d")
    pruned(tmp_path / "c-not-uniform", base, "owl")
    alone = find_beside(artifact)
    assert (alone.dense, alone.uniform, alone.wants_uniform) == (base, None, True)
    assert "--make-uniform" in alone.notes[0]
    even = pruned(tmp_path / "z-even", base, "uniform", owl_lambda=0.2)  # what only spreads zeros may differ
    assert find_beside(artifact) == Beside(base, even)
    assert find_beside(even) == Beside(base)  # it is uniform itself: nothing is missing


def test_a_name_alone_is_not_the_model(tmp_path: Path) -> None:
    artifact = pruned(tmp_path / "half", make_model(tmp_path / "elsewhere" / "base"))
    make_model(tmp_path / "base", b"other")
    found = find_beside(artifact)
    assert found.dense is None
    assert "give it with --dense" in found.notes[0]
    assert find_beside(artifact, dense=tmp_path / "elsewhere/base").dense == tmp_path / "elsewhere/base"
    with pytest.raises(OwledError, match=r"is not what .* was pruned from"):
        find_beside(artifact, dense=tmp_path / "base")


def test_a_model_that_is_judged_too_is_recognised_whatever_it_is_called(tmp_path: Path) -> None:
    base = make_model(tmp_path / "elsewhere" / "base")
    artifact = pruned(tmp_path / "half", base)
    renamed = (tmp_path / "elsewhere" / "base").rename(tmp_path / "elsewhere" / "my-model")
    even = pruned(tmp_path / "far/even", renamed, "uniform")
    stranger = make_model(tmp_path / "other", b"other")
    found = find_beside(artifact, given=[stranger, renamed, even])
    assert (found.dense, found.uniform, found.notes) == (renamed, even, ())


def test_a_given_uniform_model_must_be_one_and_differences_are_told(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    artifact = pruned(tmp_path / "half", base)
    other = pruned(tmp_path / "even/other", base, "uniform", sparsity=0.6, calibration_sha256="d")
    found = find_beside(artifact, uniform=other)
    assert found.uniform == other
    assert found.notes == ("the uniform model other differs in more than the allocation: sparsity, calibration",)
    with pytest.raises(OwledError, match="is no uniform counterpart"):
        find_beside(artifact, uniform=pruned(tmp_path / "even/owl", base, "owl"))


def test_a_model_that_is_judged_anyway_is_not_run_twice(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("half", "third", "base", "even")]
    specs = [EngineSpec(str(path), path.name) for path in paths[:3]]
    found = [Beside(paths[2], paths[3]), Beside(paths[2], None, ("no uniform",)), None]
    everything, told = with_references(specs, found)
    assert [(item.name, item.role) for item in everything[3:]] == [("even", "uniform")]
    assert told == {
        "half": {"dense": "base", "uniform": "even", "notes": []},
        "third": {"dense": "base", "uniform": None, "notes": ["no uniform"]},
    }
    assert everything[3].runtime == "torch"  # `half` is not packed, so neither runtime has an advantage


def test_references_are_shown_and_not_judged(tmp_path: Path) -> None:
    judged = spec("seeing")
    beside = EngineSpec("mute", "base", loader="fake_driver:load", role="dense")
    told = {"seeing": {"dense": "base", "uniform": None, "notes": ["no uniformly pruned model is shown beside it"]}}
    request = EvaluationRequest([make_bag(tmp_path / "bag")], [judged, beside], tmp_path / "out", EASY, beside=told)
    results = evaluate(request)
    assert [(result.role, result.success) for result in results] == [("judged", True), ("dense", False)]
    assert read_result(tmp_path / "out/seeing").metrics["beside"] == told["seeing"]
    page = write_html(results, tmp_path / "report.html").read_text()
    assert '<span class="badge failed">' not in page  # a dense model that says nothing does not fail the run
    assert "no uniformly pruned model is shown beside it" in page
    assert "seeing against base (dense)" in page


@pytest.mark.slow
def test_pruning_leaves_what_evaluation_needs(tmp_path: Path) -> None:
    """Calibrated drives are refused, the dense model is found, the uniform one is made from the same calibration."""
    import typer

    from owled_ros.commands import evaluate as evaluate_command
    from owled_ros.commands import prune as prune_command

    app = typer.Typer()
    prune_command.register(app)
    evaluate_command.register(app)
    bag, fresh = make_bag(tmp_path / "bag", images=20), make_bag(tmp_path / "fresh", images=4, drives=2)

    def run(*words: object) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words])

    half = tmp_path / "half"
    done = run(
        "prune",
        "mini",
        half,
        "--bag",
        bag,
        "--samples",
        6,
        "--sparsity",
        0.3,
        "--score",
        "wanda",
        "--allocation",
        "block0",
        "--no-cost",
        "--no-pack",
    )
    assert done.exit_code == 0, done.output
    entry = read_manifest(half).calibration[0]
    assert 1 <= len(entry["frame_fingerprints"]) <= 4  # two questions about each image
    assert len(entry["drive_digests"]) == 1
    with pytest.raises(OwledError, match="calibrated on bag; give each with --calibration"):
        make_uniform(half, find_beside(half).dense, tmp_path / "even")
    other = make_bag(tmp_path / "other/bag", images=21)
    with pytest.raises(OwledError, match="not those that"):
        make_uniform(half, find_beside(half).dense, tmp_path / "even", [other])
    options = ["-m", half, "--camera-test", 0, "--no-report", "--make-uniform", "--calibration", bag]
    done = run("evaluate", bag, fresh, "--out", tmp_path / "out", *options)
    assert done.exit_code == 1
    found = read_result(tmp_path / "out/half")
    assert "calibration_drives_in_evaluation 0, measured 1" in found.summary
    assert found.metrics["calibration"]["shared_frames"] == len(entry["frame_fingerprints"])
    assert found.metrics["beside"] == {"dense": "mini", "uniform": "half-uniform", "notes": []}
    even = read_manifest(tmp_path / "out/beside/half-uniform")
    assert (even.method.allocation, even.calibration_sha256) == ("uniform", read_manifest(half).calibration_sha256)
    done = run("evaluate", fresh, "--out", tmp_path / "alone", "-m", half, "--camera-test", 0, "--no-report", "--alone")
    clean = read_result(tmp_path / "alone/half").metrics["calibration"]
    assert clean == {"known": True, "shared_frames": 0, "shared_drives": 0}
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["half"]
