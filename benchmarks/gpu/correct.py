"""Tokens in float32 are those of the CPU for every family of tiny models, through the package's own loader and engine.

Families are shared out among processes: most of the time is starting up and the CPU's side.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rows import step_arguments
from tiny_vlms import save_family
from tiny_vlms_more import FAMILIES

from owled_ros.driving.conversation import IMAGE, AnswerLimits, Conversation, Turn
from owled_ros.models.chat import images_of
from owled_ros.models.driving_model import load_engine

ASKED = ("What should the car do now?", "What is to be seen?")
TOKENS = 8
FEW = ("llava", "qwen2_5_vl", "gemma3")  # with --tiny
MOST_PROCESSES = 8  # each holds a CUDA context


@dataclass(frozen=True)
class Found:
    """What came of one family."""

    name: str
    same: bool
    how: str


def answers(directory: Path, device: str, decoding: str) -> tuple[list[tuple[int, ...]], str]:
    """Answer two questions about one image."""
    engine = load_engine(directory, device=device, dtype="float32", runtime="torch", decoding=decoding)
    images = images_of([np.random.default_rng(3).integers(0, 255, (60, 90, 3), np.uint8)])
    found = []
    for text in ASKED:
        conversation = Conversation((Turn("user", (IMAGE, text)),))
        reply = engine.chat.reply(engine.chat.prompt(conversation, images), AnswerLimits(TOKENS))
        assert reply is not None
        found.append(reply.ids)
    engine.close()
    return found, str(engine.facts["decoding"])


def compare(told: tuple[str, str, str]) -> Found:
    """Answer on the CPU and on the device; one family must not hide the others."""
    name, device, decoding = told
    with tempfile.TemporaryDirectory() as folder:
        try:
            directory = save_family(name, Path(folder) / name)
            want, _ = answers(directory, "cpu", "growing")
            found, how = answers(directory, device, decoding)
        except Exception as error:
            return Found(name, False, f"{type(error).__name__}: {error}")
    return Found(name, found == want, how)


def main() -> None:
    """Write the row; the log has every family as it comes, should the step be cut off."""
    step = step_arguments()
    names = [name for name in FAMILIES if not step.tiny or name in FEW]
    jobs = [(name, step.device, "fixed" if step.tiny else "auto") for name in names]
    processes = min(MOST_PROCESSES, max(len(os.sched_getaffinity(0)) - 1, 1), len(names))
    if step.tiny:  # here: starting processes would take longer
        done = [compare(job) for job in jobs]
    else:
        done = []
        with multiprocessing.get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
            for found in pool.imap_unordered(compare, jobs):
                done.append(found)
                print(found, flush=True)
    other = [f"{found.name} ({found.how})" for found in done if not found.same]
    launched = [found.name for found in done if "growing" in found.how]
    step.rows.add(
        "families whose tokens equal the CPU's in float32", "", len(done) - len(other), bar=len(names), at_least=True,
        note=f"others: {', '.join(sorted(other)) or 'none'}; not captured: {', '.join(sorted(launched)) or 'none'}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
