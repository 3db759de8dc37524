"""The whole procedure on tiny models: exact budgets everywhere, same bits again, killed runs resume, bad input is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TEXT_MODELS, VISION_MODELS, tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.load import load_model
from owled_ros.models.manifest import artifact_id, read_manifest, verify
from owled_ros.pruning.prune import PruneConfig, prune


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def _config(model: Path, output: Path, **changes: Any) -> PruneConfig:
    return replace(PruneConfig(model, output, 0.5, "wanda", "owl", dtype="float32"), **changes)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(path).state_dict())


@pytest.mark.parametrize("name", [*VISION_MODELS, *TEXT_MODELS])
def test_every_architecture_meets_its_budget_and_comes_back(name: str, tmp_path: Path) -> None:
    dense = tiny_model(name)
    dense.save_pretrained(tmp_path / name)
    components = ("vision", "projector", "language") if name in VISION_MODELS else ("language",)
    config = _config(tmp_path / name, tmp_path / "out", sparsity=0.6, score="sparsegpt", components=components)
    manifest = verify(prune(config, tiny_batches(name)))
    total = sum(block.parameters for block in manifest.blocks)
    assert abs(manifest.sparsity - 0.6) <= 1 / total + 1e-9
    pruned = load_model(tmp_path / "out")
    zeros = sum(int((parameter == 0).sum()) for parameter in pruned.parameters())
    already = sum(int((parameter == 0).sum()) for parameter in dense.parameters())  # biases start at zero
    assert zeros - already == sum(block.zeros for block in manifest.blocks)
    assert type(pruned) is type(dense)
    with torch.no_grad():
        assert bool(pruned(**tiny_batches(name)[0]).logits.isfinite().all())


@pytest.mark.parametrize("score", ["magnitude", "wanda", "sparsegpt", "admm", "pruner-zero"])
@pytest.mark.parametrize("allocation", ["uniform", "owl", "block0", "learned"])
def test_every_score_and_allocation_is_exact(score: str, allocation: str, llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "out", sparsity=0.55, score=score, allocation=allocation, learn_steps=2)
    manifest = read_manifest(prune(config, tiny_batches("llama")))
    assert sum(block.zeros for block in manifest.blocks) == round(0.55 * 18432)


@pytest.mark.parametrize(
    "more", [{"bits": 4}, {"bits": 8, "refine_steps": 0}, {"pattern": "2:4"}, {"pattern": "2:4", "bits": 4}]
)
def test_admm_goes_with_rounding_and_patterns(more: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "out", score="admm", allocation="uniform", **more)
    manifest = verify(prune(config, tiny_batches("llama")))
    assert sum(block.zeros for block in manifest.blocks) >= 18432 // 2


def test_same_seed_same_bits_and_the_name_says_so(llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "a", allocation="learned", learn_steps=3, score="sparsegpt", refine_steps=2)
    for output in ("a", "b"):
        prune(replace(config, output=tmp_path / output), tiny_batches("llama"))
    first, second = _weights(tmp_path / "a"), _weights(tmp_path / "b")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert artifact_id(read_manifest(tmp_path / "a")) == artifact_id(read_manifest(tmp_path / "b"))
    prune(replace(config, output=tmp_path / "c", seed=1), tiny_batches("llama"))
    assert artifact_id(read_manifest(tmp_path / "a")) != artifact_id(read_manifest(tmp_path / "c"))


def test_masked_scores_change_nothing_but_zeros(llama: Path, tmp_path: Path) -> None:
    prune(_config(llama, tmp_path / "out"), tiny_batches("llama"))
    dense, pruned = _weights(llama), _weights(tmp_path / "out")
    for key, weight in pruned.items():
        assert torch.equal(weight[weight != 0], dense[key][weight != 0])


def test_component_budgets(tmp_path: Path) -> None:
    tiny_model("llava").save_pretrained(tmp_path / "llava")
    budgets = {"vision": 0.3, "language": 0.7}
    config = _config(tmp_path / "llava", tmp_path / "out", budgets=budgets)
    manifest = read_manifest(prune(config, tiny_batches("llava")))
    for component, wanted in budgets.items():
        part = [block for block in manifest.blocks if block.component == component]
        assert sum(block.zeros for block in part) == round(wanted * sum(block.parameters for block in part))
    assert "model.multi_modal_projector" in manifest.skipped


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@pytest.mark.parametrize("score", ["wanda", "sparsegpt"])
def test_n_of_m_patterns(pattern: str, score: str, llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "out", pattern=pattern, score=score, allocation="uniform")
    prune(config, tiny_batches("llama"))
    weight = load_model(tmp_path / "out").model.layers[1].mlp.up_proj.weight
    group = int(pattern[2])
    assert bool(((weight.view(64, -1, group) == 0).sum(2) == group // 2).all())


def test_stored_dtype_is_kept(tmp_path: Path) -> None:
    tiny_model("llama").half().save_pretrained(tmp_path / "half")
    prune(_config(tmp_path / "half", tmp_path / "out"), tiny_batches("llama"))
    assert load_model(tmp_path / "out", dtype=None).dtype == torch.float16


def test_every_tensor_keeps_its_type_and_what_is_not_read_is_carried_over(llama: Path, tmp_path: Path) -> None:
    from broken_models import halves, put, shards, tensors_of

    tensors = {name: t if "norm" in name else t.bfloat16() for name, t in tensors_of(llama).items()}
    tensors["planner.head.weight"] = torch.randn(3, 32, dtype=torch.float16)
    for cut in ("whole", "shards"):
        put(llama, tensors) if cut == "whole" else shards(llama, halves(tensors))
        out = prune(_config(llama, tmp_path / cut, score="sparsegpt"), tiny_batches("llama"))
        written = tensors_of(out)
        assert {name: t.dtype for name, t in written.items()} == {name: t.dtype for name, t in tensors.items()}
        for name in ("planner.head.weight", "model.norm.weight", "lm_head.weight"):
            assert torch.equal(written[name], tensors[name])
        assert read_manifest(out).sparsity == sum(
            int((t == 0).sum()) for name, t in written.items() if "proj" in name
        ) / sum(t.numel() for name, t in written.items() if "proj" in name)


def test_an_artifact_is_pruned_further_but_never_less(llama: Path, tmp_path: Path) -> None:
    first = prune(_config(llama, tmp_path / "a", sparsity=0.6, score="sparsegpt"), tiny_batches("llama"))
    for allocation in ("uniform", "owl", "block0"):
        config = _config(first, tmp_path / allocation, sparsity=0.62, allocation=allocation)
        manifest = read_manifest(prune(config, tiny_batches("llama")))
        assert sum(block.zeros for block in manifest.blocks) == round(0.62 * 18432)
        before, after = _weights(first), _weights(tmp_path / allocation)
        assert all(bool((after[key][before[key] == 0] == 0).all()) for key in after)
    with pytest.raises(OwledError, match=r"60\.00% zeros already"):
        prune(_config(first, tmp_path / "less", sparsity=0.5), tiny_batches("llama"))
    pattern = {"pattern": "2:4", "allocation": "uniform"}
    with pytest.raises(OwledError, match=r"zeros already|target was not met"):
        prune(_config(first, tmp_path / "n_of_m", **pattern), tiny_batches("llama"))
    assert not (tmp_path / "n_of_m").exists()


@pytest.mark.parametrize("more", [{"score": "sparsegpt"}, {"score": "sparsegpt", "refine_steps": 0}, {"score": "admm"}])
def test_what_has_zeros_already_is_only_rounded(more: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    first = prune(_config(llama, tmp_path / "a", sparsity=0.6, score="admm"), tiny_batches("llama"))
    config = _config(first, tmp_path / "b", sparsity=0.0, allocation="uniform", bits=8, **more)
    zeros = [
        sum(block.zeros for block in read_manifest(path).blocks)
        for path in (first, prune(config, tiny_batches("llama")))
    ]
    assert zeros[0] == round(0.6 * 18432)
    assert zeros[0] <= zeros[1] <= zeros[0] + 200  # rounding to 8 bits makes few
    before, after = _weights(first), _weights(tmp_path / "b")
    assert all(bool((after[key][before[key] == 0] == 0).all()) for key in after)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.97, 0.995])
def test_the_default_plan_reaches_what_uniform_reaches(target: float, llama: Path, tmp_path: Path) -> None:
    for allocation in ("block0", "uniform", "owl"):
        config = _config(llama, tmp_path / allocation, sparsity=target, allocation=allocation)
        manifest = read_manifest(prune(config, tiny_batches("llama")))
        assert sum(block.zeros for block in manifest.blocks) == round(target * 18432)


def test_zeros_are_counted_as_they_are_stored(tmp_path: Path) -> None:
    """Weights below float16's range round to zero when they are written: they count, and too many fail the run."""
    model = tiny_model("llama")
    model.half().save_pretrained(tmp_path / "half")
    config = _config(tmp_path / "half", tmp_path / "out", allocation="uniform")
    import owled_ros.pruning.blocks as blocks

    real = blocks.prune_matrix
    for few, fails in ((3, False), (300, True)):

        def tiny(matrix: Any, *given: Any, few: int = few) -> Any:
            done = real(matrix, *given)
            weight = matrix.weight()
            kept = (weight != 0).nonzero()[:few]
            if matrix.name.endswith("layers.0.mlp.up_proj"):
                weight[kept[:, 0], kept[:, 1]] = 1e-9
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "prune_matrix", tiny)
            if fails:
                with pytest.raises(OwledError, match=r"target was not met.*layers\.0\.mlp\.up_proj \(\+300\)"):
                    prune(replace(config, seed=1), tiny_batches("llama"))
            else:
                manifest = read_manifest(prune(config, tiny_batches("llama")))
                assert sum(block.zeros for block in manifest.blocks) == 18432 // 2 + 3


