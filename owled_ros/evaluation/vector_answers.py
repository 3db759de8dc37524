"""An LlmDriver on scenes with vectors, scored like the text models of evaluation.drivingqa. Needs torch and transformers.

It reads the vectors instead of a description, so it is given no examples. Letters: B scenes, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from owled_ros.devices import resolve_device
from owled_ros.driving.vector_words import DRIVE
from owled_ros.evaluation.drivingqa import MAX_TOKENS, QaAnswer, keep_tokens, new_cache
from owled_ros.llm_driver.batches import prompt_text
from owled_ros.llm_driver.released import Pedals, Scenario, parse_action, parse_perception, required_vectors
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.progress import track

BATCH = 32


def evaluate_vector_model(
    path: Path | str, scenarios: Sequence[Scenario], device: str = "cpu", dtype: str = "float32", threads: int = 1
) -> list[QaAnswer]:
    """Load an LlmDriver and ask it about every scene.

    Raises:
        OwledError: a scene has no vectors.
    """
    torch.set_num_threads(threads)
    place = resolve_device(device)
    return answer_scenes(load_model(path, device=place, dtype=dtype).eval(), load_processor(path), scenarios)


@torch.inference_mode()
def answer_scenes(model: Any, processor: Any, scenarios: Sequence[Scenario], size: int = BATCH) -> list[QaAnswer]:
    """Ask what is to be seen and done, `size` scenes at a time; `loss` is that of the released answer.

    One pass reads scene, question and released answer; from what it keeps of the first two the model then answers.
    """
    scenes = [required_vectors(scenario) for scenario in scenarios]
    prompt = prompt_text(processor, DRIVE)
    answers: list[QaAnswer] = []
    for first in track(range(0, len(scenes), size), "asking about scenes"):
        batch = [scene.packed() for scene in scenes[first : first + size]]
        inputs = processor([prompt] * len(batch), images=batch, return_tensors="pt", add_special_tokens=False)
        inputs = {name: value.to(model.device) for name, value in inputs.items() if name != "token_type_ids"}
        cache = new_cache(model.config.get_text_config(decoder=True))
        references = [scenario.reference for scenario in scenarios[first : first + size]]
        losses = _losses(model, processor, inputs, references, cache)
        for text, loss in zip(_said(model, processor, inputs, cache), losses, strict=True):
            answers.append(QaAnswer(parse_perception(text), parse_action(text), loss))
    return answers


def before_answers(scenarios: Sequence[Scenario], before: Scenario) -> list[QaAnswer]:
    """Copy everything of the scene before, and the wheel's position as steering: what a model must beat that sees no text."""
    return [
        QaAnswer(last.perception, Pedals(last.action.longitudinal, scenario.wheel))
        for last, scenario in zip([before, *scenarios[:-1]], scenarios, strict=True)
    ]


def exchanged(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Give every scene the vectors of one half the range away: a control, what a model says that does not look at them."""
    half = len(scenarios) // 2
    return [
        replace(scenario, vectors=other.vectors)
        for scenario, other in zip(scenarios, [*scenarios[half:], *scenarios[:half]], strict=True)
    ]


def _losses(
    model: Any, processor: Any, inputs: dict[str, torch.Tensor], references: Sequence[str], cache: Any
) -> list[float]:
    """Return the mean loss per token of each reference behind the same prompt; the cache keeps what was read."""
    tokenizer = processor.tokenizer
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in references]
    longest = max(map(len, ids))
    padded = torch.full((len(ids), longest), tokenizer.pad_token_id, device=model.device)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = torch.tensor(tokens, device=model.device)
    whole = torch.cat([inputs["input_ids"], padded], dim=1)  # padding on the right changes nothing before it
    read = model(input_ids=whole, vectors=inputs["vectors"], past_key_values=cache, logits_to_keep=longest + 1)
    losses = functional.cross_entropy(read.logits[:, :-1].float().transpose(1, 2), padded, reduction="none")  # (B, T)
    return [float(losses[row, : len(tokens)].mean()) for row, tokens in enumerate(ids)]


def _said(model: Any, processor: Any, inputs: dict[str, torch.Tensor], cache: Any) -> list[str]:
    """Answer greedily; the prompt is read again only where there is no cache that knows it."""
    start = inputs["input_ids"].shape[1]
    given: dict[str, Any] = dict(inputs)
    if cache is not None:
        keep_tokens(cache, start - 1)  # `generate` reads the last token of the prompt again
        given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "past_key_values": cache}
    said = model.generate(
        **given, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=processor.tokenizer.pad_token_id
    )
    return list(processor.tokenizer.batch_decode(said[:, start:], skip_special_tokens=True))
