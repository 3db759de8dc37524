"""Which frames of the bags are learned from and which judge; whole drives go to one side. Needs bags and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.bags.frames import ReadOptions, Sample, fingerprint
from owled_ros.bags.selection import read_selected, select_frames, split_by_drive
from owled_ros.bags.summary import bag_digest
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.offline import TruthOf, truth_from
from owled_ros.evaluation.record import Truth
from owled_ros.models.tuned import DRIVES, FINGERPRINTS
from owled_ros.tuning.driven import Driven, minutes_of, read_driven, refuse_shared, shortage
from owled_ros.tuning.settings import TuneRequest
from owled_ros.tuning.targets import horizon_of

ADVICE = "record more driving, or go on with --accept-little"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Image numbers (Sample.index) of one bag, and what looks up the truth of its samples."""

    driven: Driven
    indices: np.ndarray
    drives: tuple[str, ...]  # digests of the drives that they are of

    @property
    def truth_of(self) -> TruthOf:
        """Return what tells the truth of a sample of this bag."""
        return truth_from(self.driven.summary.tracks)


@dataclass(frozen=True, eq=False)
class Material:
    """What a run learns from and what it is judged by."""

    learned: tuple[Chosen, ...]
    judged: tuple[Chosen, ...]
    minutes: dict[str, float]  # of the drives that are learned from, by kind

    @property
    def drives(self) -> tuple[str, ...]:
        """Digests of the drives that are learned from."""
        return tuple(sorted({digest for part in self.learned for digest in part.drives}))

    @property
    def judging_drives(self) -> tuple[str, ...]:
        """Digests of the drives that judge."""
        return tuple(sorted({digest for part in self.judged for digest in part.drives}))


def choose_material(
    request: TuneRequest, profile: DrivingProfile, vehicle: VehicleParameters, before: Mapping[str, Any]
) -> Material:
    """Read every bag once without decoding images, split by drive, and choose.

    Args:
        before: by what the drives of earlier tunings of the model are found again (models.tuned): they do not judge.

    Raises:
        OwledError: too little driving (says how much of what is missing), a lone drive, a drive on both sides.
    """
    learned_before = frozenset(before.get(DRIVES, ()))
    options = read_options(request, profile)
    horizon = horizon_of(profile)
    driven = [read_driven(path, options, horizon, vehicle) for path in request.bags]
    judging = [read_driven(path, options, horizon, vehicle) for path in request.held_out]
    if judging:
        learn_masks, judge_masks = [bag.known for bag in driven], [bag.known for bag in judging]
    else:
        learn_masks, judge_masks = _split(driven, request, learned_before)
        judging = driven
    minutes = minutes_of(driven, learn_masks)
    missing = shortage(minutes)
    if missing and not request.accept_little:
        notes = "".join(f"; {bag.path.name}: {note}" for bag in driven for note in bag.summary.notes)
        raise OwledError(f"too little driving to learn from: {missing}; {ADVICE}{notes}")
    if missing:
        logger.warning("too little driving to learn from: %s; going on as asked", missing)
    if request.held_out:
        refuse_shared(zip(driven, learn_masks, strict=True), zip(judging, judge_masks, strict=True))
        _refuse_known(judging, judge_masks, learned_before)
    settings = request.settings
    learned = _spread(driven, learn_masks, settings.frames, settings.seed)
    judged = _evenly(judging, judge_masks, settings.held_out_frames)
    for name, parts in (("learn from", learned), ("judge by", judged)):
        if sum(len(part.indices) for part in parts) < 2:
            raise OwledError(
                f"the bags leave no frames to {name} whose next {horizon:g} s are known; record longer drives"
            )
    if request.held_out:
        _refuse_copies(learned, judged, learn_masks, options)
    return Material(learned, judged, minutes)


def read_options(request: TuneRequest, profile: DrivingProfile) -> ReadOptions:
    """Say how the bags are read."""
    return ReadOptions(request.image_topic, request.ego_topic, request.ego_from, needs=profile.needs)


def read_chosen(parts: Sequence[Chosen], options: ReadOptions) -> Iterator[tuple[Chosen, Sample, Truth]]:
    """Yield the chosen samples with their truth."""
    for part in parts:
        truth_of = part.truth_of
        if len(part.indices):
            for sample in read_selected(part.driven.path, part.indices, options):
                yield part, sample, truth_of(sample)


def traces_of(material: Material, fingerprints: Sequence[str], before: Mapping[str, Any]) -> dict[str, object]:
    """Return what `owled evaluate` finds the frames again by that a model learned from, now and `before`."""
    paths = sorted({part.driven.path for part in material.learned if len(part.indices)})
    bags = [{"name": path.name, "sha256": bag_digest(path)} for path in paths]
    return {
        "bags": [*(bag for bag in before.get("bags", ()) if bag not in bags), *bags],
        FINGERPRINTS: sorted({*before.get(FINGERPRINTS, ()), *fingerprints}),
        DRIVES: sorted({*before.get(DRIVES, ()), *material.drives}),
    }


