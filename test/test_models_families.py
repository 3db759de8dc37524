"""Every family of vision-language models answers through the engine as through its own `generate`, token for token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlms import save_family
from tiny_vlms_more import FAMILIES

from owled_ros.driving.conversation import IMAGE, AnswerLimits, Conversation, Turn
from owled_ros.errors import OwledError
from owled_ros.models.chat import images_of
from owled_ros.models.driving_model import load_engine
from owled_ros.models.load import load_model
from owled_ros.models.packed_weights import vouch
from owled_ros.models.packing import pack_directory
from owled_ros.models.processor import load_processor
from owled_ros.sparse.pack import PACKED_NAME

SIZES = ((60, 90), (64, 48), (50, 50))  # [px] height, width
REREAD = ("paligemma", "mllama", "qwen3_5")  # a bidirectional prefix, cross-attention, a recurrent state
PACKED = (  # those whose language model the packed decoder runs
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl", "smolvlm", "idefics3", "idefics2", "pixtral",
    "mistral3", "ovis2", "deepseek_vl", "vipllava", "lighton_ocr", "deepseek_vl_hybrid", "video_llama_3", "janus",
)  # fmt: skip
TOKENS = 6


def conversations(images: int) -> list[Conversation]:
    """A first question, a second about the same images, images between texts, and a second stage."""
    seen = Turn("user", (*[IMAGE] * images, "What is to be seen?"))
    between = tuple(part for index in range(images) for part in (f"Camera {index}: ", IMAGE))
    return [
        Conversation((Turn("user", (*[IMAGE] * images, "What should the car do now? Isn't it red?")),)),
        Conversation((seen,)),
        Conversation((seen, Turn("assistant", ("a car",)), Turn("user", ("So, stop?",)))),
        Conversation((Turn("user", (*between, "Go?")),)),
    ]


def reference(
    processor: Any, model: Any, conversation: Conversation, images: tuple[Any, ...]
) -> tuple[list[int], list[int]]:
    """Prompt and answer by the processor's template and the model's own `generate`, nothing of ours."""
    shown = iter(images)
    messages = [
        {
            "role": turn.role,
            "content": [
                {"type": "image", "image": next(shown)} if part is IMAGE else {"type": "text", "text": part}
                for part in turn.parts
            ],
        }
        for turn in conversation.turns
    ]
    if processor.chat_template is None:
        text = "\n".join("".join(c.get("text", processor.image_token) for c in m["content"]) for m in messages)
        inputs = processor(text=text, images=[list(images)], return_tensors="pt")
    else:
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
    for key, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            inputs[key] = value.float()  # one family's processor rounds to bfloat16
    whole = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0].tolist()
    prompt = inputs["input_ids"].shape[1]
    return whole[:prompt], [token for token in whole[prompt:] if token != model.generation_config.eos_token_id]


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_equal_those_of_generate(name: str, tmp_path: Path) -> None:
    directory = save_family(name, tmp_path / name)
    model, processor = load_model(directory), load_processor(directory)
    engine = load_engine(directory, dtype="float32", runtime="torch")
    random = np.random.default_rng(3)
    shared, answers = [], []
    for count in (1, 3):
        images = images_of([random.integers(0, 255, (*SIZES[index], 3), np.uint8) for index in range(count)])
        for conversation in conversations(count):
            prompt = engine.chat.prompt(conversation, images)
            shared.append(engine.chat.shared(prompt) > 0)
            reply = engine.chat.reply(prompt, AnswerLimits(TOKENS))
            answers.append((prompt.ids, list(reply.ids)))
            assert answers[-1] == reference(processor, model, conversation, images)
    engine.close()
    assert shared == [False, name not in REREAD, name not in REREAD, False] * 2
    if name in PACKED:
        pack_directory(directory, directory / PACKED_NAME, "bf16", vision=False)
        vouch(directory)
        packed_answers(directory, answers)
    else:
        with pytest.raises(OwledError, match="packed decoder cannot run"):
            pack_directory(directory, directory / PACKED_NAME, "bf16")


def packed_answers(directory: Path, answers: list[tuple[list[int], list[int]]]) -> None:
    """Ask the packed model the same; weights are bfloat16, so that packing loses nothing."""
    engine = load_engine(directory, dtype="float32", runtime="sparse")
    assert engine.chat.reuses
    random, wanted = np.random.default_rng(3), iter(answers)
    for count in (1, 3):
        images = images_of([random.integers(0, 255, (*SIZES[index], 3), np.uint8) for index in range(count)])
        for conversation in conversations(count):
            prompt = engine.chat.prompt(conversation, images)
            reply = engine.chat.reply(prompt, AnswerLimits(TOKENS))
            assert (prompt.ids, list(reply.ids)) == next(wanted)
    engine.close()
