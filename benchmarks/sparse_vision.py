"""A vision tower with packed Linear layers against the same tower in torch, interleaved in one process.

Needs transformers. Towers of random weights (their time does not depend on the values): the bundled model's, SigLIP base and
CLIP large at the layer counts below. Zeros are put in by --sparsity, at random. Ratios are ratios of medians.

    python benchmarks/sparse_vision.py --work DIR --threads 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from owled_ros.scenes import mini_model
from owled_ros.sparse.linear import pack_linears, replace_linears
from owled_ros.sparse.timing import interleave

# hidden, intermediate, heads, image side [px], patch [px], layers timed
TOWERS = {
    "bundled": (
        *(mini_model.WIDTH, mini_model.MLP, mini_model.HEADS),
        *(mini_model.IMAGE_SIDE, mini_model.PATCH, mini_model.VISION_LAYERS),
    ),
    "siglip_base": (768, 3072, 12, 224, 16, 4),
    "clip_large": (1024, 4096, 16, 336, 14, 2),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="for the packed matrices")
    parser.add_argument("--towers", nargs="*", default=list(TOWERS), choices=TOWERS)
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.0, 0.6])
    parser.add_argument("--precisions", nargs="*", default=["int8"], choices=("int8", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(f"{arguments.threads} threads, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| tower | tokens | way | ms | p10 - p90 | x torch bf16 | MB |\n|---|---|---|---|---|---|---|")
    for name in arguments.towers:
        runs, sizes, tokens = make_runs(name, arguments)
        interleave(runs, 2)
        times = interleave(runs, arguments.rounds)
        reference = statistics.median(times["torch bf16"])
        for way, values in times.items():
            median = statistics.median(values)
            low, high = np.percentile(values, [10, 90]) * 1e3
            print(f"| {name} | {tokens} | {way} | {median * 1e3:.2f} | {low:.2f} - {high:.2f} | "
                  f"{reference / median:.2f} | {sizes[way] / 1e6:.1f} |")  # fmt: skip


def make_runs(name: str, arguments: argparse.Namespace) -> tuple[dict[str, Callable[[], float]], dict[str, int], int]:
    """Build every variant of one tower: seconds per image by way, bytes of its Linear layers, tokens."""
    runs: dict[str, Callable[[], float]] = {}
    sizes: dict[str, int] = {}
    side, patch = TOWERS[name][3:5]
    linear_weights = sum(module.weight.numel() for module in linears(make_tower(name, 0.0)).values())
    for dtype, label in ((torch.float32, "torch fp32"), (torch.bfloat16, "torch bf16")):
        runs[label] = timed(make_tower(name, 0.0).to(dtype), side, dtype)
        sizes[label] = linear_weights * dtype.itemsize
    for sparsity in arguments.sparsity:
        for precision in arguments.precisions:
            tower = make_tower(name, sparsity)
            path = arguments.work / f"{name}_{sparsity}_{precision}.owled"
            pack_linears(tower, linears(tower), path, precision)
            replace_linears(tower, path, threads=arguments.threads)
            label = f"packed {precision}, {sparsity:.0%} zeros"
            runs[label] = timed(tower.to(torch.bfloat16), side, torch.bfloat16)
            sizes[label] = path.stat().st_size
    return runs, sizes, (side // patch) ** 2 + 1


def make_tower(name: str, sparsity: float) -> CLIPVisionModel:
    """Draw a tower."""
    hidden, inner, heads, side, patch, layers = TOWERS[name]
    torch.manual_seed(0)
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads, image_size=side, patch_size=patch,
            num_hidden_layers=layers, projection_dim=hidden,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for module in linears(tower).values():
            module.weight.mul_(torch.rand_like(module.weight) >= sparsity)
    return tower


def linears(tower: CLIPVisionModel) -> dict[str, torch.nn.Linear]:
    """Find the matrices that pruning takes."""
    return {name: module for name, module in tower.named_modules() if isinstance(module, torch.nn.Linear)}


def timed(tower: CLIPVisionModel, side: int, dtype: torch.dtype) -> Callable[[], float]:
    """Time one image."""
    image = torch.zeros(1, 3, side, side, dtype=dtype).normal_()

    def run() -> float:
        with torch.inference_mode():
            start = time.perf_counter()
            tower(pixel_values=image)
            return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
