"""Pruning the language model of a 7B in bfloat16: a few of its 32 blocks on 32 samples of 512 tokens, times how many there are.

The whole command is run too, on a model of these few blocks; what it does beside pruning them goes by the bytes of the model.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from rows import Step, settled, step_arguments

from owled_ros.models.components import Structure, find_structure
from owled_ros.pruning.config import PruneConfig, PruneProgress
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.prune import prune as prune_model

BLOCKS = 32  # of the whole model
MEASURED, LEARNED = 3, 8  # blocks; the first one that is pruned sets libraries up and does not count
STEPS, LEARN_STEPS = 8, 40  # measured and usual
FEWER = 4  # blocks of a second learned plan: what one more takes
SAMPLES, TOKENS = 32, 512
GIB = 2**30
BARS = {"wanda": 12.0, "sparsegpt": 60.0}  # [s]
LEARN_BAR = 15.0  # [s]
PEAK_BAR, LEARN_PEAK_BAR = 24.0, 32.0  # [GiB]
WHOLE_BAR = 2.0  # times the bar of the blocks


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


def prune(step: Step, score: str) -> Structure:
    """Time a score with fused statistics, SparseGPT with its refinement; returns what it pruned."""
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
    return structure


def command(step: Step, score: str) -> None:
    """Time the whole command, from a directory to an artifact."""
    model, batches = make(step, MEASURED)
    structure, bytes_here = find_structure(model), model_bytes(model)
    whole_bytes = bytes_here + (BLOCKS - MEASURED) * block_bytes(structure)
    ends: dict[int, float] = {}

    def report(progress: PruneProgress) -> None:
        if progress.stage == "prune":
            settled(step.device)
            ends[progress.done] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "model", Path(folder) / "pruned"
        model.save_pretrained(source)
        del model, structure
        config = replace(told(step, score, allocation="uniform"), model=source, output=made)
        begun = time.perf_counter()
        prune_model(config, batches, progress=report)
        took = time.perf_counter() - begun
    a_block = (ends[MEASURED] - ends[1]) / (MEASURED - 1)
    beside = took - MEASURED * a_block
    step.rows.add(
        f"{score}, the whole command", "s", a_block * BLOCKS + beside * whole_bytes / bytes_here,
        bar=None if step.tiny else WHOLE_BAR * BARS[score],
        note=f"{beside:.1f} s of reading, hashing and writing {bytes_here / 1e9:.2g} GB stand for {whole_bytes / 1e9:.2g} GB",
    )  # fmt: skip


def again(step: Step, score: str, before: Structure) -> None:
    """Prune the first block once more and hold its zeros against those of the run before."""
    model, batches = make(step, MEASURED)
    whole = find_structure(model)
    structure = replace(whole, blocks=whole.blocks[:1])
    matrices = structure.blocks[0].matrices
    zeros = {matrix.name: matrix.size * 6 // 10 for matrix in matrices}
    prune_blocks(model, structure, batches, zeros, told(step, score, allocation="uniform"))
    pairs = zip(matrices, before.blocks[0].matrices, strict=True)
    same = sum(torch.equal(one.weight() == 0, other.weight() == 0) for one, other in pairs)
    step.rows.add(
        f"{score}, matrices with the same zeros in two runs", "", same, bar=len(matrices), at_least=True,
        note=f"first block, on {step.device}",
    )  # fmt: skip


def model_bytes(model: Any) -> int:
    """Count the bytes of all weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def block_bytes(structure: Structure) -> int:
    """Count the bytes of a block's matrices."""
    return sum(matrix.weight().numel() * matrix.weight().element_size() for matrix in structure.blocks[0].matrices)


def learn(step: Step) -> None:
    """Time the learned plan."""
    blocks, steps = (2, 2) if step.tiny else (LEARNED, STEPS)
    fewer = peak_of_learning(step, FEWER) if step.device.startswith("cuda") else 0.0
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
    if step.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / GIB
        one_more = (peak - fewer) / (LEARNED - FEWER)
        step.rows.add(
            "learned plan, peak of GPU memory", "GiB", peak + (BLOCKS - LEARNED) * one_more, bar=LEARN_PEAK_BAR,
            note=f"{peak:.1f} with {LEARNED} blocks, {fewer:.1f} with {FEWER}",
        )  # fmt: skip


def peak_of_learning(step: Step, blocks: int) -> float:
    """Return the peak of GPU memory [GiB] of a plan for so many blocks."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model, batches = make(step, blocks)
    make_plan(
        model, find_structure(model), batches, told(step, "wanda", allocation="learned", learn_steps=1),
        lambda done, total, detail: None,
    )  # fmt: skip
    del model
    peak = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peak


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    found = {score: prune(step, score) for score in BARS}
    learn(step)
    again(step, "sparsegpt", found["sparsegpt"])
    command(step, "sparsegpt")


if __name__ == "__main__":
    main()
