"""Calibrate a model on drives: answer their frames, fit its confidence and familiarity, write both beside it. Needs bags, models.

Platt scaling and familiarity are fitted on some drives; the confidence is judged on others.
"""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.bags.frames import ReadOptions, Sample
from owled_ros.bags.selection import read_selected, split_by_drive
from owled_ros.bags.summary import BagSummary, summarise_bag
from owled_ros.driving import asking
from owled_ros.driving.answers.head import HeadSpec
from owled_ros.driving.confidence import Calibration
from owled_ros.driving.familiarity import (
    FILE_NAME,
    MIN_HEIGHT,
    MIN_IMAGES,
    Familiarity,
    fit_statistics,
    image_statistics,
    write_familiarity,
)
from owled_ros.driving.form_watch import FormWatch
from owled_ros.driving.judging import judge_answer, reads_text
from owled_ros.driving.prediction import Generation
from owled_ros.driving.profile import PROFILE_NAME, DrivingProfile, profile_text, read_profile
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.offline import TruthOf, truth_from
from owled_ros.files import link_tree, replace_directory, write_atomic
from owled_ros.models.calls import answer_calls
from owled_ros.models.chat import images_of
from owled_ros.models.driving_model import load_engine, resolve_model
from owled_ros.models.engine import VlmEngine
from owled_ros.models.manifest import add_section, file_entry, is_artifact, verify
from owled_ros.models.tuned import DRIVES, learned_from
from owled_ros.progress import track
from owled_ros.recalibration.confidence_fit import MIN_ANSWERS, Judged, fit, is_good, judge

DEFAULT_FLOOR = 0.5
CLEARLY_WORSE = 0.01  # of the Brier score
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitRequest:
    """What to fit on what."""

    model: Path
    bags: Sequence[Path]
    frames: int = 300  # answered for the fit, and half as many to judge it
    familiar_images: int = 800
    held_out_share: float = 0.3
    floor: float | None = None  # None: the profile's, DEFAULT_FLOOR where it was never calibrated
    displacement_tolerance: float | None = None  # [m]; None: the profile's
    cut_single: bool = False
    go_on: bool = False  # although none of the first answers is in the form
    image_topic: str = ""
    ego_topic: str = ""
    ego_from: str = ""
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    vehicle: VehicleParameters = field(default_factory=VehicleParameters)


@dataclass(frozen=True)
class FitResult:
    """What was fitted and how it does on held-out drives."""

    calibration: Calibration
    familiarity: Familiarity | None
    numbers: dict[str, Any]  # as they are shown and stored
    notes: list[str]


