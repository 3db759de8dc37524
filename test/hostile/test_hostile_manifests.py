"""Artifacts that lie: manifests of any content under a right hash of their own, and artifacts that lost theirs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import hostile_words
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_artifacts import make_artifact

from owled_ros.errors import OwledError
from owled_ros.models.load import check_directory
from owled_ros.models.manifest import MANIFEST_NAME, MARK, artifact_id, is_artifact, mark, unmark, verify

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["../x", "/etc/passwd", ".", "", "a/../../b", "model.safetensors", "config.json", "sub/x", "\0", "a" * 300]
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("manifests") / "artifact")


def sealed(content: dict[str, Any]) -> str:
    """Give a manifest the hash of its own that it should have."""
    values = {**content, "self_sha256": ""}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return json.dumps({**values, "self_sha256": hashlib.sha256(text.encode()).hexdigest()})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_any_value_in_a_sealed_manifest_is_a_manifest_or_an_error_in_words(artifact: Path, data: st.DataObject) -> None:
    file = artifact / MANIFEST_NAME
    kept = file.read_text()
    content = json.loads(kept)
    where = data.draw(st.sampled_from(sorted(content)))
    if where == "files" and data.draw(st.booleans()):
        content["files"] = {data.draw(NAMES): {"sha256": "0" * 64, "bytes": data.draw(st.integers(-1, 2**70))}}
    elif data.draw(st.booleans()):
        content[where] = data.draw(VALUES)
    else:
        content[data.draw(st.text(max_size=12))] = data.draw(VALUES)
    try:
        text = sealed(content)
        text.encode()
    except ValueError:  # what JSON and UTF-8 cannot say never was a manifest
        return
    try:
        file.write_text(text)
        with contextlib.suppress(OwledError):
            assert len(artifact_id(verify(artifact))) == 12
    finally:
        file.write_text(kept)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_a_number_that_json_does_not_know_is_refused_in_words(artifact: Path, number: str) -> None:
    file = artifact / MANIFEST_NAME
    kept = file.read_text()
    content = json.loads(kept) | {"confidence": {"": float(number)}}
    try:
        file.write_text(sealed(content).replace(": Infinity", f": {number}"))
        with pytest.raises(OwledError, match=r"owled\.json is not a valid manifest: Out of range float"):
            verify(artifact)
    finally:
        file.write_text(kept)


@pytest.mark.parametrize("name", hostile_words.JSON)
def test_what_is_no_manifest_is_refused(tmp_path: Path, name: str) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    (artifact / MANIFEST_NAME).write_bytes(hostile_words.JSON[name])
    with pytest.raises(OwledError, match=r"owled\.json"):
        verify(artifact)


def test_an_artifact_that_lost_its_manifest_is_refused_by_name(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    mark(artifact)
    (artifact / MANIFEST_NAME).unlink()
    assert not is_artifact(artifact)
    with pytest.raises(OwledError, match=rf"{MARK}.*is gone.*owled export"):
        check_directory(artifact)
    unmark(artifact)
    with pytest.raises(OwledError) as other:  # a plain model again, of weights that are none
        check_directory(artifact)
    assert MARK not in str(other.value)


def test_an_artifact_of_an_older_release_has_no_mark_and_stays_whole(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact")
    assert MARK not in json.loads((artifact / "config.json").read_text())
    verify(artifact)


@pytest.mark.parametrize("text", ["{}", '{"a": Infinity, "b": "ü"}'])
def test_a_mark_changes_nothing_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    before = json.loads(text)
    mark(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {**before, MARK: 1}
    unmark(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == before
    shutil.rmtree(tmp_path)
