"""The strongest peer: transformers' own `generate` with a static cache and torch.compile."""

from __future__ import annotations

import time

import numpy as np
import torch
from decode import generate_ms, moved
from rows import step_arguments
from shapes import make, make_engine

from owled_ros.driving import asking


def main() -> None:
    """Write the row."""
    step = step_arguments()
    dtype = torch.float32 if step.tiny else torch.bfloat16
    model, processor = make(step.words[0], step.device, dtype, step.tiny)
    engine = make_engine(model, processor, step.device, dtype, "growing")
    image = np.random.default_rng(0).integers(0, 255, (336, 336, 3), np.uint8)
    frame = asking.made_up_frame(engine.profile, [image])
    prompt = engine.chat.prompt(engine.first_conversation(frame), engine.see(frame).images)
    inputs = moved(dict(prompt.inputs), step.device, dtype)
    started = time.perf_counter()
    found = generate_ms(model, inputs, step, 4 if step.tiny else 32, cache_implementation="static")
    took = time.perf_counter() - started
    step.rows.add(
        f"{step.words[0]}, a token of generate with static cache", "ms", peer=found, peer_name="static cache, compiled",
        note=f"{took:.0f} s with compiling",
    )  # fmt: skip


if __name__ == "__main__":
    main()
