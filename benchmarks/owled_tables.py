"""OWLed's tables (arXiv 2411.07711) on a trained LlmDriver: six methods, seven sparsities, three parts, three calibrations.

Needs an LlmDriver (owled train-llm-driver) and, for the released scenes, their directory. Without --data all is done on our own
world. The model is pruned in memory. Finished rows are kept in --rows, so a killed run resumes; the half-way sparsity comes
first, so that an unfinished table is of use. At the end the tables and the figure are written; --table prints them at any time.

    python benchmarks/owled_tables.py --rows rows.jsonl --model RUN/model --data DRIVINGQA --first 610
    python benchmarks/owled_tables.py --rows rows.jsonl --model RUN/model --data DRIVINGQA --first 610 --cell ours:50:both:0

A row's key is METHOD:PERCENT:PART:DRAW. What general and driving calibration are: docs/llm_driver.md, Tables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from owled_tables_report import draw, markdown, metrics_of, unequal
from row_file import append_row, read_rows

from owled_ros.commands._calibration import SCENE_SEEDS
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.evaluation.drivingqa import GAP, QaAnswer, constant_answers
from owled_ros.evaluation.vector_answers import answer_scenes, before_answers
from owled_ros.files import sha256_file, write_atomic
from owled_ros.llm_driver.calibration import driving_frames, general_frames, world_scenes
from owled_ros.llm_driver.examples import ActedScene, acted_of
from owled_ros.llm_driver.held_out import FIRST, held_out_scenarios
from owled_ros.llm_driver.released import Scenario, read_scenarios, scenarios_file
from owled_ros.models.components import find_structure
from owled_ros.models.load import load_model, reads_vectors, source_of
from owled_ros.models.processor import load_processor
from owled_ros.pruning.calibration import frame_set
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.passes import forward_precision
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.sensitivity import Sensitivity, measure_sensitivity, propose_budget

RESULTS = Path(__file__).resolve().parent / "results" / "owled_tables.md"
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "owled_tables.png"
PERCENTS = (50, 70, 30, 60, 40, 20, 10)  # in the order in which they are run
PARTS = {"both": ("vision", "language"), "encoder": ("vision",), "llm": ("language",)}
DRAWS = 3
AT_ONCE = 256  # scenes that are answered together
SETTING = "setting"  # key of the row that says what the others are of
FEWEST = 4  # questions of a calibration: two scenes
NEIGHBOURS = 10  # released scenes that make a block of the bootstrap: the gap that training leaves


@dataclass(frozen=True)
class Method:
    """A row of the paper's tables; the published procedures collect their statistics block by block and correct no further."""

    score: str
    allocation: str = "uniform"
    calibration: str = "general"
    budget: bool = False  # the encoder gets a sparsity of its own where both parts are pruned
    statistics: str = "block"
    refine_steps: int | None = 0
    reconstruct_steps: int | None = None  # on each part of a block, zeros fixed


METHODS = {
    "magnitude": Method("magnitude", calibration="none", statistics="oneshot"),
    "wanda": Method("wanda"),
    "sparsegpt": Method("sparsegpt"),
    "owl": Method("wanda", "owl"),
    "owled": Method("wanda", "owl", "driving", budget=True),
    "ours": Method("sparsegpt", "learned", "driving", statistics="fused", refine_steps=None),
}
CONTROLS = {  # not in the paper: what driving calibration alone gives, and what reconstruction adds to ours
    "wanda-driving": Method("wanda", calibration="driving"),
    "sparsegpt-driving": Method("sparsegpt", calibration="driving"),
    "ours-reconstructed": replace(METHODS["ours"], reconstruct_steps=100),
}
KNOWN = {**METHODS, **CONTROLS}


@dataclass(frozen=True)
class Cell:
    """One pruned model."""

    method: str
    percent: int
    part: str
    draw: int = 0

    @property
    def key(self) -> str:
        return f"{self.method}:{self.percent}:{self.part}:{self.draw}"


