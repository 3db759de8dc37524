"""`owled store` and the refusals of `owled recalibrate`, without a child process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from stored_artifacts import make_artifact
from typer.testing import CliRunner

from owled_ros.commands import recalibrate
from owled_ros.deployment.store import Store
from owled_ros.errors import OwledError


def owled(*arguments: object) -> str:
    app = typer.Typer()
    recalibrate.register(app)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def filled(root: Path) -> list[str]:
    store = Store(root)
    ids = []
    for name, passed in (("a", True), ("b", False)):
        with store.job() as work:
            ids.append(store.add(make_artifact(work / "candidate", name, passed)).artifact_id)
    return ids


def test_list_promote_roll_back_and_inspect(tmp_path: Path) -> None:
    assert "the base model is to drive" in owled("store", "list", "--store", tmp_path)
    good, refused = filled(tmp_path)
    assert "is current now" in owled("store", "promote", good[:6], "--store", tmp_path)
    listed = json.loads(owled("store", "list", "--json", "--store", tmp_path))
    assert [(item["artifact_id"], item["current"], item["passed"]) for item in listed] == [
        (refused, False, False),
        (good, True, True),
    ]
    table = owled("store", "list", "--store", tmp_path)
    assert "current" in table
    assert "refused" in table
    assert max(map(len, table.splitlines()[:-1])) <= 80
    size = sum(item["bytes"] for item in listed)
    assert f"2 versions, {size / 1e6:.1f} MB in {tmp_path}" in table
    with pytest.raises(OwledError, match="refused by the gate"):
        owled("store", "promote", refused, "--store", tmp_path)
    assert good in owled("store", "promote", refused, "--force", "--store", tmp_path)
    assert f"{good} is current again" in owled("store", "rollback", "--store", tmp_path)
    assert "the base model is current again" in owled("store", "rollback", "--store", tmp_path)
    assert "every file fits its hash" in owled("store", "inspect", good, "--store", tmp_path)
    assert json.loads(owled("store", "inspect", good, "--json", "--store", tmp_path))["passed"] is True
    (Store(tmp_path).find(good).path / "config.json").write_text("{ }")
    with pytest.raises(OwledError, match="does not match its hash"):
        owled("store", "inspect", good, "--store", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing_bag"], "bag .* does not exist"),
        ([".", "--sparsity", "1.5"], "sparsity"),
        ([".", "--budget", "vision"], "--budget: 'vision' is not of the form NAME=SHARE"),
        ([".", "--budget", "wheels=0.5"], "not known"),
        ([".", "--model", "/nowhere"], "does not exist"),
    ],
)
def test_what_cannot_work_is_refused_before_a_process_starts(tmp_path: Path, arguments: list[str], words: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(model)]
    with pytest.raises(OwledError, match=words):
        owled("recalibrate", *arguments, "--store", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_deployment_is_made_once_and_names_its_base(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert f"{model} is to drive" in owled("deploy", tmp_path / "car", "--model", model)
    good = filled(tmp_path / "car")[0]
    owled("store", "promote", good, "--deployment", tmp_path / "car")
    assert good in owled("deploy", tmp_path / "car", "--model", model)
    filled(tmp_path / "old")
    with pytest.raises(OwledError, match="names no base model"):
        owled("store", "rollback", "--store", tmp_path / "old", "--driving-node", "driving_node")
