"""Driving metrics of the bundled model pruned at 30/50/60/70 %: vision tower, language model, both; dense, uniform, OWL, ours.

Needs the bundled model (or --model DIR of the same architecture). Calibrates on rendered scenes with the expert's answers
and evaluates on other unseen scenes. Finished rows are kept in --rows, so a killed run resumes; --table prints markdown.

    python benchmarks/pruning_vlm.py --rows rows.jsonl [--scenes 200 --score sparsegpt ...]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from row_file import append_row, read_rows

from owled_ros.commands._calibration import SCENE_SEEDS, scene_frames
from owled_ros.evaluation.metrics import summarise
from owled_ros.evaluation.rendered import evaluate_rendered, evaluation_scenes
from owled_ros.models.components import find_structure
from owled_ros.models.driving_model import resolve_model
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.pruning.calibration import frame_set
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks

PARTS = {"encoder": ("vision",), "language": ("language",), "both": ("vision", "language")}
METRICS = ("acceleration_mae_mps2", "steering_mae_rad", "E_car", "E_ped", "Acc_TL", "valid_share")


@dataclass(frozen=True)
class Row:
    """One setting of the table."""

    part: str
    allocation: str
    score: str
    sparsity: float

    @property
    def key(self) -> str:
        return f"{self.part}/{self.allocation}/{self.score}/{self.sparsity:g}"


def main() -> None:
    """Run the chosen rows that are not there yet."""
    arguments = _arguments()
    if arguments.table:
        print(table(list(read_rows(arguments.rows).values())))
        return
    torch.set_num_threads(arguments.threads)
    directory = resolve_model(arguments.model)
    model, processor = load_model(directory), load_processor(directory)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    structure = find_structure(model)
    scenes = evaluation_scenes(arguments.scenes)
    assert arguments.scenes <= SCENE_SEEDS, "evaluation scenes must stay below the seeds that calibrate"
    batches = frame_set("rendered scenes", scene_frames(directory, arguments.calibration), processor).batches

    def evaluate(key: str, facts: dict[str, Any]) -> None:
        found = summarise(evaluate_rendered(model, directory, scenes), intervals=False)["means"]
        append_row(arguments.rows, {"key": key, **facts, **{name: found[name] for name in METRICS}})

    if "dense" not in read_rows(arguments.rows):
        evaluate("dense", {})
    for row in _wanted(arguments):
        if row.key in read_rows(arguments.rows):
            continue
        model.load_state_dict(dense)
        part = structure.only(PARTS[row.part])
        config = PruneConfig(Path(), Path(), row.sparsity, row.score, row.allocation, components=PARTS[row.part])
        start = time.monotonic()
        with forward_precision(arguments.dtype, "cpu"):
            plan = make_plan(model, part, batches, config, lambda *_: None)
            prune_blocks(model, part, batches, plan.zeros, config)
        evaluate(row.key, {**vars(row), "prune_s": round(time.monotonic() - start, 1)})
        print(row.key, flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as markdown."""
    lines = [
        "| part | sparsity | allocation | score | " + " | ".join(METRICS) + " |",
        "| --- " * (4 + len(METRICS)) + "|",
    ]
    for row in rows:
        head = (
            ["dense", "", "", ""]
            if row["key"] == "dense"
            else [row["part"], f"{row['sparsity']:g}", row["allocation"], row["score"]]
        )
        cells = ["" if row[name] is None else f"{row[name]:.4g}" for name in METRICS]
        lines.append("| " + " | ".join([*head, *cells]) + " |")
    return "\n".join(lines)


def _wanted(arguments: argparse.Namespace) -> list[Row]:
    return [
        Row(part, allocation, score, sparsity)
        for sparsity in arguments.sparsity
        for part in arguments.part
        for score in arguments.score
        for allocation in arguments.allocation
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="jsonl that collects the rows")
    parser.add_argument("--model", default="mini", help="model directory; 'mini' is the bundled one")
    parser.add_argument("--table", action="store_true", help="print the rows as a table and stop")
    parser.add_argument("--scenes", type=int, default=200, help="evaluation scenes")
    parser.add_argument("--calibration", type=int, default=128, help="calibration scenes")
    parser.add_argument("--part", nargs="+", default=list(PARTS))
    parser.add_argument("--score", nargs="+", default=["sparsegpt"])
    parser.add_argument("--allocation", nargs="+", default=["uniform", "owl", "learned"])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.3, 0.5, 0.6, 0.7])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
