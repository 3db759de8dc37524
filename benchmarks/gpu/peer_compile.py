"""The strongest peers: transformers' own `generate` with a static cache and torch.compile, and int8 weights by torchao, compiled."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from decode import generate_ms, moved
from rows import Step, seconds, step_arguments
from shapes import make, make_engine

from owled_ros.driving import asking
from owled_ros.errors import OwledError
from owled_ros.models.int8_weights import Int8Linear, compiled
from owled_ros.models.sparse_weights import cold_timer

MATRIX = (11008, 4096)  # gate and up of a 7B
MICRO = 1e6


def torchao(step: Step) -> None:
    """Write the row of one matrix times one token: torchao's int8 weights, compiled, beside our kernel."""
    shape, dtype = ((64, 256), torch.float32) if step.tiny else (MATRIX, torch.bfloat16)
    about = f"{shape[0]} x {shape[1]}, int8 weights, one token"
    layer = torch.nn.Linear(shape[1], shape[0], bias=False, device=step.device, dtype=dtype)
    x = torch.randn(1, shape[1], device=step.device, dtype=dtype)
    on_gpu = step.device.startswith("cuda")
    timed = cold_timer(step.device) if on_gpu else lambda product: seconds(product, "cpu", 1, 1)
    with torch.inference_mode():
        ours = Int8Linear(layer, compiled(step.device, dtype) if on_gpu else None)
        took = timed(lambda: ours(x)) * MICRO
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError as err:
            step.rows.add(about, "us", took, note=f"torchao is not here: {err}")
            return
        theirs = torch.nn.Sequential(layer)
        quantize_(theirs, Int8WeightOnlyConfig())
        peer: Any = torch.compile(theirs, mode="max-autotune-no-cudagraphs")
        step.rows.add(about, "us", took, peer=timed(lambda: peer(x)) * MICRO, peer_name="torchao, compiled")


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    try:
        torchao(step)
    except (RuntimeError, OwledError) as err:  # what torch's compiler raises, and our kernel where it cannot be had
        step.rows.add("int8 weights by torchao", "us", note=f"not here: {str(err).partition(chr(10))[0]}")
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
