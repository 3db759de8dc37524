"""The frontier in metres: bytes a weight of the bundled model's language model against the displacement of its trajectories.

Our packed files beside llama.cpp's types, from the same weights of `mini-turns`; vision tower and projector stay as they are. Every file is
really written, and what it holds is read back and put into the model, which is asked for trajectories on rendered scenes that it never saw.
Needs gguf and llama-cpp-python for the rivals, which are left out where they are missing. Every finished point is kept in --rows.

    python benchmarks/frontier_driving.py --work DIR --rows rows.jsonl [--only rivals] [--draw 0 1 2]
    python benchmarks/frontier_driving.py --rows rows.jsonl --report benchmarks/results/frontier_driving
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from frontier import Packer, packed_weights, parser_of, points, rivals, sizes
from frontier_report import write_report
from row_file import append_row, read_rows

from owled_ros.commands._calibration import SCENE_SEEDS, scene_frames
from owled_ros.evaluation.rendered_paths import path_scenes, score_paths
from owled_ros.models.components import find_structure
from owled_ros.models.driving_model import resolve_model
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.pruning.calibration import frame_set
from owled_ros.pruning.config import Batch
from owled_ros.pruning.quality import measure

INSIDE = "model.language_model."  # how the names of the language model begin
HELD_OUT = SCENE_SEEDS + 50_000  # scenes whose loss is measured
MEASURES = {
    "ade": "displacement over 3 s [m]",
    "turning_ade": "in turns [m]",
    "loss": "loss per token of the expert's answers",
    "answered": "share of scenes answered",
}


def main() -> None:
    """Make the points that are not there yet, or write the report."""
    arguments = _arguments()
    if arguments.report:
        title = "Bytes a weight of the language model against displacement, mini-turns"
        write_report(read_rows(arguments.rows), arguments.report, title, MEASURES, judged=("ade", "loss"))
        return
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    directory = resolve_model("mini-turns")
    processor, model = load_processor(directory), load_model(directory, "cpu")
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scenes = path_scenes(arguments.scenes)

    def batches_from(seed: int) -> list[Batch]:
        return frame_set("rendered scenes", scene_frames(directory, arguments.calibration, seed), processor).batches

    held_out = batches_from(HELD_OUT)
    calibration_of = lru_cache(1)(lambda draw: batches_from(SCENE_SEEDS + draw * arguments.calibration))

    def judge(key: str, facts: Mapping[str, Any], weights: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        model.load_state_dict({**dense, **{_whole(name): tensor for name, tensor in weights().items()}})
        score, quality = score_paths(model, directory, scenes), measure(model, held_out)
        found = {"answered": score.answered, "ade": score.ade, "turning_ade": score.turning_ade, "loss": quality.loss}
        row = {"key": key, **facts, **{name: round(value, 4) for name, value in found.items()}}
        append_row(arguments.rows, row)
        print(json.dumps(row), flush=True)

    if "dense" not in read_rows(arguments.rows):
        judge("dense", {"family": "dense", "bytes": 4.0}, dict)
    if arguments.only != "ours":
        language = {_plain(name): tensor for name, tensor in dense.items() if name.startswith((INSIDE, "lm_head."))}
        rivals(arguments, model.config.text_config.to_dict(), language, judge)
    if arguments.only != "rivals":
        structure = find_structure(model).only(("language",))
        packer = Packer(model, structure, lambda: load_model(directory, "cpu"))
        for point in points(arguments):
            if point.key in read_rows(arguments.rows):
                continue
            model.load_state_dict(dense)
            place = point.place(arguments.work)
            seconds = packer.pack(calibration_of(point.draw), point, place)
            facts = {"family": "ours", **asdict(point), **sizes(place), **seconds}
            judge(point.key, facts, lambda place=place: packed_weights(place, False))  # type: ignore[misc]


def _plain(name: str) -> str:
    return name.replace(INSIDE, "model.", 1)


def _whole(name: str) -> str:
    """Undo _plain; names of packed files are whole."""
    return name if name.startswith((INSIDE, "lm_head.")) else name.replace("model.", INSIDE, 1)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--scenes", type=int, default=200, help="scenes whose trajectories are judged, half of them where routes turn"
    )
    parser.add_argument("--calibration", type=int, default=128, help="other scenes that calibrate a draw")
    return parser.parse_args()


if __name__ == "__main__":
    main()
