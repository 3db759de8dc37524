"""How a model in training drives on held-out frames: does it answer in its form, and how near to what was driven. Needs evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from owled_ros.bags.frames import Sample
from owled_ros.driving.prediction import Reason
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.evaluation.baselines import constant_velocity, hold
from owled_ros.evaluation.displacement import JUDGED_S, STEP_S, offsets_of
from owled_ros.evaluation.offline import evaluate_frames
from owled_ros.evaluation.record import Record, Truth
from owled_ros.models.engine import VlmEngine
from owled_ros.tuning.checks import all_the_same

IN_FORM = (Reason.VALID.name, Reason.INFEASIBLE.name, Reason.DECLINED.name, Reason.LOW_CONFIDENCE.name)


@dataclass(frozen=True)
class Measure:
    """One measurement on the held-out frames."""

    frames: int
    in_form: float  # share of the answers that are in the profile's form
    valid: float  # share that may be driven
    displacement: float | None  # [m], mean over the valid answers and `seconds`; None without one
    hold: float | None  # [m], of keeping on as now, on the same frames
    constant_velocity: float | None  # [m]
    seconds: float  # that the displacements are means over
    collapsed: bool  # every answer is the same, though what was driven is not
    sample: str  # an answer

    def line(self) -> dict[str, Any]:
        """Return what goes into the curves."""
        return {
            "in_form": round(self.in_form, 4), "valid": round(self.valid, 4), "displacement_m": _rounded(self.displacement),
            "hold_m": _rounded(self.hold), "constant_velocity_m": _rounded(self.constant_velocity), "collapsed": self.collapsed,
            "sample": self.sample[:200],
        }  # fmt: skip


class HeldOut:
    """Frames that judge, with what was driven; held in memory."""

    def __init__(self, samples: Sequence[tuple[Sample, Truth]], vehicle: VehicleParameters, seconds: float) -> None:
        self._samples = [sample for sample, _ in samples]
        self._truths = {id(sample): truth for sample, truth in samples}
        self._vehicle, self._seconds = vehicle, seconds

    def __len__(self) -> int:
        return len(self._samples)

    def measure(self, engine: VlmEngine) -> Measure:
        """Ask the model as it is about every frame."""
        engine.chat.forget()
        records = evaluate_frames(engine, self._samples, lambda sample: self._truths[id(sample)], describe=False)
        engine.chat.forget()
        return measure_of(records, self._vehicle, self._seconds)


def judged_seconds(profile: DrivingProfile) -> float:
    """Return the time over which answers are compared with what was driven: JUDGED_S, or as far as they look."""
    spec = profile.answer
    looks = getattr(spec, "horizon_s", getattr(spec, "count", 0) * getattr(spec, "step_s", 0.0))
    return max(STEP_S, math.floor(min(JUDGED_S, looks) / STEP_S + 1e-6) * STEP_S)


def measure_of(records: Sequence[Record], vehicle: VehicleParameters, seconds: float = JUDGED_S) -> Measure:
    """Summarise answers; the trivial ones are judged on the frames that the model has valid answers to."""
    valid = [record for record in records if record.valid]
    texts = [record.text for record in records]
    driven = {tuple(np.round(record.truth.path[-1][:3], 0)) for record in records if record.truth.path}
    return Measure(
        frames=len(records),
        in_form=_share([record.reason in IN_FORM for record in records]),
        valid=_share([record.valid for record in records]),
        displacement=_mean(valid, vehicle, seconds),
        hold=_mean(hold(valid or records, vehicle), vehicle, seconds),
        constant_velocity=_mean(constant_velocity(valid or records, vehicle), vehicle, seconds),
        seconds=seconds,
        collapsed=all_the_same(texts) and len(driven) > 1,
        sample=next((record.text for record in records), ""),
    )


def _mean(records: Sequence[Record], vehicle: VehicleParameters, seconds: float) -> float | None:
    parts = [part for record in records if (path := offsets_of(record, vehicle)) and (part := path.until(seconds))]
    found = [float(part.distance.mean()) for part in parts]
    return float(np.mean(found)) if found else None


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
