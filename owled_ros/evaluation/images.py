"""The frames that a report shows: the worst ones and some at random, drawn with answer and path, also from above.

Needs bags and cv2.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from owled_ros.bags.frames import ReadOptions
from owled_ros.bags.selection import read_selected
from owled_ros.driving.answer import Action, Manoeuvre
from owled_ros.driving.frame import EgoState
from owled_ros.driving.overlay import Overlay, PinholeView, draw_overlay
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.birds_eye import birds_eye, lines_of
from owled_ros.evaluation.displacement import path_scores
from owled_ros.evaluation.frame_values import Tolerance
from owled_ros.evaluation.headline import words_of
from owled_ros.evaluation.record import Record
from owled_ros.evaluation.result import ResultFile

COUNT = 10  # of each kind
IMAGE_WIDTH = 640  # [px]
JPEG_QUALITY = 80
SEED = 0
APART = 5  # worst frames are at least this many images apart: ten neighbours would show one mistake
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownFrame:
    """One image of a report."""

    record: Record
    error: str  # in words
    data_uri: str  # JPEG; empty when the bag is not there any more
    above: str = ""  # SVG of the paths from above


def worst_records(
    records: Sequence[Record], tolerance: Tolerance, count: int = COUNT, vehicle: VehicleParameters | None = None
) -> list[Record]:
    """Return the records with the largest errors, in units of the tolerance; withheld ones count as continuing."""
    chosen: list[Record] = []
    bad = {record.key: badness(record, tolerance, vehicle) for record in records}
    for record in sorted(records, key=lambda item: (-bad[item.key], item.key)):
        near = any(item.bag == record.bag and abs(item.index - record.index) < APART for item in chosen)
        if not near and bad[record.key] > 0.0:
            chosen.append(record)
        if len(chosen) == count:
            break
    return chosen


def random_records(records: Sequence[Record], count: int = COUNT) -> list[Record]:
    """Return some records, the same ones for every model on the same frames."""
    ordered = sorted(records, key=lambda record: record.key)
    picked = np.random.default_rng(SEED).permutation(len(ordered))[:count]
    return [ordered[int(place)] for place in sorted(picked)]


def badness(record: Record, tolerance: Tolerance, vehicle: VehicleParameters | None = None) -> float:
    """Add up the errors of the action and of the path in units of the tolerance."""
    vehicle = vehicle or VehicleParameters()
    scores = path_scores(record, vehicle, tolerance.miss)
    total = scores.get("path_ade_filled_3s_m", 0.0) / tolerance.miss
    if record.truth.acceleration is not None:
        total += abs((record.acceleration or 0.0) - record.truth.acceleration) / tolerance.acceleration
    if record.truth.steering is not None and record.steering is not None:
        total += abs(record.steering - record.truth.steering) / tolerance.steering
    return total


def show(
    result: ResultFile,
    records: Sequence[Record],
    options: ReadOptions,
    vehicle: VehicleParameters,
    colour: str = "#2463ab",
    others: Sequence[tuple[Mapping[tuple[str, int], Record], str]] = (),
) -> list[ShownFrame]:
    """Read the images of some records from their bags and draw them; `others` are other models' records by key, with colours."""
    images: dict[tuple[str, int], np.ndarray] = {}
    paths = {bag["Name"]: Path(bag["Path"]) for bag in result.condition.get("Bags", [])}
    for name in dict.fromkeys(record.bag for record in records):
        indices = np.array([record.index for record in records if record.bag == name], dtype=np.int64)
        try:
            for sample in read_selected(paths[name], indices, options):
                images[name, sample.index] = sample.frame.image
        except (OwledError, KeyError) as error:
            logger.warning("no images of %s in the report: %s", name, error)
    shown = []
    for record in records:
        image = images.get(record.key)
        uri = "" if image is None else _data_uri(_drawn(image, record, vehicle))
        beside = [(found[record.key], tint) for found, tint in others if record.key in found]
        above = birds_eye(lines_of(record, beside, colour, vehicle))
        shown.append(ShownFrame(record, _words(record, vehicle), uri, above))
    return shown


def _drawn(image: np.ndarray, record: Record, vehicle: VehicleParameters) -> np.ndarray:
    height = max(2, round(image.shape[0] * IMAGE_WIDTH / image.shape[1]))
    small = cv2.resize(image, (IMAGE_WIDTH, height), interpolation=cv2.INTER_AREA)
    ego = EgoState(record.stamp, record.speed, record.yaw_rate)
    overlay = Overlay(answer=_answer_of(record), ego=ego, title=f"{record.bag} #{record.index}")
    return draw_overlay(small, overlay, PinholeView(), vehicle)


def _answer_of(record: Record) -> ActionAnswer:
    generation = Generation(record.text, True, record.confidence, 0, 0.0)
    action = None
    if record.acceleration is not None and record.steering is not None:
        action = Action(record.acceleration, record.steering, Manoeuvre[record.manoeuvre or "UNKNOWN"])
    trajectory = Trajectory(np.array(record.trajectory, np.float64)) if record.trajectory else None
    return ActionAnswer(generation, action, Reason[record.reason], trajectory=trajectory)


def _words(record: Record, vehicle: VehicleParameters) -> str:
    parts = [] if record.valid else [f"not used: {words_of(record.reason)}"]
    truth = record.truth
    if record.command:
        parts.append(f"command {record.command.lower().replace('_', ' ')}")
    if truth.acceleration is not None:
        parts.append(f"truth {truth.acceleration:+.2f} m/s²")
    if truth.steering is not None:
        parts.append(f"{truth.steering:+.3f} rad")
    if truth.manoeuvre:
        parts.append(truth.manoeuvre.lower())
    if record.acceleration is not None and truth.acceleration is not None:
        parts.append(f"off by {record.acceleration - truth.acceleration:+.2f} m/s²")
    off = path_scores(record, vehicle).get("path_fde_3s_m")
    if off is not None:
        parts.append(f"path {off:.1f} m off after 3 s")
    return ", ".join(parts)


def _data_uri(image: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
