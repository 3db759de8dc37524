"""Artifacts: what is written comes back bit by bit, and whatever was changed afterwards is refused with the reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_batches, tiny_model

from owled_ros.commands.inspect import still_to_do
from owled_ros.driving.confidence import Calibration
from owled_ros.driving.presets import default_profile
from owled_ros.driving.profile import profile_text, read_profile
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import bundled_model
from owled_ros.models.load import load_model
from owled_ros.models.manifest import add_section, artifact_id, file_entry, is_artifact, read_manifest, verify
from owled_ros.pruning.artifact import disown_calibration, export
from owled_ros.pruning.prune import PruneConfig, prune


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("artifact")
    tiny_model("llama").save_pretrained(place / "llama")
    (place / "llama" / "driving.json").write_text("{}")
    source = [{"kind": "driving_text", "name": "test", "sha256": "0" * 64, "samples": 4, "tokens": 48}]
    config = PruneConfig(place / "llama", place / "out", 0.6, "wanda", "owl", dtype="float32")
    return prune(config, tiny_batches("llama"), source, held_out=tiny_batches("llama", seed=4))


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_manifest_tells_everything(made: Path) -> None:
    manifest = verify(made)
    assert (manifest.format_version, manifest.base.architecture, manifest.base.name) == (1, "LlamaForCausalLM", "llama")
    assert (manifest.method.score, manifest.method.lod_threshold, manifest.method.owl_lambda) == ("wanda", 5.0, 0.08)
    assert manifest.calibration[0]["samples"] == 4
    assert all(block.lod_percent is not None and 0.5 < block.sparsity < 0.7 for block in manifest.blocks)
    assert manifest.quality["dense"]["tokens"] == 44
    assert {"torch", "transformers"} <= set(manifest.versions)
    assert {"model.safetensors", "config.json", "driving.json"} <= set(manifest.files)
    assert str(made.parent) not in (made / "owled.json").read_text()  # no path of the machine that made it


def test_export_is_bit_identical_and_plain(artifact: Path, tmp_path: Path) -> None:
    export(artifact, tmp_path / "plain")
    assert not is_artifact(tmp_path / "plain")
    first, second = load_model(artifact).state_dict(), load_model(tmp_path / "plain").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(OwledError, match="exists already"):
        export(artifact, tmp_path / "plain")


def test_the_calibration_of_the_base_is_not_claimed_by_what_was_pruned_from_it(tmp_path: Path) -> None:
    """Whoever drives and whoever reads the artifact is told; slope, floor and everything else stay."""
    fitted = Calibration(slope=0.7, offset=1.6, floor=0.4, calibrated=True, source="800 answers of 3 drives")
    before = default_profile().model_copy(update={"confidence": fitted})
    (tmp_path / "driving.json").write_text(profile_text(before))
    disown_calibration(tmp_path)
    after = read_profile(tmp_path)
    words = "calibrated before pruning (800 answers of 3 drives): fit it again with owled calibrate"
    assert after.confidence == replace(fitted, calibrated=False, source=words)
    assert after.model_copy(update={"confidence": fitted}) == before
    text = (tmp_path / "driving.json").read_text()
    disown_calibration(tmp_path)
    assert (tmp_path / "driving.json").read_text() == text, "what was never calibrated stays as it is"


def test_the_bundled_model_is_not_calibrated_once_it_is_pruned(tmp_path: Path) -> None:
    """Its profile is of format 1, where a slope means a calibration."""
    shutil.copy(bundled_model() / "driving.json", tmp_path)
    assert read_profile(tmp_path).confidence.calibrated
    disown_calibration(tmp_path)
    assert not read_profile(tmp_path).confidence.calibrated


def test_what_is_left_to_do_with_an_artifact_is_one_sentence(tmp_path: Path) -> None:
    assert list(still_to_do(tmp_path)) == []
    shutil.copy(bundled_model() / "driving.json", tmp_path)
    assert list(still_to_do(tmp_path)) == []
    disown_calibration(tmp_path)
    (words,) = still_to_do(tmp_path)
    assert f"owled calibrate {tmp_path} DRIVE" in words
    (tmp_path / "driving.json").write_text("{}")
    assert list(still_to_do(tmp_path)) == [], "whoever drives it is told"


@pytest.mark.parametrize("text", [None, "{}", "not JSON"])
def test_a_profile_that_is_missing_or_broken_costs_no_pruning(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "driving.json").write_text(text)
    disown_calibration(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == [text] * (text is not None)


def test_later_sections_keep_the_identity(artifact: Path) -> None:
    before = artifact_id(read_manifest(artifact))
    (artifact / "packed.owled").write_bytes(b"12345")
    entry = file_entry(artifact / "packed.owled")
    add_section(artifact, "packed", {"file": "packed.owled", "sha256": entry.sha256, "bytes": entry.bytes})
    assert artifact_id(verify(artifact)) == before
    (artifact / "packed.owled").write_bytes(b"12346")
    with pytest.raises(OwledError, match=r"packed\.owled does not match"):
        verify(artifact)
    with pytest.raises(OwledError, match="cannot be added"):
        add_section(artifact, "weights", {})


def test_a_manifest_edited_by_hand_is_refused(artifact: Path) -> None:
    content = json.loads((artifact / "owled.json").read_text())
    content["sparsity"] = 0.9
    (artifact / "owled.json").write_text(json.dumps(content))
    with pytest.raises(OwledError, match="changed after it was written"):
        read_manifest(artifact)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ("[]", "format version"),
        ('{"format_version": 2}', "version 2"),
        ('{"format_version": 1}', "not a valid"),
    ],
)
def test_manifests_of_another_kind_are_refused(content: str, message: str, artifact: Path) -> None:
    (artifact / "owled.json").write_text(content)
    with pytest.raises(OwledError, match=message):
        read_manifest(artifact)


def test_a_changed_byte_is_refused_on_load(artifact: Path) -> None:
    weights = artifact / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(OwledError, match="does not match its hash"):
        load_model(artifact)


def test_a_missing_shard_is_refused(artifact: Path) -> None:
    (artifact / "model.safetensors").unlink()
    with pytest.raises(OwledError, match=r"lacks model\.safetensors"):
        load_model(artifact)


def test_a_link_is_refused(artifact: Path, tmp_path: Path) -> None:
    weights = artifact / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OwledError, match="symbolic link"):
        load_model(artifact)


@pytest.mark.parametrize("name", ["modeling.py", "weights.bin", "state.pkl"])
def test_files_that_can_carry_code_are_refused(name: str, artifact: Path) -> None:
    (artifact / name).write_text("print('no')")
    with pytest.raises(OwledError, match="carry code"):
        load_model(artifact)


def test_an_unlisted_weight_file_is_refused(artifact: Path) -> None:
    shutil.copy(artifact / "model.safetensors", artifact / "model-00002.safetensors")
    with pytest.raises(OwledError, match="does not list"):
        load_model(artifact)


@pytest.mark.parametrize("name", ["../llama/model.safetensors", "/etc/hostname"])
def test_names_that_leave_the_directory_are_refused(name: str, artifact: Path) -> None:
    from owled_ros.models.manifest import FileEntry, write_manifest

    manifest = read_manifest(artifact)
    write_manifest(
        artifact, manifest.model_copy(update={"files": {**manifest.files, name: FileEntry(sha256="0" * 64, bytes=0)}})
    )
    with pytest.raises(OwledError, match="outside the artifact"):
        verify(artifact)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), flip=st.integers(1, 255))
def test_no_flipped_byte_of_the_manifest_goes_unseen(place: float, flip: int, made: Path, tmp_path: Path) -> None:
    content = bytearray((made / "owled.json").read_bytes())
    content[int(place * len(content))] ^= flip
    (tmp_path / "owled.json").write_bytes(bytes(content))
    try:
        found = read_manifest(tmp_path)
    except OwledError:
        return
    assert found == read_manifest(made)  # white space only
