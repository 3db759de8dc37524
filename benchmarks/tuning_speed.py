"""Samples per second of `owled tune` beside a plain transformers + peft training of the same model, interleaved; and memory.

    ./owled python benchmarks/tuning_speed.py MODEL BAG BAG [--profile points] [--weights lora] [--steps 20] [--rounds 3]

Plain: the model's own processor and chat template, its own loss (`labels=`), AdamW, peft's LoRA on the same layers, batches of the
same size padded by the processor's tokenizer. Both learn from the same questions and images, already decoded, in a process of
their own per measurement; the first steps are left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UNTIMED = 3


def ours(given: argparse.Namespace) -> None:
    """Time the steps of owled tune."""
    from owled_ros.tuning import training
    from owled_ros.tuning.settings import TuneRequest, TuneSettings
    from owled_ros.tuning.tune import tune

    marks: list[float] = []
    learn = training._learn

    def timed(*arguments: Any) -> Any:
        found = learn(*arguments)
        marks.append(time.perf_counter())
        return found

    training._learn = timed  # type: ignore[assignment]
    settings = TuneSettings(
        method=given.weights, steps=given.steps, batch_size=given.batch_size, frames=given.frames, held_out_frames=2,
        measure_every=10**6, save_every_s=1e9, threads=given.threads,
    )  # fmt: skip
    home = given.home / f"ours_{time.time_ns()}"
    home.mkdir(parents=True)
    request = TuneRequest(
        given.model, tuple(given.bags), home / "out", given.profile, accept_little=True, settings=settings
    )
    tune(request)
    _told(given, marks)


def plain(given: argparse.Namespace) -> None:
    """Train as one would by hand."""
    import torch
    from transformers import AutoModelForImageTextToText

    from owled_ros.driving.conversation import Slot
    from owled_ros.models.processor import load_processor
    from owled_ros.tuning.examples import Examples
    from owled_ros.tuning.learner import _with_adapters
    from owled_ros.tuning.settings import TuneSettings

    torch.set_num_threads(given.threads)
    found = Examples(next(given.home.glob("ours_*/out.run/examples")))
    processor = load_processor(given.model)
    model = AutoModelForImageTextToText.from_pretrained(given.model, dtype=torch.float32)
    if given.weights == "lora":
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model = _with_adapters(model, TuneSettings())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()
    marks: list[float] = []
    for step in range(given.steps):
        chosen = [found.items[(step * given.batch_size + place) % len(found)] for place in range(given.batch_size)]
        texts, images, starts = [], [], []
        for item in chosen:
            messages = [
                {
                    "role": turn.role,
                    "content": [
                        {"type": "image"} if isinstance(part, Slot) else {"type": "text", "text": part}
                        for part in turn.parts
                    ],
                }
                for turn in item.conversation.turns
            ]
            asked = processor.apply_chat_template(messages, add_generation_prompt=True)
            texts.append(asked + item.answer + processor.tokenizer.eos_token)
            images.append(list(found.images(item)))
            starts.append(len(processor.tokenizer(item.answer + processor.tokenizer.eos_token).input_ids))
        batch = processor(text=texts, images=images, return_tensors="pt", padding=True)
        labels = torch.full_like(batch["input_ids"], -100)
        for row, count in enumerate(starts):
            length = int(batch["attention_mask"][row].sum())
            at = slice(length - count, length) if processor.tokenizer.padding_side == "right" else slice(-count, None)
            labels[row, at] = batch["input_ids"][row, at]
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
    _told(given, marks)


def _told(given: argparse.Namespace, marks: list[float]) -> None:
    seconds = (marks[-1] - marks[UNTIMED - 1]) / (len(marks) - UNTIMED)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps({"samples_per_s": given.batch_size / seconds, "peak_mib": peak}), flush=True)


def main() -> None:
    """Interleave both and print the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("bags", type=Path, nargs="+")
    parser.add_argument("--profile", default="")
    parser.add_argument("--weights", choices=("lora", "all"), default="lora")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home", type=Path, default=Path("tuning_speed"))
    parser.add_argument("--only", choices=("ours", "plain"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        (ours if given.only == "ours" else plain)(given)
        return
    results: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for number in range(given.rounds):
        for only in ("ours", "plain"):
            done = subprocess.run(
                [sys.executable, *sys.argv, "--only", only], capture_output=True, text=True, check=False
            )
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{only} failed:\n{done.stderr[-3000:]}")
            results[only].append(json.loads(lines[0].removeprefix("RESULT ")))
            print(number, only, results[only][-1], flush=True)
    speed = {name: statistics.median(row["samples_per_s"] for row in rows) for name, rows in results.items()}
    memory = {name: max(row["peak_mib"] for row in rows) for name, rows in results.items()}
    print(f"samples/s: ours {speed['ours']:.2f}, plain {speed['plain']:.2f}: {speed['ours'] / speed['plain']:.2f}")
    print(f"peak memory: ours {memory['ours']:.0f} MiB, plain {memory['plain']:.0f} MiB")


if __name__ == "__main__":
    main()
