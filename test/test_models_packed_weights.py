"""Packed weights are driven with only where a manifest or packed.json vouches for them; artifacts prove what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stored_artifacts import make_artifact

from owled_ros.errors import OwledError
from owled_ros.models.driving_model import bundled_model
from owled_ros.models.manifest import add_section, file_entry, verify
from owled_ros.models.packed_weights import VOUCHER, packed_weights, vouch
from owled_ros.sparse.pack import PACKED_NAME


def plain(path: Path, weights: bytes = b"weights") -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    (path / PACKED_NAME).write_bytes(b"packed")
    return path


def test_a_plain_model_needs_a_voucher_that_fits(tmp_path: Path) -> None:
    model = plain(tmp_path / "model")
    with pytest.raises(OwledError, match="nothing vouches for"):
        packed_weights(model)
    vouch(model)
    assert packed_weights(model) == model / PACKED_NAME
    (model / PACKED_NAME).write_bytes(b"packee")
    with pytest.raises(OwledError, match="was changed after it was packed"):
        packed_weights(model)
    vouch(model)
    (model / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(OwledError, match="packed from other weights"):
        packed_weights(model)
    (model / PACKED_NAME).unlink()
    assert packed_weights(model) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[" * 50_000, '{"format_version": 1, "sha256": "", "weights_sha256": ""}']
)
def test_a_damaged_voucher_vouches_for_nothing(tmp_path: Path, content: str) -> None:
    model = plain(tmp_path / "model")
    (model / VOUCHER).write_text(content)
    with pytest.raises(OwledError, match="pack it again"):
        packed_weights(model)


def test_the_bundled_model_is_vouched_for() -> None:
    assert packed_weights(bundled_model()) == bundled_model() / PACKED_NAME


def test_packed_weights_of_an_artifact_count_only_where_the_manifest_names_them(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    (artifact / PACKED_NAME).write_bytes(b"stray")
    verify(artifact)  # it lies there and is never opened
    assert packed_weights(artifact) is None
    entry = file_entry(artifact / PACKED_NAME)
    add_section(artifact, "packed", {"file": PACKED_NAME, "sha256": entry.sha256, "bytes": entry.bytes})
    assert packed_weights(artifact) == artifact / PACKED_NAME
    (artifact / PACKED_NAME).write_bytes(b"other")
    with pytest.raises(OwledError, match="does not match its hash"):
        verify(artifact)


def test_an_artifact_whose_manifest_is_gone_does_not_drive_packed(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    (artifact / PACKED_NAME).write_bytes(b"packed")
    (artifact / "owled.json").unlink()
    with pytest.raises(OwledError, match="Restore the manifest"):
        packed_weights(artifact)


@pytest.mark.parametrize(
    "name", ["driving.json", "familiarity.json", "chat_template.jinja", "extra.safetensors", "sub/vocab.txt"]
)
def test_what_the_manifest_does_not_list_is_refused(tmp_path: Path, name: str) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text(json.dumps({"confidence": {"floor": 0.0}}))
    with pytest.raises(OwledError, match="does not list"):
        verify(artifact)
    (artifact / name).unlink()
    (artifact / "notes.md").write_text("my own words")
    verify(artifact)


@pytest.mark.parametrize("content", ["[" * 100_000, "NaN", '"text"', "[]", ""])
def test_a_damaged_manifest_is_refused_with_words(tmp_path: Path, content: str) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    (artifact / "owled.json").write_text(content)
    with pytest.raises(OwledError, match=r"owled\.json"):
        verify(artifact)
