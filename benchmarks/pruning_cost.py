"""Seconds, peak memory and perplexity of Wanda on SmolLM2-135M: ours against llm-compressor, in turns, each in its own process.

Needs a Hugging Face directory of the model (`--model`), a drivingqa-like scenarios.jsonl, and llm-compressor importable
(`--peer-path` adds a directory to its search path). Both sides prune the same stored float32 model to 50 % uniformly on the
same token ids (128 x 512) and are judged by the same code; seconds count from the loaded model to the pruned one.

    python benchmarks/pruning_cost.py --model DIR --data scenarios.jsonl [--rounds 2 --threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from driving_text import parts_of

SIDES = ("ours", "llm-compressor")
SPARSITY = 0.5


def main() -> None:
    """Run both sides in turns and print the medians and their ratios; or be one side."""
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(run_side(arguments)))
        return
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            rounds[side].append(_in_a_process(side, arguments))
            print(side, rounds[side][-1], flush=True)
    medians = {
        side: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for side, rows in rounds.items()
    }
    print(f"| Wanda {SPARSITY:.0%}, {arguments.samples} x {arguments.tokens} tokens | ours | llm-compressor | ratio |")
    print("| --- | --- | --- | --- |")
    for key in medians["ours"]:
        ours, peer = medians["ours"][key], medians["llm-compressor"][key]
        print(f"| {key} | {ours:.4g} | {peer:.4g} | {ours / peer:.3f} |")


def run_side(arguments: argparse.Namespace) -> dict[str, float]:
    """Load, prune and judge in this process."""
    import torch

    from owled_ros.models.load import load_model
    from owled_ros.models.processor import load_processor
    from owled_ros.pruning.calibration import read_driving_text, text_set
    from owled_ros.pruning.passes import forward_precision
    from owled_ros.pruning.prune import peak_memory_bytes
    from owled_ros.pruning.quality import measure

    torch.set_num_threads(arguments.threads)
    tokenizer = load_processor(arguments.model)
    texts = [read_driving_text(arguments.data, tokenizer, lines) for lines in parts_of(arguments.data)]
    make = lambda part, samples, tokens: text_set("driving_text", "-", "-", part, tokenizer, samples, tokens, 0).batches  # noqa: E731
    batches, test = make(texts[0], arguments.samples, arguments.tokens), make(texts[1], 8, 512)
    model = load_model(arguments.model, dtype="float32" if arguments.side == "ours" else arguments.peer_dtype)
    start = time.monotonic()
    (_prune_ours if arguments.side == "ours" else _prune_peer)(model, batches, arguments)
    seconds = time.monotonic() - start
    peak = peak_memory_bytes() / 2**30
    weights = [p for name, p in model.named_parameters() if "proj" in name]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    with forward_precision("auto", "cpu"):
        perplexity = measure(model, test).perplexity
    return {"seconds": seconds, "peak_GiB": peak, "perplexity": perplexity, "zeros": zeros}


def _prune_ours(model: Any, batches: list[Any], arguments: argparse.Namespace) -> None:
    from owled_ros.models.components import find_structure
    from owled_ros.pruning.config import PruneConfig
    from owled_ros.pruning.passes import forward_precision
    from owled_ros.pruning.plan import make_plan
    from owled_ros.pruning.procedure import prune_blocks

    config = PruneConfig(Path(), Path(), SPARSITY, "wanda", arguments.allocation)
    structure = find_structure(model)
    with forward_precision("auto", "cpu"):
        plan = make_plan(model, structure, batches, config, lambda *_: None)
        prune_blocks(model, structure, batches, plan.zeros, config)


def _prune_peer(model: Any, batches: list[Any], arguments: argparse.Namespace) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier
    from torch.utils.data import DataLoader

    rows = [row for batch in batches for row in batch["input_ids"]]
    loader: Any = DataLoader(
        [{"input_ids": row, "attention_mask": row * 0 + 1} for row in rows]
    )  # its default: one each
    recipe = WandaPruningModifier(sparsity=SPARSITY, mask_structure="0:0", targets=["LlamaDecoderLayer"])
    oneshot(
        model=model, dataset=loader, recipe=recipe, max_seq_length=arguments.tokens, num_calibration_samples=len(rows),
        tokenizer=str(arguments.model),
    )  # fmt: skip


def _in_a_process(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side]
    for name in ("model", "data", "samples", "tokens", "threads", "allocation", "peer_dtype"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(arguments.peer_path or "")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--allocation", default="uniform", help="of our side; the other one knows uniform only")
    parser.add_argument(
        "--peer-dtype", default="float32", help="of the other side's weights; bfloat16 is faster, and rounds"
    )
    parser.add_argument("--peer-path", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
