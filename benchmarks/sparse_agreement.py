"""Does a packed text model say what transformers says on the same pruned weights? Logits, greedy tokens, whole answers.

Needs transformers, a Hugging Face directory (an artifact is one) and a drivingqa-like scenarios.jsonl: every prompt is a scene's
description with one of its questions, every answer ends at a line's end. The reference is float32; transformers in bfloat16
stands beside ours. "fp32 on int8 of the same weights" is the reference with the weights that the packed file holds.

    python benchmarks/sparse_agreement.py DIR --data DIR/scenarios.jsonl --work DIR --answers 50
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontier import packed_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from owled_ros.models.packing import pack_directory
from owled_ros.progress import track
from owled_ros.sparse import Decoder, SparseDecoder

MAX_TOKENS = 32
STRIDE = 7  # every so many-th scene: neighbours are nearly equal


@dataclass(frozen=True)
class Spoken:
    """One prompt, the reference's greedy answer, and its logits before every token of it."""

    prompt: list[int]
    answer: list[int]
    logits: np.ndarray  # (T, V)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="packed files are made and kept here")
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument(
        "--packed", nargs="+", default=["bf16:128", "int8:128", "int8:64", "int8:32"], help="precision:group"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, local_files_only=True)
    reference = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    prompts = [ids_of(tokenizer, text) for text in read_prompts(arguments.data, arguments.answers)]
    ends = {index for index in range(len(tokenizer)) if "\n" in tokenizer.decode([index])} | {tokenizer.eos_token_id}
    spoken = [speak(reference, prompt, ends) for prompt in track(prompts, "asking the reference")]
    print(f"{len(spoken)} answers, {sum(len(s.answer) for s in spoken)} tokens\n")
    print("| | largest logit difference / largest logit | rms difference / rms | same token | same answer |")
    print("|---|---|---|---|---|")
    usual = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
    row("transformers bf16", spoken, [forced_torch(usual, s) for s in spoken])
    exact, tied = copy.deepcopy(reference), reference.config.tie_word_embeddings
    for kind in arguments.packed:
        precision, group = kind.split(":")
        path = arguments.work / f"agreement_{precision}_{group}.owled"
        pack_directory(arguments.model, path, precision, group=int(group))
        decoder = SparseDecoder.open(path, threads=arguments.threads)
        said = [forced_packed(decoder, s) for s in spoken]
        row(f"packed {precision}" + f" in groups of {group}" * (precision == "int8"), spoken, said)
        decoder.close()
        if kind in ("bf16:128", "int8:32"):
            exact.load_state_dict({**exact.state_dict(), **packed_weights(path, tied)})
            same = [Spoken(s.prompt, s.answer, forced_torch(exact, s)) for s in spoken]
            row(f"packed {precision}, to fp32 on {precision} of the same weights", same, said)


def read_prompts(data: Path, count: int) -> list[str]:
    """Take one question of every STRIDE-th scene, and where that is too few the next one of each, and so on."""
    scenes = [scene for line in data.read_text().splitlines()[::STRIDE] if (scene := json.loads(line))["qa"]]
    prompts = []
    for number in range(count):
        turn, place = divmod(number, len(scenes))
        scene = scenes[place]
        pair: dict[str, Any] = scene["qa"][(place + turn) % len(scene["qa"])]
        facts = scene["description_and_action"].split("\n\n")[0]
        prompts.append(f"{facts}\n\nQuestion: {pair['question']}\nAnswer:")
    return prompts


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Ask in the chat template, where there is one: an instruct model then answers in sentences."""
    if not tokenizer.chat_template:
        return tokenizer(text).input_ids
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    return tokenizer(rendered, add_special_tokens=False).input_ids


def speak(model: Any, prompt: list[int], ends: set[int]) -> Spoken:
    """Decode greedily with the reference."""
    answer: list[int] = []
    rows = []
    ids, cache = torch.tensor([prompt]), None
    with torch.inference_mode():
        while len(answer) < MAX_TOKENS and not (answer and answer[-1] in ends):
            output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            rows.append(output.logits[0, -1].float().numpy())
            answer.append(int(rows[-1].argmax()))
            ids = torch.tensor([[answer[-1]]])
    return Spoken(prompt, answer, np.stack(rows))


def forced_torch(model: Any, spoken: Spoken) -> np.ndarray:
    """Logits (T, V) before every token of the reference's answer."""
    ids = torch.tensor([spoken.prompt + spoken.answer[:-1]])
    with torch.inference_mode():
        return model(ids, logits_to_keep=len(spoken.answer)).logits[0].float().numpy()


def forced_packed(decoder: Decoder, spoken: Spoken) -> np.ndarray:
    """Logits (T, V) before every token of the reference's answer, one step each."""
    cache = decoder.new_cache(len(spoken.prompt) + MAX_TOKENS)
    rows = [decoder.prefill(cache, decoder.embed(spoken.prompt))]
    rows += [decoder.step(cache, token) for token in spoken.answer[:-1]]
    cache.close()
    return np.stack(rows)


def row(name: str, spoken: list[Spoken], said: list[np.ndarray]) -> None:
    """Print one way beside the reference."""
    worst = [np.abs(got - s.logits).max() / np.abs(s.logits).max() for s, got in zip(spoken, said, strict=True)]
    rms = [np.sqrt(np.mean((got - s.logits) ** 2) / np.mean(s.logits**2)) for s, got in zip(spoken, said, strict=True)]
    same = [got.argmax(axis=1) == s.logits.argmax(axis=1) for s, got in zip(spoken, said, strict=True)]
    print(f"| {name} | {np.max(worst):.1e} | {np.median(rms):.1e} | {np.concatenate(same).mean():.2%} | "
          f"{np.mean([each.all() for each in same]):.1%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