def fit_confidence(request: FitRequest) -> FitResult:
    """Fit on drives; nothing is written, see write_confidence.

    Raises:
        OwledError: the model cannot answer these bags, or too few answers can be judged.
    """
    directory = resolve_model(request.model)
    profile = read_profile(directory)
    if isinstance(profile.answer, HeadSpec):
        raise OwledError(
            "a trajectory head has no token probabilities for its path: its confidence cannot be fitted on them"
        )
    options = ReadOptions(request.image_topic, request.ego_topic, request.ego_from, needs=profile.needs)
    notes: list[str] = []
    bags = _unseen([summarise_bag(path, options) for path in request.bags], directory, notes)
    split = split_by_drive(bags, request.held_out_share, request.seed, request.cut_single)
    if split.shared_drive:
        notes.append("one drive only: its end judged what its beginning fitted")
    engine = load_engine(directory, device=request.device, threads=request.threads)
    try:
        fitted = _judge_frames(engine, request, bags, split.calibration, request.frames, options, "fit")
        familiarity = _fit_familiarity(profile, bags, split.calibration, request.familiar_images, options, notes)
        held = _judge_frames(
            engine, request, bags, split.gate, max(request.frames // 2, MIN_ANSWERS), options, "held out", familiarity
        )
    finally:
        engine.close()
    before = _tolerances(profile.confidence, request)
    usual = before.floor if before.calibrated else DEFAULT_FLOOR
    calibration = fit(fitted, held, before, usual if request.floor is None else request.floor)
    numbers = judge(calibration, fitted, held)
    if numbers["brier"] > numbers["brier_constant"] + CLEARLY_WORSE:
        notes.append("on the held-out drives the confidence says less than the share of good answers: give more drives")
    source = (
        f"{numbers['answers']} answers of {len(bags)} bags, {numbers['held_out_answers']} of held-out drives, "
        f"{datetime.datetime.now(datetime.UTC).date()}"
    )
    return FitResult(replace(calibration, source=source), familiarity, numbers, notes)


def write_confidence(directory: Path, result: FitResult) -> None:
    """Write the calibration into `driving.json` and the familiarity beside it; an artifact's manifest follows.

    An artifact is replaced as a whole. In a plain model directory each file is replaced in one step, the profile last.
    """
    profile = read_profile(directory).model_copy(update={"confidence": result.calibration})
    try:
        if not is_artifact(directory):
            _write_files(directory, profile, result.familiarity)
            return
        verify(directory)
        with replace_directory(directory.resolve()) as aside:
            link_tree(directory, aside)
            _write_files(aside, profile, result.familiarity)
            names = [name for name in (PROFILE_NAME, FILE_NAME) if (aside / name).is_file()]
            files = {name: file_entry(aside / name).model_dump() for name in names}
            fitted = {**asdict(result.calibration), **result.numbers, "notes": result.notes}
            add_section(aside, "confidence", {"files": files, "fitted": fitted})
            verify(aside)
    except OSError as error:
        raise OwledError(
            f"the confidence cannot be written into {directory} ({error}); copy the model to a place that can be written"
        ) from error


def _write_files(directory: Path, profile: DrivingProfile, familiarity: Familiarity | None) -> None:
    if familiarity is not None:
        write_familiarity(directory, familiarity)
    write_atomic(directory / PROFILE_NAME, profile_text(profile))


def _unseen(bags: list[BagSummary], directory: Path, notes: list[str]) -> list[BagSummary]:
    """Leave out drives that the model was tuned or pruned on, where enough others are there."""
    seen = {digest for entry in learned_from(directory) for digest in entry.get(DRIVES, ())}
    numbers = [[drive.number for drive in bag.drives if drive.digest not in seen] for bag in bags]
    drives = {drive.digest for bag in bags for drive in bag.drives}
    if not drives & seen:
        return bags
    if len(drives - seen) < 2:
        notes.append(
            f"the model learned from {len(drives & seen)} of these {len(drives)} drives: the confidence may be too high"
        )
        return bags
    notes.append(f"{len(drives & seen)} drives left out: the model learned from them")
    return [
        replace(bag, drives=[drive for drive in bag.drives if drive.number in kept], frames=_among(bag, kept))
        for bag, kept in zip(bags, numbers, strict=True)
    ]


def _among(bag: BagSummary, drives: Sequence[int]) -> Any:
    mask = np.isin(bag.frames.drive, drives)
    columns = {name: getattr(bag.frames, name) for name in bag.frames.__dataclass_fields__}
    return replace(bag.frames, **{name: column[mask] for name, column in columns.items()})


def _spread(bags: Sequence[BagSummary], masks: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Choose `count` usable images evenly over all bags; sorted image numbers per bag."""
    usable = [bag.frames.index[mask & np.isfinite(bag.frames.speed)] for bag, mask in zip(bags, masks, strict=True)]
    owners = np.repeat(np.arange(len(bags)), [len(part) for part in usable])
    numbers = np.concatenate(usable) if usable else np.zeros(0, np.int64)
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(np.int64))
    return [np.sort(numbers[chosen[owners[chosen] == owner]]) for owner in range(len(bags))]


def _samples(
    bags: Sequence[BagSummary], masks: Sequence[np.ndarray], count: int, options: ReadOptions, what: str
) -> Iterator[tuple[int, Sample]]:
    chosen = _spread(bags, masks, count)
    found = (
        (number, sample)
        for number, (bag, indices) in enumerate(zip(bags, chosen, strict=True))
        if len(indices)
        for sample in read_selected(bag.path, indices, options)
    )
    yield from track(found, what, total=sum(map(len, chosen)))


def _judge_frames(
    engine: VlmEngine,
    request: FitRequest,
    bags: Sequence[BagSummary],
    masks: Sequence[np.ndarray],
    count: int,
    options: ReadOptions,
    what: str,
    familiarity: Familiarity | None = None,
) -> list[Judged]:
    """Let the model answer frames that the future of the bag can judge."""
    truths: list[TruthOf] = [truth_from(bag.tracks, request.vehicle) for bag in bags]
    profile = engine.profile
    kind, tolerance = profile.kind(resolve_model(request.model)), _tolerances(profile.confidence, request)
    watch = FormWatch(str(request.model), watching=not request.go_on)
    judged = []
    for number, sample in _samples(bags, masks, count, options, f"answers, {what}"):
        frame = sample.frame
        answered = answer_calls(engine.chat, profile, frame, images_of(asking.images(profile, frame)))
        if len(answered) < len(profile.calls):
            judged.append(Judged(0.0, False, False))
            continue
        reply = answered[-1].reply
        raw = math.exp(reply.score)
        generation = Generation(reply.text.strip(), reply.complete, raw, len(reply.ids), reply.seconds, reply.ids)
        cutting = profile.cutting if reads_text(profile.answer) else None
        answer = judge_answer(generation, kind, cutting, frame.ego, request.vehicle)
        watch.see(answer.reason, answer.detail, reply.text)
        good = is_good(answer, truths[number](sample), profile.answer.kind, tolerance, request.vehicle.wheel_base)
        if good is not None:
            known = 1.0 if familiarity is None else familiarity.of(asking.main_image(profile, frame))
            judged.append(Judged(raw, answer.valid, answer.valid and good, known))
    return judged


def _fit_familiarity(
    profile: DrivingProfile,
    bags: Sequence[BagSummary],
    masks: Sequence[np.ndarray],
    count: int,
    options: ReadOptions,
    notes: list[str],
) -> Familiarity | None:
    rows, drives, sizes = [], [], set()
    for number, sample in _samples(bags, masks, count, options, "familiar images"):
        image = asking.main_image(profile, sample.frame)
        sizes.add(image.shape[:2])
        if image.shape[0] < MIN_HEIGHT:
            notes.append(f"no familiarity was fitted (images {image.shape[0]} px high, {MIN_HEIGHT} are needed)")
            return None
        rows.append(image_statistics(image))
        drives.append((number, sample.drive))
    if len(rows) < MIN_IMAGES or len(sizes) > 1:
        why = f"{len(rows)} images, {MIN_IMAGES} are needed" if len(sizes) < 2 else f"images of {len(sizes)} sizes"
        notes.append(f"no familiarity was fitted ({why}); what the model directory has stays")
        return None
    return fit_statistics(rows, drives)


def _tolerances(before: Calibration, request: FitRequest) -> Calibration:
    wanted = request.displacement_tolerance
    return before if wanted is None else replace(before, displacement_tolerance=wanted)
