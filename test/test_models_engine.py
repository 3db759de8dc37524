"""The engine on a random model of the bundled architecture: one prefix, two questions, honest ends. Values are not judged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from owled_ros.driving.engine import predict
from owled_ros.driving.frame import EgoState, Frame
from owled_ros.driving.prediction import Reason
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import identify, load_engine
from owled_ros.scenes.mini_model import build_model, build_profile, save_model

EGO = EgoState(0, 8.3, 0.01)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "random"
    save_model(build_model(3), path, build_profile(), "random weights\n", torch.float32)
    return path


@pytest.fixture(scope="module")
def engine(directory):
    engine = load_engine(directory, dtype="float32", runtime="torch")
    yield engine
    engine.close()


def frame(seed: int, height: int = 192, width: int = 192) -> Frame:
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Frame(image, seed, EGO)


def whole_answer(directory: Path, image: Frame, question: str, limit: int) -> str:
    """Three-line reference: the stock processor and `generate`, nothing of ours."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(directory), AutoProcessor.from_pretrained(directory)
    text = f"<bos><image>{read_profile(directory).ego_sentence(image.ego)}{question}"
    inputs = processor(text=text, images=image.image, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=limit, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_both_answers_equal_those_of_plain_transformers(directory, engine):
    profile = read_profile(directory)
    for seed in (1, 2):
        prediction = predict(engine, frame(seed))
        action = whole_answer(directory, frame(seed), "action?", profile.calls[0].max_tokens)
        scene = whole_answer(directory, frame(seed), "scene?", profile.scene.max_tokens)
        assert prediction.action.generation.text == action
        assert prediction.scene is not None
        assert prediction.scene.generation.text == scene


def test_the_prefix_serves_any_order_of_questions(engine):
    prefix = engine.see(frame(5))
    first = engine.act(prefix)
    scene = engine.describe(prefix)
    again = engine.act(prefix)
    assert again.generation.text == first.generation.text
    assert again.generation.confidence == pytest.approx(first.generation.confidence, rel=1e-3)
    assert engine.describe(prefix).generation.text == scene.generation.text


def test_an_answer_without_an_end_gives_no_action(engine):
    answer = predict(engine, frame(6), describe=False).action
    assert answer.generation.tokens == engine.profile.calls[0].max_tokens  # random weights do not find the end
    assert (answer.action, answer.reason) == (None, Reason.INCOMPLETE)


def test_a_description_yields_between_two_tokens(engine):
    prefix = engine.see(frame(7))
    engine.act(prefix)
    calls = iter([False] * 4 + [True] * 99)
    assert engine.describe(prefix, lambda: next(calls)) is None
    assert engine.act(prefix).generation.tokens > 0  # the prefix is still good


def test_images_of_any_size_fit(engine):
    for height, width in ((2, 3), (720, 1280)):
        assert predict(engine, frame(8, height, width), describe=False).action.generation.tokens > 0


def test_a_free_question_is_answered(engine):
    answer = engine.ask(engine.see(frame(9)), "what is there")
    assert answer is not None
    assert answer.tokens > 0


def test_the_name_follows_the_weights(directory, tmp_path):
    other = tmp_path / "random"
    save_model(build_model(4), other, build_profile(), "", torch.float32)
    assert identify(directory).model_id.startswith("random@")
    assert identify(directory) != identify(other)


def test_what_is_no_model_is_refused(tmp_path, directory):
    with pytest.raises(OwledError, match="does not exist"):
        load_engine(tmp_path / "nothing")
    with pytest.raises(OwledError, match=r"config\.json"):
        load_engine(tmp_path)
    with pytest.raises(OwledError, match="owled pack"):
        load_engine(directory, runtime="sparse")
    with pytest.raises(OwledError, match="dtype"):
        load_engine(directory, dtype="int3")


def test_half_written_weights_are_refused(tmp_path):
    path = tmp_path / "half"
    save_model(build_model(3), path, build_profile(), "")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(OwledError, match="cut off"):
        load_engine(path)


def first_logits(engine, image: Frame) -> np.ndarray:
    """What the model thinks behind the first question."""
    prefix = engine.see(image)
    return engine.chat.read(engine.chat.prompt(engine.first_conversation(image), prefix.images), 8)


def test_the_packed_model_gives_the_same_prefix_logits(directory, tmp_path):
    import shutil

    from owled_ros.models.packed_weights import vouch
    from owled_ros.models.packing import pack_directory
    from owled_ros.sparse.pack import PACKED_NAME

    packed = tmp_path / "packed"
    shutil.copytree(directory, packed)
    pack_directory(packed, packed / PACKED_NAME, "bf16", vision=False)
    vouch(packed)
    sparse = load_engine(packed, dtype="float32", runtime="sparse")
    dense = load_engine(directory, dtype="float32", runtime="torch")
    try:
        expected, found = (first_logits(engine, frame(11)) for engine in (dense, sparse))
        assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()
        assert sparse.facts["runtime"] == "sparse"
    finally:
        sparse.close()
        dense.close()


def test_the_profile_is_written_and_read(directory):
    assert read_profile(directory) == build_profile()
    assert build_profile().ego_sentence(EgoState(0, 8.3, -0.04)) == "speed 8.5, yaw -0.05."
    assert build_profile().ego_sentence(EgoState(0, -1.0, 9.0)) == "speed 0.0, yaw +0.50."
