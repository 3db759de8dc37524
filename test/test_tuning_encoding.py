"""What is learned is what the engine reads and decodes: prompts equal, answers of the processor, ends at which it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlms import save_family

from owled_ros.driving.conversation import IMAGE, Conversation, Turn
from owled_ros.models.chat import images_of
from owled_ros.models.decoding import Decoding
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.models.prompt import Prompter
from owled_ros.tuning.encoding import IGNORED, encode, learned_tokens, stacked
from owled_ros.tuning.training import loss_of, order

ASKED = Conversation((Turn("user", (IMAGE, "Where to?")),))
ANSWERS = ("[[4.1, 0.0], [8.3, -0.1]]", "[[4.1, 0.0]]", "stop")
SOME = ("llava", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "gemma3", "mllama", "pixtral", "glm4v")


class Asked:
    """A tiny model of a family, asked about images of one size."""

    def __init__(self, name: str, directory: Path) -> None:
        save_family(name, directory)
        self.model, self.processor = load_model(directory), load_processor(directory)
        self.prompter = Prompter(self.processor, self.model.config)
        self.stops = Decoding(self.model.config, self.model.generation_config, self.processor.tokenizer).stop_ids
        random = np.random.default_rng(5)
        self.images = [images_of([random.integers(0, 255, (50, 50, 3), np.uint8)]) for _ in ANSWERS]

    def encoded(self, number: int) -> Any:
        return encode(self.prompter, ASKED, self.images[number], ANSWERS[number], self.stops)


@pytest.mark.parametrize("name", SOME)
def test_prompt_answer_and_end(name: str, tmp_path: Path) -> None:
    asked = Asked(name, tmp_path)
    for number, answer in enumerate(ANSWERS):
        found = asked.encoded(number)
        ids, labels = found.tensors["input_ids"][0].tolist(), found.tensors["labels"][0].tolist()
        prompt = asked.prompter.make(ASKED, asked.images[number]).ids
        assert ids[: found.prompt_tokens] == prompt
        assert labels[: len(prompt)] == [IGNORED] * len(prompt)
        assert tuple(labels[len(prompt) : -1]) == found.answer
        assert labels[-1] in asked.stops
        assert asked.prompter.decode(found.answer, keep_special=True).strip() == answer
        assert found.tensors["attention_mask"].shape == found.tensors["input_ids"].shape
        cut_off = encode(asked.prompter, ASKED, asked.images[number], answer, asked.stops, finished=False)
        assert cut_off.tensors["labels"][0].tolist() == labels[:-1]


def test_the_template_s_own_end_is_learned_where_the_model_stops_at_it(tmp_path: Path) -> None:
    """The whole turn equals the processor's own tokens for question and answer."""
    asked = Asked("qwen2_5_vl", tmp_path)
    end = asked.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    found = encode(asked.prompter, ASKED, asked.images[0], ANSWERS[0], frozenset({end}))
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": asked.images[0][0]}, {"type": "text", "text": "Where to?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": ANSWERS[0]}]},
    ]
    whole = asked.processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    ids = found.tensors["input_ids"][0].tolist()
    assert ids[-1] == end
    assert whole["input_ids"][0].tolist()[: len(ids)] == ids  # the line end of the template follows, and is not learned


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl"])
def test_a_batch_has_the_loss_of_its_parts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("owled_ros.compute_type.cpu_multiplies_bfloat16", lambda: False)  # the slow way is float32
    asked = Asked(name, tmp_path)
    parts = [asked.encoded(number) for number in range(len(ANSWERS))]
    pad = asked.processor.tokenizer.pad_token_id
    batches = stacked(parts, pad)
    assert sum(learned_tokens(batch) for batch in batches) == sum(len(part.answer) + 1 for part in parts)
    with torch.no_grad():
        together = sum(float(loss_of(asked.model, batch, "cpu")) for batch in batches)
        alone = [float(loss_of(asked.model, stacked([part], pad)[0], "cpu")) for part in parts]
        # the slow way: all logits, one token after the other
        slow = 0.0
        for part in parts:
            logits = asked.model(**{key: value for key, value in part.tensors.items() if key != "labels"}).logits[0]
            for place, token in enumerate(part.tensors["labels"][0].tolist()):
                if token != IGNORED:
                    slow -= float(logits[place - 1].log_softmax(-1)[token])
    assert sum(alone) == pytest.approx(slow, rel=1e-4)
    assert together == pytest.approx(slow, rel=1e-4)


def test_every_example_comes_once_a_turn() -> None:
    turns = [order(7, 3, 7 * turn, 7) for turn in range(3)]
    assert [sorted(turn) for turn in turns] == [list(range(7))] * 3
    assert len({tuple(turn) for turn in turns}) == 3
    assert order(7, 3, 5, 4) == [*turns[0][5:], *turns[1][:2]]
