"""How much of a layer's output the zeros cost: scores that move the kept weights, on real inputs of SmolLM2-135M.

Needs what `pruning_smollm2.py` needs. Single matrices of three blocks are pruned on the statistics of the dense model and judged
by the squared error of their output over its square, on the calibration and on driving text held out from it. One process.

    python benchmarks/layer_error.py --data DIR/scenarios.jsonl --rows rows.jsonl [--sparsity 0.7 --refine 10]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pruning_smollm2 import begin, calibration_of, parser_of

from owled_ros.models.components import Structure, find_structure
from owled_ros.pruning.admm import admm
from owled_ros.pruning.blocks import StatisticsHooks
from owled_ros.pruning.config import Batch
from owled_ros.pruning.sparsegpt import output_error, refine, sparsegpt

BLOCKS = (3, 14, 26)
KINDS = ("q_proj", "up_proj", "down_proj")
Prune = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
METHODS: dict[str, Prune] = {"sparsegpt": sparsegpt, "admm": admm}


def main() -> None:
    """Measure and print a table."""
    arguments = _arguments()
    tokenizer, model, tests = begin(arguments)
    structure = find_structure(model)
    matrices = [m for i in BLOCKS for m in structure.blocks[i].matrices if m.name.split(".")[-1] in KINDS]
    seen, held_out = (
        _hessians(model, structure, batches)
        for batches in (calibration_of(tokenizer, arguments, arguments.draw[0]).batches, tests["driving"])
    )
    print("| method | error, calibration | held-out driving text | s |\n| --- | --- | --- | --- |")
    for name, prune in METHODS.items():
        for steps in (0, arguments.refine):
            start, shares = time.perf_counter(), []
            for matrix in matrices:
                weight, hessian = matrix.weight(), seen[matrix.name]
                pruned, mask = prune(weight, hessian, round(arguments.sparsity * weight.numel()))
                pruned = refine(weight, pruned, mask, hessian, steps)
                shares.append([_share(weight, pruned, of[matrix.name]) for of in (seen, held_out)])
            means = [math.exp(sum(map(math.log, column)) / len(matrices)) for column in zip(*shares, strict=True)]
            label = name + f" + refine {steps}" * (steps > 0)
            print(f"| {label} | {means[0]:.4f} | {means[1]:.4f} | {time.perf_counter() - start:.1f} |", flush=True)


def _hessians(model: Any, structure: Structure, batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
    """Return X^T X (K, K) of the inputs of every matrix of BLOCKS, by name."""
    with StatisticsHooks([structure.blocks[index] for index in BLOCKS], True) as hooks, torch.no_grad():
        for batch in batches:
            hooks.over(batch.get("attention_mask"))
            model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False)
    return {name: found.hessian for name, found in hooks.results().items() if found.hessian is not None}


def _share(weight: torch.Tensor, pruned: torch.Tensor, hessian: torch.Tensor) -> float:
    """Return the squared error of the output over the square of the output."""
    whole = output_error(weight, torch.zeros_like(weight), hessian).sum()
    return float(output_error(weight, pruned, hessian).sum() / whole)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--refine", type=int, default=10, help="least-squares steps on the kept weights")
    return parser.parse_args()


if __name__ == "__main__":
    main()
