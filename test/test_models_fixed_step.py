"""The step over fixed buffers gives what the model's own `generate` gives; what cannot be run so says why and runs as before."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models_families import PACKED, conversations, reference
from tiny_vlms import save_family
from tiny_vlms_more import FAMILIES

from owled_ros.driving.conversation import AnswerLimits
from owled_ros.models.chat import images_of
from owled_ros.models.choice import Chooser, DeviceLogits
from owled_ros.models.decoding import pick
from owled_ros.models.driving_model import load_engine
from owled_ros.models.fixed_step import ROOM_STEP
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor

TOKENS = 6
FIXED = (*PACKED, "qwen3_vl")  # must be run in fixed buffers; for others it is allowed
GROWING = {
    "gemma3": "DynamicSlidingWindowLayer",
    "mllama": "not",
    "lfm2_vl": "another kind",
}  # cannot; a word of the reason


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_equal_those_of_generate(name: str, tmp_path: Path) -> None:
    directory = save_family(name, tmp_path / name)
    model, processor = load_model(directory), load_processor(directory)
    engine = load_engine(directory, dtype="float32", runtime="torch", decoding="fixed")
    how = engine.facts["decoding"]
    if name in GROWING:
        assert re.search(f"^growing cache .*{GROWING[name]}", how)
    else:
        assert how == "fixed step" or (name not in FIXED and how.startswith("growing cache ("))
    images = images_of([np.random.default_rng(3).integers(0, 255, (60, 90, 3), np.uint8)])
    for conversation in conversations(1)[:3]:
        reply = engine.chat.reply(engine.chat.prompt(conversation, images), AnswerLimits(TOKENS))
        assert reply is not None
        assert list(reply.ids) == reference(processor, model, conversation, images)[1]
    engine.close()


def test_the_cache_grows_in_the_middle_of_an_answer_and_after_it(tmp_path: Path) -> None:
    directory = save_family("llava", tmp_path / "llava")
    fixed = load_engine(directory, dtype="float32", runtime="torch", decoding="fixed").chat
    grown = load_engine(directory, dtype="float32", runtime="torch").chat
    grey = images_of([np.full((50, 50, 3), 99, np.uint8)])
    prompts = [chat.prompt(conversations(1)[0], grey) for chat in (fixed, grown)]
    assert len(prompts[0].ids) < ROOM_STEP
    for chat, prompt in zip((fixed, grown), prompts, strict=True):
        chat.read(prompt, 0)  # no room asked for: the answer does not fit
    rows = [[np.asarray(chat.runner.extend(9 + index % 20)) for index in range(ROOM_STEP)] for chat in (fixed, grown)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-3)
    for chat in (fixed, grown):  # back to the prompt's beginning, and on
        chat.runner.read(prompts[0].inputs, len(prompts[0].ids) - 1)
    np.testing.assert_allclose(np.asarray(fixed.runner.extend(11)), grown.runner.extend(11), atol=1e-3)


def test_a_broken_frame_does_not_break_the_next(tmp_path: Path) -> None:
    chat = load_engine(save_family("llava", tmp_path / "a"), dtype="float32", runtime="torch", decoding="fixed").chat
    grey = images_of([np.full((50, 50, 3), 99, np.uint8)])
    long, short = (chat.prompt(conversations(1)[place], grey) for place in (2, 1))
    chat.forget()
    good = np.asarray(chat.read(short, 8))
    after = np.asarray(chat.runner.extend(12))
    broken = {**long.inputs, "pixel_values": torch.full_like(long.inputs["pixel_values"], torch.nan)}
    assert np.isnan(
        np.asarray(chat.runner.read(broken, 0, 8))
    ).all()  # leaves not-a-number behind the short prompt's end
    np.testing.assert_array_equal(np.asarray(chat.runner.read(short.inputs, 0, 8)), good)
    np.testing.assert_array_equal(np.asarray(chat.runner.extend(12)), after)


def test_the_choice_on_the_device_is_that_on_the_host() -> None:
    random = np.random.default_rng(0)
    neighbours = {4: np.array([3, 4, 5]), 9: np.array([9]), 200: np.array([1])}  # the last is no token of the model
    chooser = Chooser(neighbours, torch.device("cpu"))
    for best in (4, 9, 7):
        logits = random.normal(size=20).astype(np.float32)
        logits[best] = 9.0
        token, chance, near = DeviceLogits(torch.from_numpy(logits), chooser).choice()
        assert (token, pytest.approx(chance), pytest.approx(near)) == pick(logits, neighbours)
    tied = np.zeros(5, np.float32)
    assert pick(DeviceLogits(torch.from_numpy(tied), chooser))[0] == pick(tied)[0] == 0
