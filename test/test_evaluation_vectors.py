"""LlmDriver scored on scenes: the loss is that of a plain pass, words it cannot read count as unread, copies by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from released_form import write_released
from typer.testing import CliRunner

from owled_ros.commands import evaluate
from owled_ros.driving.vector_words import DRIVE
from owled_ros.errors import OwledError
from owled_ros.evaluation.drivingqa import score
from owled_ros.evaluation.vector_answers import answer_scenes, before_answers, exchanged
from owled_ros.llm_driver.batches import IGNORE, collate
from owled_ros.llm_driver.examples import Example
from owled_ros.llm_driver.host import build_tiny, save
from owled_ros.llm_driver.released import read_scenarios
from owled_ros.models.load import reads_vectors
from owled_ros.models.vector_encoder import VectorConfig

SMALL = VectorConfig(hidden_size=16, num_latents=3, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
COUNT = 14


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write scenes of our own world in the released form."""
    place = tmp_path_factory.mktemp("scenes")
    write_released(place, COUNT)
    return place


def test_the_loss_is_that_of_a_plain_pass(data: Path) -> None:
    model, processor = build_tiny(0, SMALL)
    scenes = read_scenarios(data)[:2]
    answers = answer_scenes(model.eval(), processor, scenes)
    for scene, answer in zip(scenes, answers, strict=True):
        assert scene.vectors is not None
        batch = collate(processor, [Example(scene.vectors, DRIVE, scene.reference, open_end=True)])
        with torch.no_grad():
            logits = model(**batch.inputs).logits[0, :-1]
        known = batch.labels[0, 1:] != IGNORE
        wanted = torch.nn.functional.cross_entropy(logits[known], batch.labels[0, 1:][known])
        assert answer.loss == pytest.approx(float(wanted), rel=1e-4)
    assert score(answers, scenes)["perception_parsed"] == 0.0  # an untrained model says nothing that can be read


def test_the_scene_before_by_hand(data: Path) -> None:
    first, second, third = read_scenarios(data)[:3]
    copied = before_answers([second, third], first)
    assert [answer.perception for answer in copied] == [first.perception, second.perception]
    assert [answer.action.longitudinal for answer in copied if answer.action] == [
        first.action.longitudinal,
        second.action.longitudinal,
    ]


def test_exchanged_scenes_keep_their_answers_and_have_the_vectors_of_others(data: Path) -> None:
    scenes = read_scenarios(data)[:5]
    changed = exchanged(scenes)
    assert [scene.vectors for scene in changed] == [scenes[k].vectors for k in (2, 3, 4, 0, 1)]
    assert [scene.reference for scene in changed] == [scene.reference for scene in scenes]


def test_scenes_without_vectors_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "scenarios.jsonl").write_text((data / "scenarios.jsonl").read_text())
    model, processor = build_tiny(0, SMALL)
    with pytest.raises(OwledError, match=r"observations\.safetensors"):
        answer_scenes(model, processor, read_scenarios(tmp_path))


def test_the_command_scores_it_beside_the_baselines(data: Path, tmp_path: Path) -> None:
    save(*build_tiny(0, SMALL), tmp_path / "model", "untrained")
    assert reads_vectors(tmp_path / "model")
    assert not reads_vectors(tmp_path)
    words = [
        "evaluate-drivingqa",
        str(data),
        "--model",
        str(tmp_path / "model"),
        "--first",
        "12",
        "--json",
        str(tmp_path / "t.json"),
    ]
    app = typer.Typer()
    evaluate.register(app)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / "t.json").read_text())
    name = str(tmp_path / "model")
    assert list(table) == [name, f"{name}, shuffled", "constant", "copy", "scene before"]
    assert table["scene before"]["scenes"] == 2
