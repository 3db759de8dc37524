"""How well the confidence tells rendered frames from real ones: AUROC and what the floor withholds.

    ./owled python benchmarks/unfamiliar_frames.py --clip road.mp4 [--model mini] [--scenes 300]

The model knows rendered roads only, so on a real clip the confidence in its actions must drop and actions must be withheld.
AUROC = share of (rendered, real) pairs in which the rendered frame has the higher confidence, ties count half
(Mann-Whitney U). Ego speeds of the real frames are drawn from the rendered ones: the clip has none.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from owled_ros.driving.confidence import Calibration
from owled_ros.driving.familiarity import Familiarity, read_familiarity
from owled_ros.driving.frame import EgoState
from owled_ros.driving.prediction import judge_action
from owled_ros.driving.profile import read_profile
from owled_ros.evaluation.rendered import evaluation_scenes
from owled_ros.models.driving_model import resolve_model
from owled_ros.models.load import load_model
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.mini_answer import answer_images, answer_paths
from owled_ros.scenes.mini_export import FOLLOW, judge_path
from owled_ros.scenes.mini_model import IMAGE_SIDE
from owled_ros.scenes.out_of_distribution import out_of_distribution_image


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="video of a real road")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    directory = resolve_model(options.model)
    model, calibration, familiarity = (
        load_model(directory),
        read_profile(directory).confidence,
        read_familiarity(directory),
    )
    scenes = evaluation_scenes(options.scenes)
    egos = [scene.ego for scene in scenes]
    groups = {
        "rendered": [scene.image for scene in scenes],
        "real clip": read_clip(options.clip),
        "made-up out-of-distribution images": [
            out_of_distribution_image(900_000 + index, (IMAGE_SIDE, IMAGE_SIDE)) for index in range(options.scenes)
        ],
    }
    confidences = {}
    for name, images in groups.items():
        motions: list[EgoState] = [egos[index % len(egos)] for index in range(len(images))]
        confidences[name] = confidences_of(model, images, motions, calibration, familiarity)
    result = {
        name: {
            "frames": len(values),
            "median_confidence": round(float(np.median(values)), 3),
            "declined_share": round(float(np.mean(values == 0)), 3),
            "withheld_share_at_floor": round(float(np.mean(values < calibration.floor)), 3),
            "auroc_against_rendered": round(auroc(confidences["rendered"], values), 4),
        }
        for name, values in confidences.items()
    }
    print(json.dumps({"floor": calibration.floor, **result}, indent=2))
    if options.out:
        options.out.write_text(json.dumps({"floor": calibration.floor, **result}, indent=2) + "\n")


def confidences_of(
    model: Any,
    images: list[np.ndarray],
    egos: list[EgoState],
    calibration: Calibration,
    familiarity: Familiarity | None,
) -> np.ndarray:
    """Return the confidence (N,) in the actions, or in the trajectories of a model that answers those, told to follow the lane."""
    if tokens.knows_paths(model.config.text_config.vocab_size):
        said = answer_paths(model, images, egos, [FOLLOW] * len(images), calibration, familiarity)
        judged = [judge_path(answer, ego) for answer, ego in zip(said, egos, strict=True)]
    else:
        said = [action for action, _ in answer_images(model, images, egos, calibration, familiarity, scene=False)]
        judged = [judge_action(answer) for answer in said]
    return np.array([answer.generation.confidence for answer in judged])


def read_clip(path: Path) -> list[np.ndarray]:
    """Decode every frame and squash it to the model's square as the engine does."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, image = capture.read()
        if not found:
            break
        squashed = cv2.resize(image, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_AREA)
        frames.append(cv2.cvtColor(squashed, cv2.COLOR_BGR2RGB))
    if not frames:
        raise SystemExit(f"{path} holds no readable video frames")
    return frames


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the probability that a known frame has the higher confidence."""
    above = (known[:, None] > unknown[None]).mean()
    return float(above + 0.5 * (known[:, None] == unknown[None]).mean())


if __name__ == "__main__":
    main()
