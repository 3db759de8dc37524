"""Training of LLM-Driver: it learns, a killed run goes on to the same weights, stages teach what they should."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from click.testing import Result
from transformers.modeling_outputs import BaseModelOutput
from typer.testing import CliRunner

from owled_ros.commands import train_llm_driver
from owled_ros.driving.vector_words import ACT
from owled_ros.errors import OwledError
from owled_ros.evaluation.drivingqa import constant_answers, score
from owled_ros.llm_driver import train as training
from owled_ros.llm_driver.batches import IGNORE, Batch, NumberWords, collate, training_batches
from owled_ros.llm_driver.examples import DRIVING_STAGE, TRAINING_SEEDS, Example, ask, world_scene
from owled_ros.llm_driver.held_out import held_out_scenarios
from owled_ros.llm_driver.host import TINY, build_tiny
from owled_ros.llm_driver.low_rank import add_low_rank, merge_low_rank
from owled_ros.llm_driver.train import TrainConfig, answer_loss, choose, learn, schedule, train
from owled_ros.models.load import load_model
from owled_ros.models.vector_encoder import VectorConfig

SMALL = VectorConfig(hidden_size=16, num_latents=3, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
SHORT = TrainConfig(
    encoder_samples=4, driving_samples=4, settling_samples=2, batch_size=2, checkpoint_every_s=0.0, log_every_steps=1
)


@pytest.fixture(autouse=True)
def _few_scenes_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "VALIDATION_SCENES", 2)


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(SHORT, *build_tiny(0, SMALL), tmp_path / "whole").state_dict()
    steps: list[int] = []

    def killed(*given: Any) -> torch.Tensor:
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(1)
        return learn(*given)

    monkeypatch.setattr(training, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        train(SHORT, *build_tiny(0, SMALL), tmp_path / "killed")
    monkeypatch.setattr(training, "learn", learn)
    again = train(SHORT, *build_tiny(0, SMALL), tmp_path / "killed").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    entries = [json.loads(line) for line in (tmp_path / "killed" / "learning.jsonl").read_text().splitlines()]
    assert [entry["stage"] for entry in entries if "stage" in entry] == [1, 1, 2, 2, 3]
    assert entries[-1]["done"] is True


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    train(SHORT, *build_tiny(0, SMALL), tmp_path)
    with pytest.raises(OwledError, match="begun with seed 0, not 1"):
        train(replace(SHORT, seed=1), *build_tiny(1, SMALL), tmp_path)
    (tmp_path / "checkpoint" / "state.json").write_text("{")
    with pytest.raises(OwledError, match="delete the checkpoint"):
        train(SHORT, *build_tiny(0, SMALL), tmp_path)


def test_a_run_that_diverges_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "learn", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(OwledError, match="smaller learning rate"):
        train(SHORT, *build_tiny(0, SMALL), tmp_path)


def test_a_few_examples_are_learnt_by_heart() -> None:
    model, processor = build_tiny(0, SMALL)
    batch = next(iter(training_batches(processor, replace(DRIVING_STAGE, describe=0.0), (), 4, 0)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = [float(learn(model, optimizer, batch, "cpu")) for _ in range(30)]
    assert losses[-1] < 0.25 * losses[0]


def test_what_is_learnt_hangs_on_the_vectors() -> None:
    """Four scenes, one question: only the vectors tell which answer it is; shuffled or dropped they mislead."""
    encoder = VectorConfig(hidden_size=64, num_latents=8, num_hidden_layers=2, intermediate_size=64)
    model, processor = build_tiny(0, encoder)
    acted = [world_scene(seed) for seed in range(TRAINING_SEEDS, TRAINING_SEEDS + 4)]
    batch = collate(processor, [ask(item, ACT) for item in acted])
    assert len({ask(item, ACT).answer for item in acted}) == 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        learn(model, optimizer, batch, "cpu")
    right = loss_of(model, batch)
    assert loss_of(model, shown(batch, batch.inputs["vectors"].roll(1, dims=0))) > 10.0 * right
    assert loss_of(model, shown(batch, torch.zeros_like(batch.inputs["vectors"]))) > 10.0 * right


def shown(batch: Batch, vectors: torch.Tensor) -> Batch:
    return replace(batch, inputs={**batch.inputs, "vectors": vectors})


def loss_of(model: torch.nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        return float(answer_loss(model, batch))


def test_a_host_that_can_speak_learns_in_the_second_stage_only() -> None:
    pytest.importorskip("peft")
    model, _ = build_tiny(0, SMALL)
    add_low_rank(model, 2, 0)
    config = replace(SHORT, host="elsewhere", lora_rank=2)
    learnt = []
    for stage in (1, 2):
        choose(model, config, stage)
        learnt.append({name for name, p in model.named_parameters() if p.requires_grad})
    assert all("vector_encoder" in name or "adapter" in name for name in learnt[0])
    assert learnt[1] - learnt[0] == {name for name, _ in model.named_parameters() if "lora_" in name}
    choose(model, replace(config, host=TINY), 1)
    assert all(p.requires_grad for p in model.parameters())


def test_low_rank_updates_are_merged_into_the_weights() -> None:
    pytest.importorskip("peft")
    model, processor = build_tiny(0, SMALL)
    names = set(model.state_dict())
    add_low_rank(model, 2, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    batch = next(iter(training_batches(processor, DRIVING_STAGE, (), 2, 0)))
    with torch.no_grad():
        before = model.eval()(**batch.inputs).logits
        merge_low_rank(model)
        assert torch.allclose(model(**batch.inputs).logits, before, atol=1e-5)
    assert set(model.state_dict()) == names


def test_the_schedule_by_hand() -> None:
    config = TrainConfig(
        encoder_samples=0, driving_samples=32_000, settling_samples=3200, batch_size=32, decay_share=0.5
    )  # 1000 steps and 100
    assert [schedule(step, config) for step in (0, 99, 500, 750, 999)] == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.02])
    assert [schedule(step, config) for step in (1000, 1050, 1099)] == pytest.approx([0.15, 0.075, 0.02])


class OneWord(torch.nn.Module):
    """Says of everything: each token with the logarithm of its share."""

    def __init__(self, shares: dict[int, float], words: int) -> None:
        super().__init__()
        self.logits = torch.full((words,), -20.0)
        for token, share in shares.items():
            self.logits[token] = math.log(share)

    def model(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.logits.expand(*input_ids.shape, -1))

    def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def test_the_loss_that_settles_pedals_by_hand() -> None:
    _, processor = build_tiny(0, SMALL)
    batch = collate(processor, [Example(world_scene(1).scene, ACT, "Accelerator pedal 20%")])
    token = {word: processor.tokenizer.convert_tokens_to_ids(word) for word in ("0", "20", "40")}
    place = int(batch.amounts.isfinite().nonzero()[0, 1])
    assert batch.labels[0, place] == token["20"]
    alone = replace(batch, labels=torch.full_like(batch.labels, IGNORE))
    alone.labels[0, place] = token["20"]
    model = OneWord({token["0"]: 0.5, token["20"]: 0.25, token["40"]: 0.25}, len(processor.tokenizer))
    assert float(answer_loss(model, alone)) == pytest.approx(math.log(4.0), abs=1e-3)
    settled = answer_loss(model, alone, NumberWords.of(processor, len(processor.tokenizer), "cpu"))
    assert float(settled) == pytest.approx(0.1 * math.log(4.0) + 0.1 * (0.5 * 20 + 0.25 * 20), abs=1e-3)


def test_settling_moves_what_is_likeliest_to_the_median() -> None:
    """Of 0, 0, 30, 40, 50 the likeliest is 0 and the median 30."""
    _, processor = build_tiny(0, SMALL)
    scene, words = world_scene(1).scene, NumberWords.of(processor, len(processor.tokenizer), "cpu")
    answers = [f"Accelerator pedal {said}%" for said in (0, 0, 30, 40, 50)]
    batch = collate(processor, [Example(scene, ACT, answer, open_end=True) for answer in answers])
    model = OneWord({}, len(processor.tokenizer))
    said = []
    for given in (None, words):
        model.logits = torch.zeros(len(processor.tokenizer), requires_grad=True)
        optimizer = torch.optim.Adam([model.logits], lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            answer_loss(model, batch, given).backward()
            optimizer.step()
        said.append(float(words.values[model.logits.detach().masked_fill(words.other, -math.inf).argmax()]))
    assert said == [0.0, 30.0]


def test_held_out_moments_score_themselves_rightly() -> None:
    scenes = held_out_scenarios(6)
    assert len({scene.reference for scene in scenes}) > 1
    table = score(constant_answers(scenes), scenes)
    assert table["perception_parsed"] == table["action_parsed"] == 1.0
    assert table["E_car"] > 0.0


def test_the_command_writes_a_model_that_loads_and_learns_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_llm_driver, "HELD_OUT_SCENES", 2)
    app = typer.Typer()
    train_llm_driver.register(app)

    def run(out: str, *words: str) -> Result:
        counts = ("--driving-samples", "32", "--settling-samples", "0", "--device", "cpu")
        return CliRunner().invoke(app, [str(tmp_path / out), *counts, *words])

    first, second = tmp_path / "first" / "model", tmp_path / "second" / "model"
    result = run("first", "--encoder-samples", "32")
    assert result.exit_code == 0, result.output
    assert load_model(first).config.model_type == "llm_driver"
    assert (tmp_path / "first" / "learning.png").is_file()
    assert set(json.loads((tmp_path / "first" / "scores.json").read_text())) == {
        "own world, model",
        "own world, constant",
    }
    assert "32 scenes for what is to be seen" in (first / "README.md").read_text()

    more = ("--start", str(first), "--encoder-samples", "0")
    result = run("second", *more, "--skip", "64")
    assert result.exit_code == 0, result.output
    assert "from the weights of model on" in (second / "README.md").read_text()
    begun, learnt = load_model(first).state_dict(), load_model(second).state_dict()
    moved = {name: float((learnt[name] - weight).abs().max()) for name, weight in begun.items()}
    assert 0.0 < max(moved.values()) < 2e-3, "one step of 2e-5 from the weights that it began with, stored as bfloat16"
    for words, said in (
        ((*more, "--skip", "0"), "begun with skip 64, not 0"),
        (("--start", "mini"), "expected an LlmDriver"),
        (("--start", str(first), "--host", "x"), "not both"),
    ):
        assert said in str(run("second", *words).exception)
