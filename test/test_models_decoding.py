"""Greedy decoding hears generation_config as `generate` does; answers end where they should and can be cancelled."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlms import save_family

from owled_ros.driving.conversation import IMAGE, AnswerLimits, Conversation, Turn
from owled_ros.errors import OwledError
from owled_ros.models.chat import Chat, Reply, images_of
from owled_ros.models.decoding import Decoding, pick
from owled_ros.models.driving_model import load_engine
from owled_ros.models.load import load_model

PICTURE = images_of([np.random.default_rng(5).integers(0, 255, (40, 60, 3), np.uint8)])
ASKED = Conversation((Turn("user", (IMAGE, "What is to be seen?")),))
TOKENS = 12


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("qwen2_vl", tmp_path_factory.mktemp("decoding") / "model")


def configured(directory: Path, **settings: Any) -> tuple[Chat, Any]:
    file = directory / "generation_config.json"
    stored = file.read_text()
    file.write_text(json.dumps({**json.loads(stored), **settings}))
    try:
        return load_engine(directory, dtype="float32", runtime="torch").chat, load_model(directory)
    finally:
        file.write_text(stored)


def answers(chat: Chat, model: Any, tokens: int = TOKENS) -> tuple[Reply, list[int]]:
    """Ours, and that of `generate` behind the prompt."""
    prompt = chat.prompt(ASKED, PICTURE)
    reply = chat.reply(prompt, AnswerLimits(tokens))
    assert reply is not None
    found = model.generate(**prompt.inputs, max_new_tokens=tokens, do_sample=False, num_beams=1)[0, len(prompt.ids) :]
    return reply, found.tolist()


@pytest.fixture(scope="module")
def plain(directory: Path) -> list[int]:
    """What the model says where nothing is set."""
    chat, model = configured(directory)
    reply, whole = answers(chat, model)
    assert list(reply.ids) == whole
    assert not reply.complete
    return whole


def test_settings_count_as_in_generate(directory: Path, plain: list[int]) -> None:
    for settings in (
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": plain[:2]},
        {"begin_suppress_tokens": plain[:1]},
        {"bad_words_ids": [plain[1:3], plain[4:5]]},
        {"eos_token_id": [2, plain[3]], "min_new_tokens": 8},
        {"eos_token_id": [2, plain[3]], "min_length": 70},
        {"forced_eos_token_id": 7},
        {"do_sample": True, "temperature": 0.1, "top_p": 0.001, "repetition_penalty": 1.05},
    ):
        chat, model = configured(directory, **settings)
        reply, whole = answers(chat, model)
        assert list(reply.ids) == [token for token in whole if token not in chat.decoding.stop_ids], settings


def test_every_end_token_ends(directory: Path, plain: list[int]) -> None:
    chat, model = configured(directory, eos_token_id=[2, plain[5]])
    reply, whole = answers(chat, model)
    assert reply.complete
    assert [*reply.ids, plain[5]] == whole == plain[: len(whole)]
    assert len(reply.log_probabilities) == len(whole)


def test_what_does_not_count_is_said(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        chat, _ = configured(directory, num_beams=4, guidance_scale=2.0)
    assert "num_beams" in caplog.text
    assert "guidance_scale" in caplog.text
    assert chat.decoding.rules(5, 5) is None


def test_a_model_without_an_end_is_refused(directory: Path) -> None:
    model = load_model(directory)
    model.generation_config.eos_token_id = None
    with pytest.raises(OwledError, match="end-of-sequence"):
        Decoding(model.config, model.generation_config, SimpleNamespace(eos_token_id=None))
    assert Decoding(model.config, model.generation_config, SimpleNamespace(eos_token_id=9)).stop_ids == {9}


def test_a_stop_string_ends_and_is_cut_off(directory: Path, plain: list[int]) -> None:
    chat, _ = configured(directory)
    prompt = chat.prompt(ASKED, PICTURE)
    whole = chat.reply(prompt, AnswerLimits(TOKENS)).text
    stop = whole[len(whole) // 2 :][:3]
    reply = chat.reply(prompt, AnswerLimits(TOKENS, stop=("never said", stop)))
    assert reply.complete
    assert reply.text == whole[: whole.index(stop)]
    assert list(reply.ids) == plain[: len(reply.ids)]
    assert len(reply.ids) < TOKENS


def test_special_tokens_are_kept_on_request(directory: Path, plain: list[int]) -> None:
    chat, _ = configured(directory)
    special = chat.prompter.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = [plain[0], special, plain[1]]
    assert "<|im_end|>" in chat.prompter.decode(ids, keep_special=True)
    assert "<|im_end|>" not in chat.prompter.decode(ids, keep_special=False)


def test_cancelled_between_tokens_and_again_from_the_start(directory: Path, plain: list[int]) -> None:
    chat, _ = configured(directory)
    prompt = chat.prompt(ASKED, PICTURE)
    asked = iter([False] * 5 + [True] * 9)
    assert chat.reply(prompt, AnswerLimits(TOKENS), lambda: next(asked)) is None
    assert list(chat.reply(prompt, AnswerLimits(TOKENS)).ids) == plain
    assert chat.reply(prompt, AnswerLimits(TOKENS), lambda: True) is None


def test_a_second_stage_goes_on_from_the_first(directory: Path) -> None:
    chat, model = configured(directory)
    read = []
    inner = chat.runner.read
    chat.runner.read = lambda inputs, keep, room: (
        read.append(inputs["input_ids"].shape[1] - keep) or inner(inputs, keep, room)
    )
    first = chat.prompt(ASKED, PICTURE)
    said = chat.reply(first, AnswerLimits(TOKENS)).text
    turns = (*ASKED.turns, Turn("assistant", (said,)), Turn("user", ("So, stop?",)))
    second = chat.prompt(Conversation(turns), PICTURE)
    reply = chat.reply(second, AnswerLimits(TOKENS))
    want = model.generate(**second.inputs, max_new_tokens=TOKENS, do_sample=False)[0, len(second.ids) :].tolist()
    assert list(reply.ids) == [token for token in want if token not in chat.decoding.stop_ids]
    assert read[0] == len(first.ids)
    assert read[1] <= len(second.ids) - len(first.ids) + 1  # nothing of the first question is read twice


def test_probabilities_by_hand() -> None:
    # Shares 1, 3, 0 of 4: the best token is 1 with 3 / 4; with its neighbour 0 it is certain.
    scores = np.array([0.0, math.log(3.0), -np.inf])
    token, alone, near = pick(scores, {1: np.array([0, 1])})
    assert (token, alone, near) == (1, pytest.approx(math.log(0.75)), pytest.approx(0.0))
    assert pick(torch.tensor([0.0, 5.0]).numpy())[0] == 1
