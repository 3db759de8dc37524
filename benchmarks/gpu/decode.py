"""Camera to action and time per token of a large shape, through the node's own engine; `generate` of transformers beside it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from card import bandwidth
from rows import Step, seconds, settled, step_arguments
from shapes import ANSWER_TOKENS, make, make_engine, step_bytes

from owled_ros.driving import asking
from owled_ros.models.decoding import pick

BARS = {"llava_7b": (7.5, 135.0), "qwen_3b": (6.0, None)}  # [ms] a token, camera to action
LONG = 48


def token_ms(engine: Any, prompt: Any, device: str, count: int) -> tuple[float, list[int]]:
    """Return the time of a decoded token, choice included [ms], and the tokens."""
    runner = engine.chat.runner
    for _ in range(2):
        token = pick(runner.read(prompt.inputs, 0, count))[0]
        tokens = [token]
        settled(device)
        start = time.perf_counter()
        for _ in range(count):
            token = pick(runner.extend(token))[0]
            tokens.append(token)
        took = time.perf_counter() - start
    engine.chat.forget()
    return took / count * 1e3, tokens


def generate_ms(model: Any, inputs: dict[str, Any], step: Step, count: int, **how: Any) -> float:
    """Return the time of a token in transformers' own `generate` [ms]: the difference of a long and a short answer."""

    def answer(tokens: int) -> None:
        model.generate(**inputs, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, **how)

    answer(count)
    times = min(step.repeats[0], 3)
    short = seconds(lambda: answer(4), step.device, times, 1)
    return (seconds(lambda: answer(4 + count), step.device, times, 1) - short) / count * 1e3


def moved(inputs: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Move a prompt's inputs as the runner does."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    name, device = step.words[0], step.device
    dtype = torch.float32 if step.tiny else torch.bfloat16
    count = 6 if step.tiny else LONG
    model, processor = make(name, device, dtype, step.tiny)
    limit = step_bytes(model) / bandwidth(device, 2**22 if step.tiny else 2**31) * 1e3
    engine = make_engine(model, processor, device, dtype, "fixed")
    image = np.random.default_rng(0).integers(0, 255, (336, 336, 3), np.uint8)
    frame = asking.made_up_frame(engine.profile, [image])
    prompt = engine.chat.prompt(engine.first_conversation(frame), engine.see(frame).images)
    token_bar, action_bar = (None, None) if step.tiny else BARS[name]

    ours, tokens = token_ms(engine, prompt, device, count)
    how = engine.chat.runner.decoding
    peer = generate_ms(model, moved(dict(prompt.inputs), device, dtype), step, count)
    step.rows.add(
        f"{name}, a decoded token", "ms", ours, bar=token_bar, peer=peer, peer_name="generate", limit=limit,
        note=f"{how}; {len(prompt.ids)} tokens of prompt, {step_bytes(model) / 1e9:.3g} GB a token",
    )  # fmt: skip

    whole = seconds(lambda: engine.act(engine.see(frame)), device, *step.repeats)
    see = seconds(lambda: engine.see(frame), device, *step.repeats)
    step.rows.add(
        f"{name}, camera to action, {ANSWER_TOKENS} tokens", "ms", whole * 1e3, bar=action_bar,
        note=f"of it {see * 1e3:.1f} to see; the image processor counts",
    )  # fmt: skip
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**30
        step.rows.add(f"{name}, peak of GPU memory", "GiB", peak)

    growing = make_engine(model, processor, device, dtype, "growing")
    slow, others = token_ms(growing, prompt, device, count)
    same = next(
        (place for place, pair in enumerate(zip(tokens, others, strict=True)) if pair[0] != pair[1]), len(tokens)
    )
    step.rows.add(
        f"{name}, a token launched anew", "ms", slow,
        note=f"the first {same} of {len(tokens)} tokens equal the captured ones ({str(dtype).removeprefix('torch.')})",
    )  # fmt: skip


if __name__ == "__main__":
    main()