def _split(
    driven: list[Driven], request: TuneRequest, learned_before: frozenset[str]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    digests = {drive.digest for bag in driven for drive in bag.summary.drives}
    if len(digests) < 2 and not request.cut_single:
        raise OwledError(
            "the bags hold one drive, and a drive that was learned from cannot judge: add a bag of another drive, name one with "
            "--held-out, or cut this one in two with --cut-single-drive"
        )
    settings = request.settings
    split = split_by_drive([bag.summary for bag in driven], settings.held_out_share, settings.seed, request.cut_single)
    unknown = sorted(digests - learned_before)
    judge = [mask & ~bag.of_drives(learned_before) for bag, mask in zip(driven, split.gate, strict=True)]
    if unknown and not any(mask.any() for mask in judge):  # the choice fell on known drives alone
        judge = [bag.of_drives({unknown[settings.seed % len(unknown)]}) for bag in driven]
    elif not unknown:
        judge = split.gate
        logger.warning(
            "the drives that judge were learned from in an earlier tuning: what is told of them flatters. Name a drive that the "
            "model never saw with --held-out"
        )
    learn = [(mask | gate) & ~kept for mask, gate, kept in zip(split.calibration, split.gate, judge, strict=True)]
    return (
        [mask & bag.known for mask, bag in zip(learn, driven, strict=True)],
        [mask & bag.known for mask, bag in zip(judge, driven, strict=True)],
    )


def _refuse_known(judging: Sequence[Driven], masks: Sequence[np.ndarray], learned_before: frozenset[str]) -> None:
    """Raise OwledError where a drive that judges was learned from in an earlier tuning of the model."""
    for bag, mask in zip(judging, masks, strict=True):
        for digest in sorted(bag.digests(mask) & learned_before):
            raise OwledError(
                f"{bag.path} holds drive {digest}, which the model was tuned on before: it cannot judge; name another with --held-out"
            )


def _spread(driven: Sequence[Driven], masks: Sequence[np.ndarray], count: int, seed: int) -> tuple[Chosen, ...]:
    """Choose frames that cover speeds, turns and lights; bags give in proportion to what they hold."""
    sizes = np.array([int(mask.sum()) for mask in masks])
    edges = np.round(np.cumsum([0, *sizes]) * min(1.0, count / max(sizes.sum(), 1))).astype(int)
    chosen = []
    for number, (bag, mask, share) in enumerate(zip(driven, masks, np.diff(edges), strict=True)):
        indices = (
            select_frames(bag.summary.frames, int(share), seed + number, among=mask) if share else np.zeros(0, np.int64)
        )
        chosen.append(Chosen(bag, indices, tuple(sorted(bag.digests(mask)))))
    return tuple(chosen)


def _evenly(driven: Sequence[Driven], masks: Sequence[np.ndarray], count: int) -> tuple[Chosen, ...]:
    """Choose frames evenly over all that may judge."""
    places = [(number, index) for number, (bag, mask) in enumerate(zip(driven, masks, strict=True))
              for index in bag.summary.frames.index[mask].tolist()]  # fmt: skip
    taken = np.linspace(0, max(len(places) - 1, 0), min(count, len(places))).round()
    wanted = [places[int(place)] for place in taken]
    return tuple(
        Chosen(
            bag,
            np.array(sorted(index for at, index in wanted if at == number), np.int64),
            tuple(sorted(bag.digests(mask))),
        )
        for number, (bag, mask) in enumerate(zip(driven, masks, strict=True))
    )


def _refuse_copies(
    learned: Sequence[Chosen], judged: Sequence[Chosen], masks: Sequence[np.ndarray], options: ReadOptions
) -> None:
    """Raise OwledError where images that judge are found in a bag that is learned from, cut or recorded again as it may be."""
    seen: dict[str, Path] = {}
    stamps = set()
    for part in judged:
        for sample in read_selected(part.driven.path, part.indices, options) if len(part.indices) else ():
            seen[fingerprint(sample.frame)] = part.driven.path
            stamps.add(sample.frame.stamp)
    for part, mask in zip(learned, masks, strict=True):
        frames = part.driven.summary.frames
        same = frames.index[mask & np.isin(frames.stamps, np.array(sorted(stamps), np.int64))]
        for sample in read_selected(part.driven.path, same, options) if len(same) else ():
            mark = fingerprint(sample.frame)
            if mark in seen:
                raise OwledError(
                    f"{seen[mark]} and {part.driven.path} hold the same image (stamp {sample.frame.stamp}): a drive that was "
                    "learned from cannot judge; leave it out of one side"
                )
