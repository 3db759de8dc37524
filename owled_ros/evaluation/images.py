"""The frames that a report shows: the worst ones and some at random, drawn with answer and path. Needs bags and cv2."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
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
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.frame_values import Tolerance
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


def worst_records(records: Sequence[Record], tolerance: Tolerance, count: int = COUNT) -> list[Record]:
    """Return the records with the largest errors, in units of the tolerance; withheld ones count as no acceleration."""
    chosen: list[Record] = []
    for record in sorted(records, key=lambda item: (-badness(item, tolerance), item.key)):
        near = any(item.bag == record.bag and abs(item.index - record.index) < APART for item in chosen)
        if not near and badness(record, tolerance) > 0.0:
            chosen.append(record)
        if len(chosen) == count:
            break
    return chosen


def random_records(records: Sequence[Record], count: int = COUNT) -> list[Record]:
    """Return some records, the same ones for every model on the same frames."""
    ordered = sorted(records, key=lambda record: record.key)
    picked = np.random.default_rng(SEED).permutation(len(ordered))[:count]
    return [ordered[int(place)] for place in sorted(picked)]


def badness(record: Record, tolerance: Tolerance) -> float:
    """Add up the errors of both parts of the action in units of the tolerance."""
    total = 0.0
    if record.truth.acceleration is not None:
        total += abs((record.acceleration or 0.0) - record.truth.acceleration) / tolerance.acceleration
    if record.truth.steering is not None and record.steering is not None:
        total += abs(record.steering - record.truth.steering) / tolerance.steering
    return total


def show(
    result: ResultFile, records: Sequence[Record], options: ReadOptions, vehicle: VehicleParameters
) -> list[ShownFrame]:
    """Read the images of some records from their bags and draw them."""
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
        shown.append(ShownFrame(record, _words(record), uri))
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
    return ActionAnswer(generation, action, Reason[record.reason])


def _words(record: Record) -> str:
    parts = []
    truth = record.truth
    if truth.acceleration is not None:
        parts.append(f"truth {truth.acceleration:+.2f} m/s²")
    if truth.steering is not None:
        parts.append(f"{truth.steering:+.3f} rad")
    if truth.manoeuvre:
        parts.append(truth.manoeuvre.lower())
    if record.acceleration is not None and truth.acceleration is not None:
        parts.append(f"off by {record.acceleration - truth.acceleration:+.2f} m/s²")
    return ", ".join(parts)


def _data_uri(image: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