@dataclass(eq=False)
class Bench:
    """A model, the scenes that it is scored on, and those that it is calibrated on."""

    directory: Path
    scored: Sequence[Scenario]
    before: Scenario | None  # the scene before the first scored one
    driving: Sequence[ActedScene]  # empty: our own world
    samples: int  # questions with answers of one calibration
    dtype: str = "auto"
    sensitivities: dict[int, Sensitivity] = field(default_factory=dict)

    @cached_property
    def model(self) -> Any:
        return load_model(self.directory).eval()

    @cached_property
    def dense(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @cached_property
    def processor(self) -> Any:
        return load_processor(self.directory)

    def batches(self, kind: str, number: int) -> list[Batch]:
        """Return calibration number 0, 1, 2, .. of a kind; magnitude needs no more than one to find its way."""
        if kind == "none":
            return self._batches("driving", 0)[:1]
        return self._batches(kind, number)

    def row(self, cell: Cell) -> dict[str, Any]:
        """Prune the dense model and score it."""
        method, start = KNOWN[cell.method], time.monotonic()
        self.model.load_state_dict(self.dense)
        whole = find_structure(self.model).only(PARTS[cell.part])
        batches = self.batches(method.calibration, cell.draw)
        budgets = self._budgets(cell) if method.budget and cell.part == "both" else {}
        pruned_parts = tuple(part for part in PARTS[cell.part] if budgets.get(part, 1.0) > 0.0)
        structure = whole.only(pruned_parts)  # a part whose budget is none stays dense
        config = PruneConfig(
            Path(), Path(), cell.percent / 100, method.score, method.allocation, method.statistics,
            components=pruned_parts, budgets={part: budgets[part] for part in pruned_parts if part in budgets},
            refine_steps=method.refine_steps, reconstruct_steps=method.reconstruct_steps, seed=cell.draw,
        )  # fmt: skip
        config.check()
        with forward_precision(self.dtype, "cpu"):
            plan = make_plan(self.model, structure, batches, config, lambda *_: None)
            prune_blocks(self.model, structure, batches, plan.zeros, config)
        weights = [matrix.stored() for block in whole.blocks for matrix in block.matrices]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        facts = {"sparsity": round(zeros, 5), "budgets": {name: round(value, 4) for name, value in budgets.items()}}
        pruned = time.monotonic()
        scores = self.score(answer_scenes(self.model, self.processor, self.scored, AT_ONCE))
        seconds = {"prune_s": round(pruned - start, 2), "score_s": round(time.monotonic() - pruned, 2)}
        return {"key": cell.key, **vars(cell), **facts, **scores, **seconds}

    def dense_rows(self) -> Iterator[dict[str, Any]]:
        """Score the dense model and what needs no model, with intervals."""
        self.model.load_state_dict(self.dense)
        said = {"dense": answer_scenes(self.model, self.processor, self.scored, AT_ONCE)}
        said["constant"] = constant_answers(self.scored)
        if self.before is not None:
            said["before"] = before_answers(self.scored, self.before)
        for name, answers in said.items():
            yield {"key": name, **self.score(answers, intervals=True)}

    def score(self, answers: Sequence[QaAnswer], intervals: bool = False) -> dict[str, Any]:
        """Compute the metrics; neighbouring released scenes are drawn together, those of our own world have no neighbours."""
        blocks = np.arange(len(answers)) // (1 if self.before is None else NEIGHBOURS)
        return metrics_of(answers, self.scored, blocks if intervals else None)

    def _budgets(self, cell: Cell) -> dict[str, float]:
        """Split the sparsity over encoder and language model by what pruning each alone costs on other training scenes."""
        if cell.draw not in self.sensitivities:
            config = PruneConfig(Path(), Path(), 0.5, "wanda", "uniform", "block", refine_steps=0)
            structure = find_structure(self.model).only(PARTS["both"])
            known, other = self.batches("driving", cell.draw), self.batches("driving", cell.draw + DRAWS)
            with forward_precision(self.dtype, "cpu"):
                self.sensitivities[cell.draw] = measure_sensitivity(self.model, structure, known, other, config)
        return propose_budget(self.sensitivities[cell.draw], cell.percent / 100)

    @cache  # noqa: B019  (lives as long as the run)
    def _batches(self, kind: str, number: int) -> list[Batch]:
        profile = read_profile(self.directory)
        if kind == "general":
            frames = general_frames(profile, self.samples, number)
        else:
            frames = driving_frames(profile, self._driven(number, self.samples // 2))
        return frame_set(kind, frames, self.processor).batches

    def _driven(self, number: int, count: int) -> list[ActedScene]:
        """Take scenes for a calibration; no two calibrations share one as long as there are enough."""
        if not self.driving:
            first = SCENE_SEEDS + number * count
            return list(world_scenes(range(first, first + count)))
        order = np.random.default_rng(0).permutation(len(self.driving))
        return [self.driving[order[place % len(order)]] for place in range(number * count, (number + 1) * count)]


def main(given: Sequence[str] | None = None) -> None:
    """Run the cells that are not there yet, or one, or print the tables."""
    arguments = _arguments(given)
    torch.set_num_threads(arguments.threads)
    try:
        if arguments.table:
            print(markdown(read_rows(arguments.rows)))
        elif arguments.cell:
            _one(arguments, parse_cell(arguments.cell))
        else:
            _all(arguments)
    except OwledError as error:
        raise SystemExit(f"error: {error}") from None


def cells(methods: Sequence[str], percents: Sequence[int], parts: Sequence[str], draws: int) -> Iterator[Cell]:
    """List the cells in the order in which they are run; magnitude knows no calibration and is drawn once."""
    for percent in percents:
        for number in range(draws):
            for part in parts:
                for method in methods:
                    if number == 0 or KNOWN[method].calibration != "none":
                        yield Cell(method, percent, part, number)


def parse_cell(text: str) -> Cell | None:
    """Read METHOD:PERCENT:PART[:DRAW]; None is the dense model."""
    if text == "dense":
        return None
    names = text.split(":")
    if len(names) in (3, 4) and names[0] in KNOWN and names[2] in PARTS and all(n.isdigit() for n in names[1::2]):
        cell = Cell(names[0], int(names[1]), names[2], int(names[3]) if len(names) == 4 else 0)
        if 0 < cell.percent < 100 and (cell.draw == 0 or KNOWN[cell.method].calibration != "none"):
            return cell
    raise OwledError(
        f"{text!r} is no cell: expected METHOD:PERCENT:PART[:DRAW] or dense, e.g. ours:50:both:0; methods {', '.join(KNOWN)}; "
        f"parts {', '.join(PARTS)}; percent 1 to 99; magnitude has draw 0 only"
    )


def _all(arguments: argparse.Namespace) -> None:
    bench, setting = _prepared(arguments)
    rows = _rows_of(arguments.rows, setting)
    if SETTING not in rows:
        append_row(arguments.rows, setting)
    if "dense" not in rows:
        for row in reversed(list(bench.dense_rows())):  # the dense one last: where it is, all are
            append_row(arguments.rows, row)
    wanted = [
        cell
        for cell in cells(arguments.method, arguments.percent, arguments.part, arguments.draws)
        if cell.key not in rows
    ]
    started = time.monotonic()
    for number, cell in enumerate(wanted, start=1):
        row = bench.row(cell)
        append_row(arguments.rows, row)
        left = (time.monotonic() - started) / number * (len(wanted) - number)
        told = f"{number} of {len(wanted)}: {cell.key} in {row['prune_s']:.1f} + {row['score_s']:.1f} s"
        print(f"{told}; {left / 60:.0f} min left", file=sys.stderr, flush=True)
    rows = read_rows(arguments.rows)
    arguments.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, arguments.figure)
    figure = os.path.relpath(arguments.figure, arguments.out.parent)
    write_atomic(arguments.out, markdown(rows, figure) + "\n")


def _one(arguments: argparse.Namespace, cell: Cell | None) -> None:
    """Make one row and print it; say whether the one that is known is the same."""
    bench, setting = _prepared(arguments)
    row = next(bench.dense_rows()) if cell is None else bench.row(cell)
    known = _rows_of(arguments.rows, setting).get(row["key"])
    print(json.dumps(row))
    if known is not None:
        different = unequal(known, row)
        print(
            f"not as in {arguments.rows}: {', '.join(different)}" if different else f"as in {arguments.rows}",
            file=sys.stderr,
        )


def _prepared(arguments: argparse.Namespace) -> tuple[Bench, dict[str, Any]]:
    """Load model and scenes, and tell what the rows will be of."""
    if not reads_vectors(arguments.model):
        raise OwledError(f"{arguments.model} holds no LlmDriver; make one with owled train-llm-driver")
    if arguments.samples < FEWEST:
        raise OwledError(f"--samples is {arguments.samples}; expected {FEWEST} or more")
    setting: dict[str, Any] = {"key": SETTING, "model": source_of(arguments.model).sha256, "samples": arguments.samples}
    if arguments.data is None:
        if not 0 < arguments.scenes <= SCENE_SEEDS - FIRST:
            raise OwledError(f"--scenes is {arguments.scenes}; expected 1 to {SCENE_SEEDS - FIRST}")
        scored = held_out_scenarios(arguments.scenes)
        return Bench(arguments.model, scored, None, (), arguments.samples, arguments.dtype), {
            **setting, "data": "our own world", "scored": len(scored)
        }  # fmt: skip
    scenes = read_scenarios(arguments.data)
    last = arguments.first - GAP - 1
    if not last >= 1 or not arguments.first < len(scenes):
        raise OwledError(f"--first is {arguments.first}; expected {GAP + 2} to {len(scenes) - 1}")
    scored = scenes[arguments.first : arguments.first + arguments.scenes if arguments.scenes else None]
    bench = Bench(
        arguments.model, scored, scenes[arguments.first - 1], [acted_of(scene) for scene in scenes[: last + 1]],
        arguments.samples, arguments.dtype,
    )  # fmt: skip
    told = {
        "data": sha256_file(scenarios_file(arguments.data)),
        "first": arguments.first,
        "scored": len(scored),
        "calibrated_to": last,
    }
    return bench, {**setting, **told}


def _rows_of(path: Path, setting: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the rows; refuse those of another model or other scenes."""
    rows = read_rows(path)
    known = rows.get(SETTING, setting)
    for name, value in setting.items():
        if known.get(name) != value:
            raise OwledError(
                f"{path} holds rows with {name} {known.get(name)}, this run has {value}: give another --rows"
            )
    return rows


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="jsonl that collects the rows")
    parser.add_argument("--model", type=Path, help="directory of a trained LlmDriver")
    parser.add_argument("--data", type=Path, help="released scenes; without them our own world")
    parser.add_argument("--first", type=int, default=610, help="first scored released scene; those before it, ten left "
                        "out, calibrate")  # fmt: skip
    parser.add_argument("--scenes", type=int, help="scored scenes; default: all that are left, 200 of our own world")
    parser.add_argument("--samples", type=int, default=128, help="questions with answers of one calibration")
    parser.add_argument("--table", action="store_true", help="print the tables from the rows and stop")
    parser.add_argument("--cell", help="make one row anew and print it: METHOD:PERCENT:PART[:DRAW], or dense")
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=list(KNOWN))
    parser.add_argument("--percent", nargs="+", type=int, default=list(PERCENTS))
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--draws", type=int, default=DRAWS, help="calibrations of every method that needs one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--dtype", default="auto", help="of the products while pruning")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(given)
    if arguments.model is None and not arguments.table:
        parser.error("--model is needed")
    if arguments.scenes is None and arguments.data is None:
        arguments.scenes = 200
    return arguments


if __name__ == "__main__":
    main()
