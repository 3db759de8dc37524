"""A decoded token and camera to action with int8 weights, through the node's own engine."""

from __future__ import annotations

import numpy as np
import torch
from card import bandwidth
from decode import LONG, token_ms
from rows import Step, seconds, settled, step_arguments
from shapes import ANSWER_TOKENS, make, make_engine, step_bytes

from owled_ros.driving import asking
from owled_ros.models.int8_weights import put_int8, put_int8_or_say_why

BARS = {"llava_7b": (4.5, 100.0), "qwen_3b": (3.5, None)}  # [ms] a token, camera to action


def measure(step: Step, name: str) -> None:
    """Write the rows of one shape."""
    device, dtype = step.device, torch.float32 if step.tiny else torch.bfloat16
    count = 6 if step.tiny else LONG
    model, processor = make(name, device, dtype, step.tiny)
    if device.startswith("cuda"):
        words = put_int8_or_say_why(model, device, str(dtype).removeprefix("torch."))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        words = f"int8, {put_int8(model, None):.1%} of what a token reads, widened for every product"
    limit = step_bytes(model) / bandwidth(device, 2**22 if step.tiny else 2**30) * 1e3
    engine = make_engine(model, processor, device, dtype, "fixed")
    image = np.random.default_rng(0).integers(0, 255, (336, 336, 3), np.uint8)
    frame = asking.made_up_frame(engine.profile, [image])
    prompt = engine.chat.prompt(engine.first_conversation(frame), engine.see(frame).images)
    token_bar, action_bar = (None, None) if step.tiny else BARS[name]
    ours, _ = token_ms(engine, prompt, device, count)
    step.rows.add(
        f"{name}, a decoded token", "ms", ours, bar=token_bar, limit=limit,
        note=f"{words}; {engine.chat.runner.decoding}; {step_bytes(model) / 1e9:.3g} GB a token",
    )  # fmt: skip
    whole = seconds(lambda: engine.act(engine.see(frame)), device, *step.repeats)
    step.rows.add(f"{name}, camera to action, {ANSWER_TOKENS} tokens", "ms", whole * 1e3, bar=action_bar)
    if device.startswith("cuda"):
        settled(device)
        step.rows.add(f"{name}, peak of GPU memory", "GiB", torch.cuda.max_memory_allocated() / 2**30)
    engine.close()


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    for name in BARS:
        measure(step, name)


if __name__ == "__main__":
    main()
