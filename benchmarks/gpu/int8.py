"""A decoded token and camera to action with int8 weights, through the node's own engine; and what they do to driving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from card import bandwidth
from decode import LONG, token_ms
from rows import Step, seconds, settled, step_arguments
from shapes import ANSWER_TOKENS, make, make_engine, step_bytes

from owled_ros.compute_type import fast_dtype
from owled_ros.driving import asking
from owled_ros.driving.prediction import ActionAnswer
from owled_ros.driving.profile import read_profile
from owled_ros.models.driving_model import bundled_model
from owled_ros.models.driving_model import make_engine as around
from owled_ros.models.int8_weights import put_int8, put_int8_or_say_why
from owled_ros.models.load import load_model
from owled_ros.models.runners import TorchRunner
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.mini_model import IMAGE_SIDE
from owled_ros.scenes.sample import EVALUATION_SEEDS, Snapshot, sample_snapshot

BARS = {"llava_7b": (4.5, 100.0), "qwen_3b": (3.5, None)}  # [ms] a token, camera to action
SCENES, SCENE_SEEDS = 150, EVALUATION_SEEDS // 2


def put(step: Step, model: Any, dtype: torch.dtype) -> str:
    """Make a model's weights int8, on a CPU by a widened copy for every product; says what they are then."""
    if step.device.startswith("cuda"):
        return put_int8_or_say_why(model, step.device, str(dtype).removeprefix("torch."))
    return f"int8, {put_int8(model, None):.1%} of what a token reads, widened for every product"


def measure(step: Step, name: str) -> None:
    """Write the rows of one shape."""
    device, dtype = step.device, torch.float32 if step.tiny else torch.bfloat16
    count = 6 if step.tiny else LONG
    model, processor = make(name, device, dtype, step.tiny)
    words = put(step, model, dtype)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
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


def driving(step: Step) -> None:
    """Write what the bundled model answers with int8 weights to rendered scenes, beside the weights that they were made of."""
    camera = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
    scenes = [sample_snapshot(SCENE_SEEDS + number, camera) for number in range(4 if step.tiny else SCENES)]
    wide, plain, _ = _answers(step, scenes, False)
    narrow, found, words = _answers(step, scenes, True)
    same = float(np.mean([a.generation.ids == b.generation.ids for a, b in zip(wide, narrow, strict=True)]))
    for name, unit in (("acceleration", "m/s2"), ("steering", "rad")):
        step.rows.add(
            f"bundled model, int8, mean error of {name}", unit, found[name], peer=plain[name], peer_name="not int8",
            note=f"{len(scenes)} rendered scenes, {found['valid']:.0%} answered (not int8 {plain['valid']:.0%}); {words}",
        )  # fmt: skip
    step.rows.add("bundled model, int8, answers that stay the same", "", same)


def _answers(step: Step, scenes: list[Snapshot], int8: bool) -> tuple[list[ActionAnswer], dict[str, float], str]:
    """Ask the bundled model about every scene; returns answers, how far they are from the expert's (means over the valid ones), weights."""
    directory, dtype = bundled_model(), fast_dtype(step.device)
    model = load_model(directory, device=step.device, dtype=dtype)
    words = put(step, model, getattr(torch, dtype)) if int8 else dtype

    def runner(neighbours: Mapping[int, np.ndarray]) -> tuple[TorchRunner, dict[str, Any]]:
        return TorchRunner(model, step.device, getattr(torch, dtype), neighbours), {"runtime": "torch"}

    engine = around(directory, model, read_profile(directory), runner, dtype)
    frames = [asking.made_up_frame(engine.profile, [scene.image], scene.ego, scene.command) for scene in scenes]
    answers = [engine.act(engine.see(frame)) for frame in frames]
    engine.close()
    pairs = [(answer.action, scene.action) for answer, scene in zip(answers, scenes, strict=True) if answer.action]
    off = [(abs(a.acceleration - b.acceleration), abs(a.steering_tire_angle - b.steering_tire_angle)) for a, b in pairs]
    means = np.mean(off, axis=0) if off else np.full(2, np.nan)
    return answers, {"acceleration": means[0], "steering": means[1], "valid": len(pairs) / len(scenes)}, words


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    driving(step)
    for name in BARS:
        measure(step, name)


if __name__ == "__main__":
    main()
