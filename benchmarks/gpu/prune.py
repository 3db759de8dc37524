"""Pruning the language model of a 7B in bfloat16: a few of its 32 blocks on 32 samples of 512 tokens, times how many there are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from rows import Step, settled, step_arguments

from owled_ros.models.components import Structure, find_structure
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks

BLOCKS = 32  # of the whole model
MEASURED, LEARNED = 3, 8  # blocks; the first one that is pruned sets libraries up and does not count
STEPS, LEARN_STEPS = 10, 40  # measured and usual
SAMPLES, TOKENS = 32, 512
GIB = 2**30
BARS = {"wanda": 12.0, "sparsegpt": 60.0}  # [s]
LEARN_BAR = 15.0  # [s]
PEAK_BAR = 24.0  # [GiB]


def make(step: Step, blocks: int) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """Return a model of some blocks with random weights, and samples."""
    hidden, inner, heads = (64, 128, 4) if step.tiny else (4096, 11008, 32)
    config = hf.LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks, num_attention_heads=heads, vocab_size=128 if step.tiny else 32064
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(step.device):
        model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32 if step.tiny else torch.bfloat16)
    samples, tokens = (2, 64) if step.tiny else (SAMPLES, TOKENS)
    ids = torch.randint(3, config.vocab_size, (samples, tokens), generator=torch.Generator().manual_seed(0))
    return model.eval(), [{"input_ids": row[None]} for row in ids]


def told(step: Step, score: str, **more: Any) -> PruneConfig:
    """Say what is pruned: six of ten weights."""
    return PruneConfig(Path(), Path(), 0.6, score, components=("language",), device=step.device, **more)


def prune(step: Step, score: str) -> None:
    """Time a score with fused statistics, SparseGPT with its refinement."""
    model, batches = make(step, MEASURED)
    structure = find_structure(model)
    zeros = {matrix.name: matrix.size * 6 // 10 for block in structure.blocks for matrix in block.matrices}
    if step.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    ends: list[float] = []

    def report(done: int, total: int, name: str) -> None:
        settled(step.device)
        ends.append(time.perf_counter())

    prune_blocks(model, structure, batches, zeros, told(step, score, allocation="uniform"), None, report)
    a_block = (ends[-1] - ends[0]) / (len(ends) - 1)
    step.rows.add(
        f"{score}, {BLOCKS} blocks", "s", a_block * BLOCKS, bar=None if step.tiny else BARS[score],
        note=f"from {len(ends) - 1} of {BLOCKS} blocks; without reading and writing the model",
    )  # fmt: skip
    if step.device.startswith("cuda"):
        others = (BLOCKS - MEASURED) * block_bytes(structure)
        peak = (torch.cuda.max_memory_allocated() + others) / GIB
        step.rows.add(f"{score}, peak of GPU memory", "GiB", peak, bar=PEAK_BAR, note="with the blocks left out here")


def block_bytes(structure: Structure) -> int:
    """Count the bytes of a block's matrices."""
    return sum(matrix.weight().numel() * matrix.weight().element_size() for matrix in structure.blocks[0].matrices)


def learn(step: Step) -> None:
    """Time the learned plan."""
    blocks, steps = (2, 2) if step.tiny else (LEARNED, STEPS)
    model, batches = make(step, blocks)
    structure = find_structure(model)
    starts: list[float] = []

    def report(done: int, total: int, detail: str) -> None:
        settled(step.device)
        starts.append(time.perf_counter())

    begun = time.perf_counter()
    make_plan(model, structure, batches, told(step, "wanda", allocation="learned", learn_steps=steps), report)
    whole, learning = time.perf_counter() - begun, starts[-1] - starts[-steps]
    found = (whole - learning + learning / (steps - 1) * LEARN_STEPS) * BLOCKS / blocks
    step.rows.add(
        f"learned plan, {LEARN_STEPS} steps", "s", found, bar=None if step.tiny else LEARN_BAR,
        note=f"from {blocks} of {BLOCKS} blocks and {steps} steps; embedding and output matrix count too often",
    )  # fmt: skip


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    for score in BARS:
        prune(step, score)
    learn(step)


if __name__ == "__main__":
    main()
