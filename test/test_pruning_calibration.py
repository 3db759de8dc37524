"""Calibration sets: windows, mixes, provenance, and frames through a processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from owled_ros.driving import asking
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import bundled_model
from owled_ros.models.processor import load_processor
from owled_ros.pruning.calibration import (
    PYTHON_DOCS,
    AnsweredFrame,
    frame_set,
    merge,
    read_driving_text,
    read_general_text,
    text_set,
)


class Letters:
    """A tokenizer of single characters."""

    chat_template = "yes"

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return type("Encoding", (), {"input_ids": [ord(letter) for letter in text]})()

    def apply_chat_template(
        self, chat: list[dict[str, Any]], add_generation_prompt: bool = False, tokenize: bool = False
    ) -> str:
        def words(content: Any) -> str:
            return content if isinstance(content, str) else "".join(part.get("text", "*") for part in content)

        text = "".join(
            f"[{turn['role'][0]}]{words(turn['content'])}" + ("$" if turn["role"] == "assistant" else "")
            for turn in chat
        )
        return text + ("[a]" if add_generation_prompt else "")


def test_windows_are_seeded_and_of_one_length() -> None:
    texts = ["abcdefghij" * 3, "0123456789"]
    sets = [text_set("driving_text", "t", "0" * 64, texts, Letters(), 6, 8, seed) for seed in (0, 0, 1)]
    rows = [torch.cat([batch["input_ids"] for batch in found.batches]) for found in sets]
    assert rows[0].shape == (6, 8)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    for row in rows[0]:
        text = "".join(map(chr, row.tolist()))
        assert text in texts[0] or text in texts[1]
    assert sets[0].provenance[0].tokens == 48


def test_short_texts_are_joined_and_too_few_are_refused() -> None:
    found = text_set("general_text", "t", "0" * 64, ["ab", "cd", "ef"], Letters(), 2, 5, 0)
    assert found.batches[0]["input_ids"].shape == (2, 5)
    with pytest.raises(OwledError, match="6 tokens, at least 9"):
        text_set("general_text", "t", "0" * 64, ["ab", "cd", "ef"], Letters(), 2, 9, 0)


def test_the_mix_is_stated() -> None:
    parts = [
        text_set(kind, kind, "0" * 64, ["abcdefgh"], Letters(), count, 4, 0)
        for kind, count in (("driving_text", 3), ("general_text", 1))
    ]
    assert [(entry["kind"], entry["share"]) for entry in merge(parts).entries()] == [
        ("driving_text", 0.75),
        ("general_text", 0.25),
    ]


def test_driving_text_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    records: list[dict[str, Any]] = [
        {
            "description_and_action": " A car. ",
            "qa": [{"question": "Q1", "answer": "A1"}, {"question": "Q2", "answer": "A2"}],
        },
        {"text": "plain"},
        {"description_and_action": "alone", "qa": []},
        {"messages": [{"role": "user", "content": "hello"}]},
    ]
    file.write_text("\n".join(map(json.dumps, records)))
    assert read_driving_text(file, Letters()) == ["[u]A car.\n\nQ1[a]A1$[u]Q2[a]A2$", "plain", "[u]alone", "[u]hello"]
    assert read_driving_text(file, Letters(), range(1, 2)) == ["plain"]
    for none in (range(9, 12), range(0)):
        with pytest.raises(OwledError, match="no record"):
            read_driving_text(file, Letters(), none)
    file.write_text('{"something": 1}')
    with pytest.raises(OwledError, match="has no text"):
        read_driving_text(file, Letters())
    with pytest.raises(OwledError, match="cannot be read"):
        read_driving_text(tmp_path / "missing.jsonl", Letters())


def test_general_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("one\n\ntwo")
    assert read_general_text(str(tmp_path / "book.txt"))[0] == ["one", "two"]
    assert len(" ".join(read_general_text(PYTHON_DOCS)[0])) > 100_000
    with pytest.raises(OwledError, match="cannot be read"):
        read_general_text(str(tmp_path / "none.txt"))


def test_frames_are_labelled_on_their_answers_and_share_batches() -> None:
    processor, profile = load_processor(bundled_model()), read_profile(bundled_model())
    frame = asking.made_up_frame(profile)
    shown, conversation = asking.images(profile, frame), asking.conversation(profile, profile.calls[0], frame)
    lines = [f"{word}, acceleration +0.2 m/s2, steering +0.01 rad" for word in ("cruise", "follow")]
    found = frame_set("bag", [AnsweredFrame(shown, conversation, text) for text in (*lines, "unknown")], processor)
    # the prompt: begin, 144 image tokens, "speed " 5.0 ", yaw " +0.00 "." and the question; then word, acceleration, number,
    # steering, number, unit, or unknown alone; and the end
    asked = 1 + 144 + 5 + 1
    assert [tuple(batch["input_ids"].shape) for batch in found.batches] == [(2, asked + 6 + 1), (1, asked + 1 + 1)]
    labels = found.batches[0]["labels"][0]
    assert processor.tokenizer.decode(labels[labels != -100]).replace(" ", "") == lines[0].replace(" ", "") + "<eos>"
    assert torch.equal(labels[asked:], found.batches[0]["input_ids"][0, asked:])
    assert found.batches[0]["pixel_values"].shape == (2, 3, 192, 192)
    assert found.provenance[0].samples == 3
    with pytest.raises(OwledError, match="no frame"):
        frame_set("bag", [], processor)