def test_a_model_that_does_not_come_back_is_not_kept(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import owled_ros.models.write as write

    real = write.save_model

    def forgetful(model: Any, *given: Any) -> None:
        model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
        real(model, *given)

    monkeypatch.setattr("owled_ros.pruning.artifact.save_model", forgetful)
    with pytest.raises(OwledError, match=r"layers\.0\.mlp\.up_proj\.weight did not come back"):
        prune(_config(llama, tmp_path / "out"), tiny_batches("llama"))
    assert not (tmp_path / "out").exists()


def test_recovery_never_changes_a_mask(llama: Path, tmp_path: Path) -> None:
    held_out = tiny_batches("llama", seed=8)
    prune(_config(llama, tmp_path / "plain"), tiny_batches("llama"))
    prune(_config(llama, tmp_path / "out", recovery_steps=4), tiny_batches("llama"), held_out=held_out)
    plain, recovered = _weights(tmp_path / "plain"), _weights(tmp_path / "out")
    changed = 0
    for key in plain:
        if "proj" in key:
            assert torch.equal(plain[key] == 0, recovered[key] == 0)
            changed += int(not torch.equal(plain[key], recovered[key]))
        else:
            assert torch.equal(plain[key], recovered[key])
    assert changed == 14
    assert set(read_manifest(tmp_path / "out").quality) == {"dense", "before_recovery", "pruned"}


def test_a_cancelled_run_goes_on_to_the_same_artifact(llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "whole", score="sparsegpt", allocation="learned", learn_steps=2)
    prune(config, tiny_batches("llama"))
    seen = []

    def cancelled() -> bool:
        seen.append(1)
        return len(seen) == 4  # after load and two learning steps: at the first block

    with pytest.raises(OwledError, match="cancelled in stage prune"):
        prune(replace(config, output=tmp_path / "out"), tiny_batches("llama"), cancelled=cancelled)
    assert not (tmp_path / "out").exists()
    stages: list[str] = []
    prune(
        replace(config, output=tmp_path / "out"), tiny_batches("llama"), progress=lambda step: stages.append(step.stage)
    )
    assert "plan" not in stages  # the plan was found on the disk
    assert artifact_id(read_manifest(tmp_path / "out")) == artifact_id(read_manifest(tmp_path / "whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "out", "whole"]  # nothing is left behind


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import os, signal
from tiny_models import tiny_batches
from owled_ros.pruning.prune import PruneConfig, prune
stop = {stop}
def progress(step):
    global stop
    stop -= 1
    if stop == 0:
        os.kill(os.getpid(), signal.SIGKILL)
prune(PruneConfig(Path({model!r}), Path({output!r}), 0.5, "wanda", "owl", dtype="float32"), tiny_batches("llama"), progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_sigkill_at_every_stage(stop: int, llama: Path, tmp_path: Path) -> None:
    root, tests = str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)
    output = tmp_path / "out"
    code = KILLED.format(root=root, tests=tests, stop=stop, model=str(llama), output=str(output))
    killed = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    config = PruneConfig(llama, output, 0.5, "wanda", "owl", dtype="float32")
    prune(config, tiny_batches("llama"))
    prune(replace(config, output=tmp_path / "whole"), tiny_batches("llama"))
    assert artifact_id(verify(output)) == artifact_id(verify(tmp_path / "whole"))


def test_a_full_disk_leaves_nothing_half_written(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import owled_ros.files as files

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "fsync_tree", full)
        with pytest.raises(OwledError, match="No space left"):
            prune(_config(llama, tmp_path / "out"), tiny_batches("llama"))
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if ".aside-" in path.name]
    assert prune(_config(llama, tmp_path / "out"), tiny_batches("llama")).exists()


def test_too_little_space_is_said_before_the_work(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import owled_ros.pruning.artifact as artifact

    monkeypatch.setattr(artifact.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OwledError, match="GB free"):
        prune(_config(llama, tmp_path / "out"), tiny_batches("llama"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 0.0}, "inside"),
        ({"sparsity": 1.0}, "inside"),
        ({"sparsity": float("nan")}, "inside"),
        ({"owl_lambda": 0.7}, "lambda"),
        ({"lod_threshold": -1.0}, "threshold"),
        ({"score": "best"}, "unknown score"),
        ({"components": ("wheels",)}, "unknown component"),
        ({"components": ("vision",)}, "no component vision"),
        ({"pattern": "2:4", "sparsity": 0.6}, "always zeroes 50%"),
        ({"pattern": "2:4", "sparsity": 0.5, "allocation": "owl-reference"}, "knows no patterns"),
        ({"allocation": "owl-reference", "budgets": {"language": 0.4}}, "knows no budgets"),
        ({"budgets": {"vision": 0.4}}, "no such part"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OwledError, match=message):
        prune(_config(llama, tmp_path / "out", **changes), tiny_batches("llama"))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "0 sample"),
        ([{"input_ids": torch.ones(1, 5, dtype=torch.long)}], "1 sample"),
        ([{"pixel_values": torch.ones(2, 3, 8, 8)}], "input_ids"),
        ([{"input_ids": torch.full((2, 5), 128)}], "token 128, the model knows 0 to 127"),
        ([{"input_ids": torch.full((2, 5), -1)}], "token -1"),
        (
            [{"input_ids": torch.ones(2, 129, dtype=torch.long)}],
            "129 tokens, the model 128 positions: give --tokens 128",
        ),
        (
            [{"input_ids": torch.ones(2, 5, dtype=torch.long), "inputs_embeds": torch.ones(2, 5, 32)}],
            "cannot run the cal",
        ),
        ([{"input_ids": torch.ones(2, 5, dtype=torch.long), "pixel_values": torch.full((2, 3), torch.nan)}], "NaN"),
    ],
)
def test_bad_calibration_is_named(
    batches: list[dict[str, torch.Tensor]], message: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(OwledError, match=message):
        prune(_config(llama, tmp_path / "out"), batches)


def test_more_logits_than_labels(tmp_path: Path) -> None:
    """GIT puts the image's tokens before the text: answers are scored at the end, text without answers is refused."""
    tiny_model("git").save_pretrained(tmp_path / "git")
    plain = tiny_batches("git")
    answered = [{**batch, "labels": batch["input_ids"]} for batch in plain]
    config = _config(tmp_path / "git", tmp_path / "out", score="pruner-zero", allocation="learned", learn_steps=1)
    manifest = read_manifest(prune(config, answered, held_out=answered))
    assert {"vision", "language"} == {block.component for block in manifest.blocks}
    assert manifest.quality["pruned"]["tokens"] == 44
    with pytest.raises(OwledError, match=r"logits \(2, \d+, 128\) for 12 tokens"):
        prune(replace(config, output=tmp_path / "other"), plain, held_out=plain)


def test_out_of_memory_is_a_sentence(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import owled_ros.pruning.usage as usage

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20 GB")

    monkeypatch.setattr(usage, "forward_body", full)
    with pytest.raises(
        OwledError, match=r"out of memory while the model ran the calibration.*fewer or shorter samples"
    ):
        prune(_config(llama, tmp_path / "out"), tiny_batches("llama"))


def test_nan_weights_are_named(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = torch.nan
    model.save_pretrained(tmp_path / "bad")
    with pytest.raises(OwledError, match="NaN"):
        prune(_config(tmp_path / "bad", tmp_path / "out", allocation="uniform"), tiny_batches("llama"))
