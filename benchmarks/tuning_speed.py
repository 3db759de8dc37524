"""Samples per second and memory of `owled tune` beside a plain transformers + peft training of the same model.

    ./owled python benchmarks/tuning_speed.py MODEL BAG BAG [--profile points] [--weights lora] [--steps 8] [--rounds 4]

Plain: the model's own processor and chat template, its own loss (`labels=`), AdamW, peft's LoRA on the same layers, batches of the
same size padded by the processor. Both learn from the same questions and images, already decoded, in turn in one process, so that
whatever else the machine does meets both; memory is that of a process of its own each.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from owled_ros.driving.conversation import Conversation, Slot
from owled_ros.driving.profile_choice import choose_profile
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.models.prompt import Prompter
from owled_ros.tuning import training
from owled_ros.tuning.examples import Examples
from owled_ros.tuning.learner import _with_adapters, make_learner
from owled_ros.tuning.pace import Pace
from owled_ros.tuning.settings import TuneRequest, TuneSettings
from owled_ros.tuning.tune import _engine_around, tune

MANY = 10**6  # steps of a run that does not end
Steps = Callable[[int, int], None]  # (from, to)


def prepare(given: argparse.Namespace) -> Examples:
    """Make the examples by a run of one step."""
    out = given.home / "prepared"
    if not out.exists():
        given.home.mkdir(parents=True, exist_ok=True)
        settings = TuneSettings(
            method=given.weights, steps=1, frames=given.frames, held_out_frames=2, threads=given.threads
        )
        tune(TuneRequest(given.model, tuple(given.bags), out, given.profile, accept_little=True, settings=settings))
    return Examples(out.with_name("prepared.run") / "examples")


def ours(given: argparse.Namespace, examples: Examples) -> Steps:
    """Make what takes the steps of owled tune."""
    settings = TuneSettings(method=given.weights, batch_size=given.batch_size, threads=given.threads)
    model = load_model(given.model, "cpu", "float32")
    engine = _engine_around(model, given.model, choose_profile(given.profile, given.model), "cpu")
    learner = make_learner(model, settings, given.weights, is_artifact=False)
    prompter = Prompter(load_processor(given.model), model.config)
    nothing: Any = None  # it is not measured and not reported here
    loop = training.Loop(
        engine, prompter, learner, examples, nothing, settings, given.home, "", Pace(MANY), lambda *_: None
    )
    batches = training._Batches(loop)

    def steps(first: int, last: int) -> None:
        for step in range(first, last):
            training._learn(loop, batches.at(step), step, MANY)
        for future in batches._ready.values():  # what was read ahead is paid for here
            future.result()

    return steps


def plain(given: argparse.Namespace, examples: Examples) -> Steps:
    """Make what trains as one would by hand."""
    from transformers import AutoModelForImageTextToText

    processor = load_processor(given.model)
    model = AutoModelForImageTextToText.from_pretrained(given.model, dtype=torch.float32)
    if given.weights == "lora":
        model.requires_grad_(False)
        model = _with_adapters(model, TuneSettings())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()

    def steps(first: int, last: int) -> None:
        for step in range(first, last):
            places = training.order(len(examples), 0, step * given.batch_size, given.batch_size)
            loss = model(**_batch(processor, examples, places)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return steps


def _batch(processor: Any, examples: Examples, places: list[int]) -> dict[str, torch.Tensor]:
    texts, images, learned = [], [], []
    for item in (examples.items[place] for place in places):
        asked = processor.apply_chat_template(_messages(item.conversation), add_generation_prompt=True)
        told = item.answer + processor.tokenizer.eos_token
        texts.append(asked + told)
        images.append(list(examples.images(item)))
        learned.append(len(processor.tokenizer(told).input_ids))
    batch = processor(text=texts, images=images, return_tensors="pt", padding=True)
    labels = torch.full_like(batch["input_ids"], -100)
    for row, count in enumerate(learned):
        length = int(batch["attention_mask"][row].sum())
        at = slice(length - count, length) if processor.tokenizer.padding_side == "right" else slice(-count, None)
        labels[row, at] = batch["input_ids"][row, at]
    return {**batch, "labels": labels}


def _messages(conversation: Conversation) -> list[dict[str, Any]]:
    def content(part: str | Slot) -> dict[str, str]:
        return {"type": "image"} if isinstance(part, Slot) else {"type": "text", "text": part}

    return [{"role": turn.role, "content": [content(part) for part in turn.parts]} for turn in conversation.turns]


def interleave(given: argparse.Namespace, examples: Examples) -> None:
    """Let both take steps in turn and print the ratios."""
    sides = {"ours": ours(given, examples), "plain": plain(given, examples)}
    for steps in sides.values():
        steps(0, 2)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(given.rounds):
        first = 2 + number * given.steps
        for name in sorted(sides, reverse=bool(number % 2)):
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name](first, first + given.steps)
            rows[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    samples = given.steps * given.batch_size
    for place, clock in enumerate(("wall", "CPU")):
        speeds = {name: [samples / row[place] for row in found] for name, found in rows.items()}
        ratios = sorted(a / b for a, b in zip(speeds["ours"], speeds["plain"], strict=True))
        print(
            f"samples per {clock} second: ours {statistics.median(speeds['ours']):.2f}, plain {statistics.median(speeds['plain']):.2f}; "
            f"ratio by round {', '.join(f'{ratio:.2f}' for ratio in ratios)}, median {statistics.median(ratios):.2f}"
        )


def peak_mib() -> float:
    """Return the most memory that this process had; what getrusage tells is also that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Interleave both, then measure the memory of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bags", type=Path, nargs="+")
    parser.add_argument("--profile", default="")
    parser.add_argument("--weights", choices=("lora", "all"), default="lora")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home", type=Path, default=Path("tuning_speed"))
    parser.add_argument("--only", choices=("ours", "plain"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    examples = prepare(given)
    if given.only:
        (ours if given.only == "ours" else plain)(given, examples)(0, given.steps)
        print(f"RESULT {peak_mib():.0f}", flush=True)
        return
    interleave(given, examples)
    for name in ("ours", "plain"):
        done = subprocess.run([sys.executable, *sys.argv, "--only", name], capture_output=True, text=True, check=True)
        peak = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
        print(f"peak memory, {name}: {peak.removeprefix('RESULT ')} MiB")


if __name__ == "__main__":
    main()
