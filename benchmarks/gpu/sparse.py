"""Weights without their zeros: a decoded token of a pruned 7B, and single matrices beside cuBLAS, dense int8 and torch's 2:4."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from decode import LONG, token_ms
from rows import Step, seconds, settled, step_arguments
from shapes import make, make_engine, step_bytes
from torch import nn

from owled_ros.compute_type import EXACT, FASTEST, SMALLEST
from owled_ros.driving import asking
from owled_ros.errors import OwledError
from owled_ros.models import int8_weights
from owled_ros.models.int8_weights import linears
from owled_ros.models.sparse_weights import Chooser, Timing, cold_timer, put_sparse
from owled_ros.sparse.cuda_kernels import compiled

ZEROS = 0.6
SHAPES = {
    "7B 4096 x 4096": (4096, 4096),
    "7B gate, up": (11008, 4096),
    "7B down": (4096, 11008),
    "3B down": (2048, 11008),
}
TINY_SHAPES = {"tiny": (32, 256)}
SPEED_BAR, MEMORY_BAR = 1.4, 0.6
MICRO = 1e6


def chooser(step: Step, goal: str) -> Chooser:
    """Give a chooser with the kernels of this device; on a CPU their source over emulated threads, which times nothing."""
    if not step.device.startswith("cuda"):
        from emulated_kernels import emulated_run

        return Chooser(goal, emulated_run(), 48 * 1024, None, lambda product: 1.0 if product().dim() == 1 else 2.0)
    run, shared = compiled(step.device)
    return Chooser(goal, run, shared, int8_weights.compiled(step.device, torch.bfloat16), cold_timer(step.device))


def prune(weight: torch.Tensor, zeros: float) -> None:
    """Set the smallest of every row to zero, as Wanda leaves it."""
    count = max(1, int(weight.shape[1] * zeros))
    for rows in weight.split(4096):
        least = rows.abs().float().kthvalue(count, dim=1, keepdim=True).values
        rows.masked_fill_(rows.abs().float() <= least, 0.0)


def whole(step: Step) -> None:
    """Write the rows of a decoded token, dense and with tiles."""
    device, name, count = step.device, "llava_7b", 2 if step.tiny else LONG
    goal = EXACT if step.tiny else SMALLEST  # tiny matrices are smaller than a tile
    model, processor = make(name, device, torch.bfloat16, step.tiny)
    with torch.no_grad():
        for _, _, layer in linears(model):
            if layer is not model.get_output_embeddings():
                prune(layer.weight, ZEROS)
    image = np.random.default_rng(0).integers(0, 255, (336, 336, 3), np.uint8)

    def token() -> tuple[float, str]:
        engine = make_engine(model, processor, device, torch.bfloat16, "fixed")
        frame = asking.made_up_frame(engine.profile, [image])
        prompt = engine.chat.prompt(engine.first_conversation(frame), engine.see(frame).images)
        return token_ms(engine, prompt, device, count)[0], engine.chat.runner.decoding

    dense, _ = token()
    choice = chooser(step, goal)
    words = put_sparse(model, choice)
    ours, how = token()
    about = f"{name}, {ZEROS:.0%} zeros"
    step.rows.add(
        f"{about}, a decoded token", "ms", ours, peer=dense, peer_name="bf16, the same engine",
        note=f"{words}; {how}; {step_bytes(model) / 1e9:.3g} GB a token",
    )  # fmt: skip
    bars = (None, None) if step.tiny else (SPEED_BAR, MEMORY_BAR)
    step.rows.add(f"{about}, times as fast as bf16", "", dense / ours, bar=bars[0], at_least=True)
    share = choice.bytes_now / choice.bytes_dense
    step.rows.add(
        f"{about}, weights beside dense {'bf16' if step.tiny else 'int8'}", "", share, bar=bars[1], note=words
    )
    if device.startswith("cuda"):
        slower = [key for key, timing in choice.timings.items() if timing.sparse > timing.int8]
        step.rows.add(
            f"{about}, sizes at which dense int8 is faster", "", len(slower), note=f"of {len(choice.timings)}"
        )


def single(step: Step, name: str, shape: tuple[int, int], zeros: float) -> None:
    """Write the row of one matrix: tiles and deltas, what is beside them in the note."""
    found: dict[str, Timing] = {}
    for goal in (FASTEST, EXACT):
        layer = nn.Linear(shape[1], shape[0], bias=False, device=step.device, dtype=torch.bfloat16)
        with torch.no_grad():
            prune(layer.weight, zeros)
            choice = chooser(step, goal)
            choice.layer(layer)
        found[goal] = next(iter(choice.timings.values()), Timing(2.0, 2.0, float("nan"), None))
    tiles, deltas = found[FASTEST], found[EXACT]
    step.rows.add(
        f"{name}, {zeros:.0%} zeros, tiles of int8", "us", tiles.sparse * MICRO, peer=tiles.dense * MICRO, peer_name="cuBLAS bf16",
        note=f"dense int8 {tiles.int8 * MICRO:.1f}, exact bf16 (deltas) {deltas.sparse * MICRO:.1f}; blocks {tiles.shape}, {deltas.shape}",
    )  # fmt: skip


def semi_structured(step: Step, name: str, shape: tuple[int, int]) -> None:
    """Write the row of torch's 2:4, which is measured and not offered."""
    weight = torch.randn(shape, device=step.device).bfloat16()
    weight *= torch.tensor([1, 1, 0, 0], device=step.device).bfloat16().repeat(shape[1] // 4)
    x = torch.randn(1, shape[1], device=step.device).bfloat16()
    timer = cold_timer(step.device) if step.device.startswith("cuda") else lambda product: seconds(product, "cpu", 1, 0)
    dense = timer(lambda: nn.functional.linear(x, weight))
    about = f"{name}, 2:4 by torch"
    try:
        with torch.inference_mode():
            packed: Any = nn.Parameter(torch.sparse.to_sparse_semi_structured(weight), requires_grad=False)
            took = timer(lambda: nn.functional.linear(x, packed))
    except (RuntimeError, NotImplementedError, ValueError) as err:
        step.rows.add(about, "us", note=f"not here: {str(err).partition(chr(10))[0]}")
        return
    step.rows.add(about, "us", took * MICRO, peer=dense * MICRO, peer_name="cuBLAS bf16", note="not offered")


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    try:
        chooser(step, SMALLEST)
    except OwledError as err:
        step.rows.add("sparse kernels", "", note=str(err))
        return
    whole(step)
    settled(step.device)
    for name, shape in (TINY_SHAPES if step.tiny else SHAPES).items():
        for zeros in (ZEROS,) if step.tiny else (0.5, 0.6, 0.7):
            single(step, name, shape, zeros)
        semi_structured(step, name, shape)


if __name__ == "__main__":
    main()
