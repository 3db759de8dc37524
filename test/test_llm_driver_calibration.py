"""What an LlmDriver is pruned on: driving and general questions, scenes of our world and released ones, nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from released_form import write_released

from owled_ros.commands._calibration import Sources, calibration_sets
from owled_ros.driving.profile import read_profile
from owled_ros.driving.vector_facts import facts_of
from owled_ros.driving.vector_words import ACT, DRIVE, action, drive_answer
from owled_ros.errors import OwledError
from owled_ros.evaluation import vector_answers
from owled_ros.evaluation.drivingqa import calibrated_on, new_cache
from owled_ros.evaluation.running_cost_child import opened
from owled_ros.files import sha256_file
from owled_ros.llm_driver.batches import prompt_text
from owled_ros.llm_driver.calibration import GENERAL_QUESTIONS, driving_frames, general_frames
from owled_ros.llm_driver.examples import HELD_OUT_SEEDS, world_scene
from owled_ros.llm_driver.host import build_tiny, save
from owled_ros.models.llm_driver import MODEL_TYPE
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.models.vector_encoder import VectorConfig

SMALL = VectorConfig(hidden_size=16, num_latents=3, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
NOTHING = Sources((), None, "", 0, 8, 32, 0.0, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save(*build_tiny(0, SMALL), place, "untrained")
    return place


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write ten scenes of our own world in the released form."""
    write_released(tmp_path, 10)
    return tmp_path


def test_driving_questions_have_the_answers_of_who_drove(model: Path) -> None:
    acted = world_scene(HELD_OUT_SEEDS)
    assert acted.pedals is not None
    asked = list(driving_frames(read_profile(model), [acted]))
    assert [frame.conversation.turns[-1].parts[-1] for frame in asked] == [DRIVE, ACT]
    assert [frame.answer for frame in asked] == [
        drive_answer(facts_of(acted.scene), acted.pedals), action(acted.pedals)
    ]  # fmt: skip
    assert all(np.array_equal(frame.images[0], acted.scene.packed()) for frame in asked)


def test_general_questions_are_not_about_driving_and_differ_by_seed(model: Path) -> None:
    profile = read_profile(model)
    first, again, other = (list(general_frames(profile, 30, seed)) for seed in (0, 0, 1))
    questions = {str(frame.conversation.turns[-1].parts[-1]) for frame in first}
    assert questions <= set(GENERAL_QUESTIONS)
    assert not questions & {DRIVE, ACT}
    assert len(questions) > 3
    assert all("pedal" not in frame.answer for frame in first)
    assert [frame.answer for frame in first] == [frame.answer for frame in again]
    assert [frame.answer for frame in first] != [frame.answer for frame in other]


def test_scenes_of_our_world_calibrate_without_padding(model: Path) -> None:
    used, kept = calibration_sets(model, Sources(**{**vars(NOTHING), "scenes": 10}))
    assert (used.provenance[0].samples, kept.provenance[0].samples) == (16, 4)
    for batch in [*used.batches, *kept.batches]:
        assert batch["vectors"].shape[0] == batch["input_ids"].shape[0]
        assert "attention_mask" not in batch or bool(batch["attention_mask"].all())


def test_released_scenes_calibrate_with_their_vectors_and_the_end_is_held_out(model: Path, data: Path) -> None:
    used, kept = calibration_sets(model, Sources(**{**vars(NOTHING), "driving_text": data, "samples": 8}))
    seen, held = (
        {row.numpy().tobytes() for batch in part.batches for row in batch["vectors"]} for part in (used, kept)
    )
    scenes = [world_scene(HELD_OUT_SEEDS + number).scene.packed().tobytes() for number in range(10)]
    assert seen == {scenes[place] for place in (0, 2, 4, 6)}  # eight questions, two of each
    assert held == {scenes[8]}
    assert used.provenance[0].sha256 == sha256_file(data / "scenarios.jsonl")
    assert not calibrated_on(model, data)  # no artifact

    (data / "observations.safetensors").unlink()
    with pytest.raises(OwledError, match="has no vectors"):
        calibration_sets(model, Sources(**{**vars(NOTHING), "driving_text": data}))


def test_an_answer_from_what_was_read_with_the_reference_is_the_plain_answer(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_answers, "MAX_TOKENS", 6)
    loaded, processor = load_model(model).eval(), load_processor(model)
    scenes = [world_scene(HELD_OUT_SEEDS + number).scene.packed() for number in range(3)]
    inputs = processor(
        [prompt_text(processor, DRIVE)] * 3, images=scenes, return_tensors="pt", add_special_tokens=False
    )
    inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    cache = new_cache(loaded.config.get_text_config(decoder=True))
    with torch.inference_mode():
        vector_answers._losses(loaded, processor, inputs, ["I'm observing 2 cars.", "none", "a b c"], cache)
        assert vector_answers._said(loaded, processor, inputs, cache) == vector_answers._said(
            loaded, processor, inputs, None
        )


def test_a_process_that_never_heard_of_the_class_measures_what_it_costs(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    monkeypatch.delitem(CONFIG_MAPPING._extra_content, MODEL_TYPE)
    measure, disk = opened(model, "torch", 1)
    token_ms, action_ms = measure()
    assert disk
    assert token_ms
    assert action_ms
