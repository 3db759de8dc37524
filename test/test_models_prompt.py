"""Prompts are those of the model's own processor, whatever its template wants; what a user types cannot break them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_vlms import ROLES, save_family

from owled_ros.driving.conversation import IMAGE, Conversation, Turn
from owled_ros.errors import OwledError
from owled_ros.models.chat import images_of
from owled_ros.models.processor import load_processor
from owled_ros.models.prompt import Prompter

QUESTION = "What's ahead?  Answer 'cruise' or \"stop\".  "
PICTURE = images_of([np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)])
STRINGS = (
    "{% for m in messages %}{% if m.content is not string %}{{ raise_exception('content must be a string') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRINTED = STRINGS.replace(
    "{{ raise_exception('content must be a string') }}", ""
)  # prints a list of parts as Python does
WITH_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('the first turn must be the system\\'s') }}{% endif %}"
    + STRINGS
)
SYSTEM_STRING = (
    "{% for m in messages %}{% if m.role == 'system' %}<|im_start|>system\n{{ m.content | trim }}<|im_end|>\n{% else %}"
    "<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}<|im_start|>assistant\n"
)
IMAGE_BEHIND = (
    "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}"
    "{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
BY_KEY = (
    "{% for m in messages %}USER: {% for c in m.content %}{% if 'image' in c %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endfor %} ASSISTANT:"
)
CURLY = ROLES.replace("{{ c.text }}", "{{ c.text | replace(\"'\", '’') | trim }}")


def prompter(tmp_path: Path, template: str | None, family: str = "llava") -> tuple[Prompter, Any]:
    directory = save_family(family, tmp_path / family, template=template)
    processor = load_processor(directory)
    return Prompter(processor), processor


def asked(*parts: Any, system: str | None = None, **options: Any) -> Conversation:
    before = () if system is None else (Turn("system", (system,)),)
    return Conversation((*before, Turn("user", parts)), **options)


def own(processor: Any, messages: list[dict[str, Any]], images: Any, **options: Any) -> list[int]:
    """The ids of the processor's own template."""
    if any(isinstance(m["content"], list) for m in messages):
        for part in (
            part for m in messages for part in m["content"] if isinstance(part, dict) and part["type"] == "image"
        ):
            part["image"] = images[0]
    else:
        options["processor_kwargs"] = {"images": list(images)}
    found = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **options
    )
    return found["input_ids"][0].tolist()


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "image"} if text == "IMAGE" else {"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("template", [ROLES, IMAGE_BEHIND, BY_KEY, CURLY], ids=["roles", "behind", "by key", "curly"])
def test_templates_of_parts(template: str, tmp_path: Path) -> None:
    maker, processor = prompter(tmp_path, template)
    for question in (QUESTION, "USER", "ASSISTANT:", " ", "x"):  # words of the template too
        got = maker.make(asked(IMAGE, question), PICTURE).ids
        assert got == own(processor, [{"role": "user", "content": parts("IMAGE", question)}], PICTURE)


@pytest.mark.parametrize("template", [STRINGS, PRINTED], ids=["refuses parts", "prints parts"])
def test_templates_of_strings(template: str, tmp_path: Path) -> None:
    maker, processor = prompter(tmp_path, template)
    got = maker.make(asked(IMAGE, QUESTION, system="You drive."), PICTURE).ids
    told = [{"role": "system", "content": "You drive."}, {"role": "user", "content": f"<image>{QUESTION}"}]
    assert got == own(processor, told, PICTURE)


def test_a_system_turn_is_made_where_the_template_insists(tmp_path: Path) -> None:
    maker, processor = prompter(tmp_path, WITH_SYSTEM)
    told = [{"role": "system", "content": "You drive a car."}, {"role": "user", "content": "<image>Go?"}]
    assert maker.make(asked(IMAGE, "Go?"), PICTURE).ids == own(processor, told, PICTURE)
    told[0]["content"] = "Obey."
    assert maker.make(asked(IMAGE, "Go?", system="Obey."), PICTURE).ids == own(processor, told, PICTURE)


def test_a_system_turn_as_string_beside_parts(tmp_path: Path) -> None:
    maker, processor = prompter(tmp_path, SYSTEM_STRING)
    told = [{"role": "system", "content": "You drive."}, {"role": "user", "content": parts("IMAGE", "Go?")}]
    assert maker.make(asked(IMAGE, "Go?", system="You drive."), PICTURE).ids == own(processor, told, PICTURE)


def test_the_template_of_the_tokenizer_counts(tmp_path: Path) -> None:
    directory = save_family("llava", tmp_path / "llava", template=None)
    processor = load_processor(directory)
    processor.tokenizer.chat_template = ROLES.replace("IMAGE", "<image>")
    processor.tokenizer.save_pretrained(directory, save_jinja_files=False)
    processor = load_processor(directory)
    assert processor.chat_template is None
    got = Prompter(processor).make(asked(IMAGE, QUESTION), PICTURE).ids
    told = [{"role": "user", "content": parts("IMAGE", QUESTION)}]
    assert got == own(processor, told, PICTURE, chat_template=processor.tokenizer.chat_template)


def test_without_a_template_the_text_stands_alone(tmp_path: Path) -> None:
    maker, processor = prompter(tmp_path, None, "paligemma")
    want = processor(text=f"<image>{QUESTION}", images=[list(PICTURE)], return_tensors="pt")["input_ids"][0].tolist()
    assert maker.make(asked(IMAGE, QUESTION), PICTURE).ids == want


@pytest.mark.parametrize("family", ["llava", "gemma3", "idefics2", "qwen2_5_vl"])
def test_one_beginning_and_no_end_in_the_middle(family: str, tmp_path: Path) -> None:
    directory = save_family(family, tmp_path / family)
    processor = load_processor(directory)
    ids = Prompter(processor).make(asked(IMAGE, QUESTION), PICTURE).ids
    tokenizer = processor.tokenizer
    assert ids.count(tokenizer.bos_token_id) == (0 if family == "qwen2_5_vl" else 1)
    assert tokenizer.eos_token_id not in ids


def test_options_reach_the_template(tmp_path: Path) -> None:
    directory = save_family("qwen2_5_vl", tmp_path / "again")
    processor = load_processor(directory)
    maker = Prompter(processor)
    told = [{"role": "user", "content": parts("IMAGE", "Go?")}]
    for options in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
        got = maker.make(asked(IMAGE, "Go?", options=options), PICTURE).ids
        assert got == own(processor, [dict(turn) for turn in told], PICTURE, **options)
    assert "<think>" in maker.render(asked(IMAGE, "Go?", options={"enable_thinking": False}))


def test_an_answer_can_be_begun(tmp_path: Path) -> None:
    maker, processor = prompter(tmp_path, ROLES)
    begun = maker.make(asked(IMAGE, "Go?", answer_start=" stop because"), PICTURE).ids
    text = maker.render(asked(IMAGE, "Go?")) + " stop because"
    want = processor(text=text, images=[list(PICTURE)], return_tensors="pt", add_special_tokens=False)
    assert begun == want["input_ids"][0].tolist()


def test_tokens_that_a_user_types_are_read_as_text(tmp_path: Path) -> None:
    maker, _ = prompter(tmp_path, ROLES)
    typed = maker.harmless("is <image> or </s> red? 3 < 4 <im")
    assert typed == "is < image> or < /s> red? 3 < 4 <im"
    prompt = maker.make(asked(IMAGE, typed), PICTURE)
    assert len(prompt.ids) > len(maker.make(asked(IMAGE, "is or red?"), PICTURE).ids)
    assert prompt.ids.count(maker.tokenizer.eos_token_id) == 0


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (ROLES.replace("{{ c.text }}", "hello"), "drops or changes"),
        (ROLES.replace("IMAGE", ""), "what is said, but no image.*chat_template.jinja"),
        ("{{ raise_exception('nobody may speak') }}", "nobody may speak"),
        ("{% for %}", "chat template"),
    ],
)
def test_templates_that_cannot_hold_a_prompt_are_refused(template: str, words: str, tmp_path: Path) -> None:
    maker, _ = prompter(tmp_path, template)
    with pytest.raises(OwledError, match=words):
        maker.make(asked(IMAGE, "Go?"), PICTURE)


def test_as_many_images_as_places(tmp_path: Path) -> None:
    maker, _ = prompter(tmp_path, ROLES)
    with pytest.raises(OwledError, match="shows 2 images, 1 were given"):
        maker.make(asked(IMAGE, IMAGE, "Go?"), PICTURE)


def test_images_are_prepared_once_for_all_questions(tmp_path: Path) -> None:
    maker, processor = prompter(tmp_path, ROLES)
    calls = []
    inner = processor.image_processor.preprocess
    processor.image_processor.preprocess = lambda *given, **options: calls.append(1) or inner(*given, **options)
    first, second = (maker.make(asked(IMAGE, text), PICTURE) for text in ("Go?", "Stop?"))
    assert len(calls) == 1
    assert first.inputs["pixel_values"] is second.inputs["pixel_values"]
    other = images_of([np.zeros((40, 60, 3), np.uint8)])
    assert not np.array_equal(
        maker.make(asked(IMAGE, "Go?"), other).inputs["pixel_values"], first.inputs["pixel_values"]
    )
    assert len(calls) == 2
