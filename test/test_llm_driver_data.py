"""Examples for LLM-Driver: our own world, chance, the released file; nothing of a pickle is run, and nothing leaks."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from released_form import write_released
from torch.nn import functional

from owled_ros.driving.vector_facts import facts_of
from owled_ros.driving.vector_words import ACT, DESCRIBE, DRIVE, QUESTIONS, Pedals, drive_answer
from owled_ros.driving.vectors import Ego, Route, empty_scene
from owled_ros.errors import OwledError
from owled_ros.llm_driver import tokens
from owled_ros.llm_driver.batches import IGNORE, WEIGHT_OF_DECIMALS, Batch, collate, pack
from owled_ros.llm_driver.examples import (
    DRIVING_STAGE,
    ENCODER_STAGE,
    HELD_OUT_SEEDS,
    LESSONS,
    TRAINING_SEEDS,
    ActedScene,
    Example,
    ask,
    check_apart,
    make_examples,
    mirrored,
    world_scene,
)
from owled_ros.llm_driver.hollow import numbers_of, read_hollow
from owled_ros.llm_driver.host import build_tiny
from owled_ros.llm_driver.released import VECTOR_NAMES, parse_action, parse_perception, read_scenarios
from owled_ros.models.vector_encoder import VectorConfig, _ahead, _spoken, first_looks
from owled_ros.scenes.sample import EVALUATION_SEEDS
from owled_ros.scenes.vector_random import random_scene


def test_the_same_number_gives_the_same_example_and_another_another() -> None:
    one, again, other = (make_examples(TRAINING_SEEDS + n, DRIVING_STAGE) for n in (5, 5, 6))
    assert [(item.question, item.answer) for item in one] == [(item.question, item.answer) for item in again]
    assert np.array_equal(one[0].scene.packed(), again[0].scene.packed())
    assert not np.array_equal(one[0].scene.packed(), other[0].scene.packed())
    assert len({item.question for item in one}) == len(one) > 1


def test_training_and_held_out_scenes_are_apart() -> None:
    assert HELD_OUT_SEEDS < EVALUATION_SEEDS <= TRAINING_SEEDS
    check_apart(range(0, 600), range(610, 790))
    check_apart(range(0), range(0, 790))
    for training, held_out in ((range(600), range(605, 700)), (range(100, 200), range(95)), (range(5), range(5))):
        with pytest.raises(OwledError, match="leaks"):
            check_apart(training, held_out)


@pytest.mark.parametrize("seed", range(8))
def test_answers_are_read_by_the_reader_of_the_released_ones(seed: int) -> None:
    """What is said of our own world is what its vectors hold."""
    acted = world_scene(HELD_OUT_SEEDS + seed)
    assert acted.pedals is not None
    answer, facts = ask(acted, DRIVE).answer, facts_of(acted.scene)
    seen, done = parse_perception(answer), parse_action(answer)
    assert seen is not None
    assert done is not None
    assert (seen.cars, seen.pedestrians, seen.light) == (len(facts.vehicles), len(facts.pedestrians), facts.light)
    assert done.longitudinal == pytest.approx(acted.pedals.accelerator - acted.pedals.brake, abs=0.0101)
    assert done.steering == pytest.approx(acted.pedals.steering, abs=0.0101)
    assert ask(acted, ACT).answer in answer


def test_where_nobody_drove_no_action_is_learnt() -> None:
    example = ask(ActedScene(random_scene(np.random.default_rng(3)), None), ACT)
    assert (example.question, example.open_end) == (DRIVE, True)
    assert "actions" not in example.answer
    assert parse_perception(example.answer) is not None


def test_left_and_right_change_places() -> None:
    acted = ActedScene(random_scene(np.random.default_rng(11)), Pedals(0.2, 0.0, 0.3))
    before, after = facts_of(acted.scene), facts_of(mirrored(acted).scene)
    assert [item.angle for item in after.vehicles] == pytest.approx([-item.angle for item in before.vehicles])
    assert (after.wheel, after.lane_offset) == (pytest.approx(-before.wheel), pytest.approx(-before.lane_offset))
    assert mirrored(acted).pedals == Pedals(0.2, 0.0, -0.3)
    assert np.array_equal(mirrored(mirrored(acted)).scene.packed(), acted.scene.packed())


def test_random_scenes_hold_all_there_is() -> None:
    facts = [facts_of(random_scene(np.random.default_rng(seed))) for seed in range(120)]
    assert {item.light for item in facts} == {"none", "green", "yellow", "red", "red+yellow"}
    assert {0, 1, 2, 3} <= {len(item.vehicles) for item in facts}
    assert {0, 1, 2, 3} <= {len(item.pedestrians) for item in facts}
    assert {True, False} == {item.roundabout for item in facts}


def test_the_tokenizer_loses_nothing_and_keeps_numbers_whole() -> None:
    tokenizer = tokens.build_tokenizer()
    mixes = (ENCODER_STAGE, DRIVING_STAGE)
    examples = [item for n in range(6) for mix in mixes for item in make_examples(TRAINING_SEEDS + n, mix)]
    texts = [item.answer for item in examples]
    for text in [*texts, "Zürich 🚗 \t <vectors", drive_answer(facts_of(world_scene(1).scene), Pedals(1.0, 0.0, 0.0))]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert tokenizer.tokenize("12.05m") == ["12", ".", "05", "m"]


def test_a_batch_asks_and_scores_the_answer_alone() -> None:
    _, processor = build_tiny(0, VectorConfig(hidden_size=8, num_latents=3, num_hidden_layers=1, num_attention_heads=1))
    examples = [ask(world_scene(HELD_OUT_SEEDS), question) for question in (ACT, DESCRIBE)]
    batch = collate(processor, examples)
    for row, example in enumerate(examples):
        wanted = [label for label in batch.labels[row].tolist() if label != IGNORE]
        assert processor.tokenizer.decode(wanted) == example.answer + "<eos>"
    assert (batch.inputs["input_ids"] == tokens.VECTORS).sum(1).tolist() == [3, 3]
    assert batch.inputs["attention_mask"].sum(1).tolist()[0] < batch.inputs["input_ids"].shape[1]


def test_questions_in_one_row_are_answered_as_if_each_stood_alone() -> None:
    small = VectorConfig(hidden_size=8, num_latents=3, num_hidden_layers=1, num_attention_heads=1)
    model, processor = build_tiny(0, small)
    scenes = [make_examples(TRAINING_SEEDS + n, replace(ENCODER_STAGE, describe=0.0, lesson=0)) for n in range(2)]
    together, alone = pack(processor, scenes), collate(processor, [item for scene in scenes for item in scene])
    assert len(together.labels) == 2 < len(alone.labels)

    def losses(batch: Batch) -> list[float]:
        with torch.no_grad():
            logits = model.eval()(**batch.inputs).logits[:, :-1].transpose(1, 2)
        labels = batch.labels[:, 1:]
        found = functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
        return found[labels != IGNORE].tolist()

    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)


def test_questions_are_taught_one_after_the_other() -> None:
    assert LESSONS[0] == ACT
    assert set(LESSONS) == {ACT, *QUESTIONS}
    mix = replace(ENCODER_STAGE, lesson=10, describe=0.0, act=0.0, chance=0.0)
    asked = [[item.question for item in make_examples(TRAINING_SEEDS + n, mix)] for n in (0, 10, 25, 89, 90)]
    assert asked[:2] == [[ACT], [LESSONS[1], ACT]]
    assert [questions[:2] for questions in asked[2:4]] == [[LESSONS[2], ACT], [LESSONS[8], ACT]]
    assert set(asked[2]) == set(LESSONS[:3])
    assert len(asked[4]) == mix.questions


def test_where_to_drive_is_only_taught_where_somebody_drove() -> None:
    mix = replace(ENCODER_STAGE, lesson=10, describe=0.0, chance=1.0)
    asked = [[item.question for item in make_examples(TRAINING_SEEDS + n, mix)] for n in (*range(10), 35)]
    assert asked[:10] == [[ACT]] * 10  # of our world although chance was asked for
    assert asked[10][0] == LESSONS[3]
    assert ACT not in asked[10]


def test_pedals_of_the_few_released_scenes_differ_a_little() -> None:
    acted = ActedScene(world_scene(1).scene, Pedals(0.3, 0.0, 0.1))
    mix = replace(DRIVING_STAGE, released=1.0, describe=0.0)
    said = [
        item.answer
        for n in range(60)
        for item in make_examples(TRAINING_SEEDS + n, mix, [acted])
        if item.question == ACT
    ]
    pushes = np.array([parse_action(answer).longitudinal for answer in said])
    assert pushes.mean() == pytest.approx(0.3, abs=0.03)
    assert 0.02 < pushes.std() < 0.08
    assert {parse_action(answer).steering for answer in said} == {0.1, -0.1}  # mirrored, else as it was


def test_amounts_of_an_action_are_marked() -> None:
    _, processor = build_tiny(0, VectorConfig(hidden_size=8, num_latents=3, num_hidden_layers=1, num_attention_heads=1))
    scene = world_scene(1).scene
    said = drive_answer(facts_of(scene), Pedals(0.12, 0.0, -0.07))
    batch = collate(processor, [Example(scene, DRIVE, said), Example(scene, ACT, "5 cars. 12.34m")])
    assert batch.amounts[0][batch.amounts[0].isfinite()].tolist() == [12.0, 0.0, 7.0]
    assert not batch.amounts[1].isfinite().any()


def test_decimals_weigh_little() -> None:
    _, processor = build_tiny(0, VectorConfig(hidden_size=8, num_latents=3, num_hidden_layers=1, num_attention_heads=1))
    batch = collate(processor, [Example(world_scene(1).scene, ACT, "12.34m. 5 cars.")])
    light = batch.labels[batch.weights < 1.0]
    assert processor.tokenizer.decode(light.tolist()) == "34"
    assert batch.weights.min() == WEIGHT_OF_DECIMALS


def test_latents_begin_with_rows_of_their_own() -> None:
    looks = first_looks(24)
    assert looks[:3] == [[0], [1], [82]]
    assert [len(rows) for rows in looks[3:8]] == [6] * 5
    assert looks[8:16] == [[32 + near] for near in range(8)]
    assert looks[16:20] == [[62 + near] for near in range(4)]
    assert [len(rows) for rows in looks[20:]] == [30, 30, 20, 30]
    assert [len(first_looks(count)) for count in (1, 3, 8, 64)] == [1, 3, 8, 64]
    model, _ = build_tiny(0)
    encoder = model.model.vector_encoder
    scene = torch.from_numpy(world_scene(1).scene.packed())[None]
    with torch.no_grad():
        rows, mask = encoder.read(scene)
        first = encoder.blocks[0]
        asked = first.cross_attn.q_proj(first.cross_norm(encoder.latents[:1]))
        likeness = (asked @ first.cross_attn.k_proj(rows)[0].T).masked_fill(~mask[0, 0], -torch.inf)
    assert int(likeness.argmax()) == 0


def test_the_row_ahead_and_spoken_numbers_by_hand() -> None:
    scene = empty_scene()
    scene.route[:, Route.X] = 0.23 + 0.2 * np.arange(30)  # a point every 2 m from 2.3 m on
    scene.route[:, Route.DX] = 1.0
    scene.route[-1, [Route.DX, Route.DY]] = 0.0, -1.0  # a right angle to the right
    scene.route[5, [Route.LIGHT, Route.RED]] = 1.0
    scene.route[7:, Route.JUNCTION] = 1.0
    scene.ego[Ego.SPEED] = 10.0 / 5.0
    row, said = _ahead(torch.from_numpy(scene.packed())[None])
    assert said[0].tolist() == pytest.approx([12.3, 16.3, 90.0, 60.3, 0.0, 0.0], abs=1e-4)
    assert row[0].nonzero().flatten().tolist() == [Route.JUNCTION, Route.LIGHT, Route.RED]
    assert float(_spoken(torch.from_numpy(scene.packed())[None])[0, 0, 0]) == pytest.approx(22.3694)


def test_the_released_form_is_read(tmp_path: Path) -> None:
    scenes = write_released(tmp_path, 3)
    read = read_scenarios(tmp_path)
    for mine, theirs in zip(scenes, read, strict=True):
        assert theirs.vectors is not None
        assert np.array_equal(theirs.vectors.packed(), mine.scene.packed())
        assert theirs.perception.cars == len(facts_of(mine.scene).vehicles)
    (tmp_path / "observations.safetensors").unlink()
    assert [scene.vectors for scene in read_scenarios(tmp_path)] == [None] * 3


def test_vectors_of_another_file_are_refused(tmp_path: Path) -> None:
    write_released(tmp_path, 3)
    path = tmp_path / "scenarios.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(OwledError, match="do not belong together"):
        read_scenarios(tmp_path)
    (tmp_path / "observations.safetensors").write_bytes(b"nothing")
    with pytest.raises(OwledError, match="cannot be read"):
        read_scenarios(tmp_path)


def test_the_released_pickle_gives_the_same_vectors(tmp_path: Path) -> None:
    scenes = write_released(tmp_path, 2)
    entries = []
    for scene in scenes:
        assert scene.pedals is not None
        observed = {name: torch.from_numpy(getattr(scene.scene, part).copy()) for part, name in VECTOR_NAMES.items()}
        text = drive_answer(facts_of(scene.scene), scene.pedals)
        entries.append({"frame_num": 0, "observation": observed, "input_prompt": text})
    with open(tmp_path / "scenes.pkl", "wb") as stream:
        pickle.dump(entries, stream)
    for mine, theirs in zip(scenes, read_scenarios(tmp_path / "scenes.pkl"), strict=True):
        assert theirs.vectors is not None
        assert np.array_equal(theirs.vectors.packed(), mine.scene.packed())


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was_run",)


def test_foreign_classes_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open("evil.pkl", "wb") as stream:
        pickle.dump([{"observation": dict.fromkeys(VECTOR_NAMES.values(), Hostile())}], stream)
    with pytest.raises(OwledError, match="no float32 tensors"):
        read_scenarios(Path("evil.pkl"))
    assert not Path("was_run").exists()


def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tensor.pkl").write_bytes(pickle.dumps(torch.ones(4)))
    tensor = read_hollow(tmp_path / "tensor.pkl")
    assert numbers_of(tensor).tolist() == [1.0] * 4
    tensor.given = (tensor.given[0], 0, (5,))
    with pytest.raises(OwledError, match="no float32 tensors"):
        numbers_of(tensor)
