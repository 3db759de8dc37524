"""Deployments and the choice of what drives: the bundled model never by accident."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stored_artifacts import make_artifact

from owled_ros.deployment.deployment import create_deployment, open_deployment
from owled_ros.errors import OwledError
from owled_ros.models.load import source_of
from owled_ros.models.manifest import read_manifest, write_manifest
from owled_ros.onboard.choice import Source, choose_model, requested_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "base"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


def promote(root: Path, name: str = "a") -> Path:
    store = open_deployment(root).store
    with store.job() as work:
        version = store.add(make_artifact(work / "candidate", name))
    store.promote(version.path.name)
    return version.path


def test_the_base_drives_until_something_is_promoted(tmp_path: Path, base: Path) -> None:
    deployment = create_deployment(tmp_path / "car", base)
    assert open_deployment(tmp_path / "car") == deployment
    assert deployment.driving() == base
    assert deployment.driving() != promote(tmp_path / "car")
    assert open_deployment(tmp_path / "car").driving().name.startswith("000001-")
    assert deployment.store.rollback() == ""
    assert deployment.driving() == base


def test_a_deployment_keeps_its_base(tmp_path: Path, base: Path) -> None:
    create_deployment(tmp_path / "car", base)
    assert create_deployment(tmp_path / "car", base).base == base.resolve()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(OwledError, match="is a deployment of"):
        create_deployment(tmp_path / "car", other)
    with pytest.raises(OwledError, match=r"no config\.json"):
        create_deployment(tmp_path / "new", tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content",
    ["", "[" * 10_000, "[]", "{}", '{"format_version": 2, "base": "x"}', '{"format_version": 1}', "x" * 100_000],
)
def test_a_damaged_deployment_is_refused_and_nothing_else_drives(tmp_path: Path, base: Path, content: str) -> None:
    create_deployment(tmp_path / "car", base)
    (tmp_path / "car" / "deployment.json").write_text(content)
    with pytest.raises(OwledError, match="is not a deployment"):
        choose_model("", str(tmp_path / "car"), configured=False)


def test_a_base_that_is_gone_is_refused(tmp_path: Path, base: Path) -> None:
    create_deployment(tmp_path / "car", base)
    (base / "config.json").unlink()
    with pytest.raises(OwledError, match="is not there"):
        choose_model("", str(tmp_path / "car"), configured=False)


@pytest.mark.parametrize("target", ["artifacts/000009-abcdef", "/etc", "current", "../elsewhere"])
def test_a_current_that_leads_nowhere_is_refused(tmp_path: Path, base: Path, target: str) -> None:
    create_deployment(tmp_path / "car", base)
    (tmp_path / "car" / "current").symlink_to(target)
    with pytest.raises(OwledError):
        choose_model("", str(tmp_path / "car"), configured=False)


def test_what_drives_and_why(tmp_path: Path, base: Path) -> None:
    car = tmp_path / "car"
    create_deployment(car, base)
    chosen = choose_model("", str(car), configured=True)
    assert (chosen.path, chosen.source) == (str(base), Source.DEPLOYMENT)
    version = promote(car)
    assert choose_model("ignored", str(car), configured=True).path == str(version)
    assert choose_model("/models/a", "", configured=True).source is Source.MODEL_PATH
    assert choose_model("mini", "", configured=True).source is Source.BUNDLED
    assert choose_model("", "", configured=False).source is Source.BUNDLED
    with pytest.raises(OwledError, match="no model: set model_path or deployment"):
        choose_model("", "", configured=True)
    with pytest.raises(OwledError, match="there is no deployment"):
        choose_model("", str(tmp_path / "none"), configured=False)
    with pytest.raises(OwledError, match="names no base model"):
        choose_model("", str(tmp_path), configured=False)
    assert choose_model(str(base), str(tmp_path), configured=False).path == str(base)  # an older store


def test_a_model_path_beside_a_deployment_is_told_to_do_nothing(tmp_path: Path, base: Path) -> None:
    create_deployment(tmp_path / "car", base)
    for given, told in (("", False), (str(base), False), ("/models/other", True), ("mini", True)):
        chosen = choose_model(given, str(tmp_path / "car"), configured=True)
        assert chosen.path == str(base)
        assert bool(chosen.warning) == told
    assert chosen.warning.startswith("model_path mini is not used")


def test_a_version_of_another_base_is_not_promoted(tmp_path: Path, base: Path) -> None:
    """Worked by hand: the stored artifacts name a base of sixty-four zeros, which no weights hash to."""
    deployment = create_deployment(tmp_path / "car", base)
    with deployment.store.job() as work:
        version = deployment.store.add(make_artifact(work / "candidate", "a"))
    save_file({"weight": torch.zeros(2)}, base / "model.safetensors")
    for force in (False, True):
        with pytest.raises(OwledError, match="with other weights than the base"):
            deployment.promote(version.path.name, force)
    assert deployment.driving() == base
    manifest = read_manifest(version.path)
    same = manifest.base.model_copy(update={"sha256": source_of(base).sha256})
    write_manifest(version.path, manifest.model_copy(update={"base": same}))
    assert deployment.promote(version.path.name) == ""
    assert deployment.driving() == version.path


def test_requests_follow_the_deployment_and_stay_below_the_root(tmp_path: Path, base: Path) -> None:
    car = tmp_path / "car"
    create_deployment(car, base)
    chosen = choose_model("", str(car), configured=True)
    version = promote(car)
    assert requested_model("", chosen, "") == str(version)
    assert requested_model("", choose_model("/models/a", "", True), "") == "/models/a"
    models = tmp_path / "models"
    (models / "x").mkdir(parents=True)
    assert requested_model("x", chosen, str(models)) == str(models / "x")
    assert requested_model(str(version), chosen, str(models)) == str(version)
    for outside in ("/etc", "../..", "x/../../.."):
        with pytest.raises(OwledError, match="outside model_root"):
            requested_model(outside, chosen, str(models))
    with pytest.raises(OwledError, match="NUL"):
        requested_model("\0", chosen, "")
