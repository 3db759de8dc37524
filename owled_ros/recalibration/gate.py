"""The gate: candidate, running and dense model on the same held-out frames, and the verdict. Needs models and evaluation.

All models answer frame by frame in turn and the order rotates, so that a pause of the machine hits all alike. Answers below
a model's own confidence floor count as withheld, as they do on the road. Judged are displacement and withheld answers, against what
drives now and against the dense base; nothing here looks at perplexity, which a pruned model can keep while its paths are lost.
"""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.bags.frames import Sample, fingerprint
from owled_ros.driving.prediction import ModelIdentity, withhold_below
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.evaluation.bootstrap import CLIP_S, clip_numbers
from owled_ros.evaluation.compare import action_agreement, paired_difference
from owled_ros.evaluation.metrics import summarise
from owled_ros.evaluation.offline import timed_prediction
from owled_ros.evaluation.record import Record, Truth, make_record
from owled_ros.models.driving_model import SHORT_HASH, load_engine
from owled_ros.models.weights import weight_files
from owled_ros.recalibration.gate_rules import GateRules, RuleResult, apply_rules, as_json
from owled_ros.recalibration.noninferiority import Supply

VERDICT_VERSION = 2
ROLES = ("candidate", "running", "dense")
LOADS = "candidate_loads"  # the rule that stands before all others
EVIDENCE = "evidence"  # stands for all rules that lack evidence, in the reasons
KEPT_NUMBERS = (
    "frames", "means", "counted_frames", "intervals_95", "answers", "timing", "brake_onset", "comfort", "confidence", "path",
    "longitudinal_bias_m", "lateral_bias_m", "by_command", "by_speed_mps", "distance_by_time",
)  # fmt: skip
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """A frame of a drive that no model was calibrated on in this job."""

    bag: str
    sample: Sample
    truth: Truth


def judge_candidate(
    directories: Mapping[str, Path],
    held_out: Iterable[HeldOut],
    rules: GateRules,
    facts: Mapping[str, Any],
    device: str = "cpu",
    threads: int = 1,
    step: Callable[[int], None] = lambda done: None,
    drives: str = "",
    held_out_s: float = 0.0,
    held_out_share: float = 1.0,
) -> dict[str, Any]:
    """Measure and judge; the verdict is plain JSON without NaN.

    Args:
        directories: of the roles in ROLES; the same directory is loaded once.
        facts: put into the verdict as they are (drives, gate file).
        step: told the frames done.
        drives: short hash of what drives the vehicle, as the driving node says it; empty: nobody said.
        held_out_s: driving time [s] that the held-out drives hold; 0: no more than was judged.
        held_out_share: of what is recorded that is held out.

    Raises OwledError when the running or the dense model cannot be loaded, or is not what drives; a candidate that cannot
    be loaded is refused.
    """
    engines: dict[Path, Any] = {}
    for role in ("dense", "running"):
        path = directories[role]
        engines[path] = engines.get(path) or load_engine(path, device=device, threads=threads)
    _check_running(engines[directories["running"]].identity, drives)
    candidate = directories["candidate"]
    try:
        engines[candidate] = load_engine(candidate, device=device, threads=threads)
    except (OwledError, RuntimeError, MemoryError) as error:
        logger.error("the candidate does not load: %s", error)
        return refusal(str(error), facts)
    records = _answers(engines, held_out, step)
    identities = {
        path: asdict(engine.identity) | {"runtime": engine.facts.get("runtime", "torch")}
        for path, engine in engines.items()
    }
    for engine in engines.values():
        engine.close()
    models = {role: _numbers(records[path], path) | {"model": identities[path]} for role, path in directories.items()}
    comparisons = {
        role: {
            "agreement": action_agreement(records[candidate], records[directories[role]]),
            "paired": paired_difference(records[directories[role]], records[candidate]),
        }
        for role in ("running", "dense")
    }
    results = apply_rules(rules, models, comparisons)
    failed = [result for result in results if not result.passed]
    clips = len(np.unique(clip_numbers(records[candidate])))
    supply = Supply(clips, max(clips, int(held_out_s / CLIP_S)), held_out_share, len(records[candidate]))
    return plain_json({
        "format_version": VERDICT_VERSION,
        "judged": _now(),
        "passed": not failed,
        "failed_rules": [result.name for result in failed],
        "reasons": reasons_of(failed, supply),
        "evidence": asdict(supply) | {"minutes_to_record": _minutes(failed, supply)},
        "frames": len(records[candidate]),
        "rules": as_json(results),
        "models": models,
        "comparisons": comparisons,
        **facts,
    })  # fmt: skip


def reasons_of(failed: Sequence[RuleResult], supply: Supply) -> list[str]:
    """Say why a candidate is refused: what it did, then what could not be told and what would tell it."""
    reasons = [result.sentence() for result in failed if not result.inconclusive]
    unsure = [result for result in failed if result.inconclusive]
    if unsure:
        names = ", ".join(result.name for result in unsure)
        advice = supply.advice(max(_clips_for(result, supply) for result in unsure))
        reasons.append(f"{EVIDENCE}: too little to tell for {names}; {advice}")
    return reasons


def refusal(reason: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict on a candidate that cannot be measured."""
    return plain_json({
        "format_version": VERDICT_VERSION,
        "judged": _now(),
        "passed": False,
        "failed_rules": [LOADS],
        "reasons": [f"{LOADS}: {reason}"],
        "frames": 0,
        "rules": [],
        "models": {},
        "comparisons": {},
        **facts,
    })  # fmt: skip


def _clips_for(result: RuleResult, supply: Supply) -> float:
    """Return the clips needed in all, where a metric applies to a part of them only."""
    return result.clips_needed * supply.clips / result.clips if result.clips else result.clips_needed


def _minutes(failed: Sequence[RuleResult], supply: Supply) -> int:
    return max((supply.minutes(_clips_for(result, supply)) for result in failed if result.inconclusive), default=0)


def _check_running(identity: ModelIdentity, drives: str) -> None:
    known = {identity.model_id, identity.model_id.rpartition("@")[2], identity.artifact_id} - {""}
    if drives and not any(name == drives or (len(drives) >= SHORT_HASH and name.startswith(drives)) for name in known):
        raise OwledError(
            f"the vehicle is driven by {drives}, but the gate was given {identity.artifact_id or identity.model_id} to compare "
            "with; give what drives, or let it drive what the store calls current"
        )


def _answers(
    engines: Mapping[Path, Any], held_out: Iterable[HeldOut], step: Callable[[int], None]
) -> dict[Path, list[Record]]:
    records: dict[Path, list[Record]] = {path: [] for path in engines}
    floors = {path: read_profile(path).confidence.floor for path in engines}
    order = list(engines)
    for number, item in enumerate(held_out):
        order = order[1:] + order[:1]
        sample, mark = item.sample, fingerprint(item.sample.frame)
        for path in order:
            if number == 0:  # the first answer also pays for what is set up lazily
                timed_prediction(engines[path], sample.frame, True)
            prediction, timing = timed_prediction(engines[path], sample.frame, True)
            prediction = replace(prediction, action=withhold_below(prediction.action, floors[path]))
            records[path].append(
                make_record(
                    item.bag,
                    sample.drive,
                    sample.index,
                    sample.frame.ego,
                    prediction,
                    item.truth,
                    timing,
                    mark,
                    sample.frame.command,
                )
            )
        step(number + 1)
    if not records[order[0]]:
        raise OwledError("no held-out frame could be read; the images chosen for the gate are damaged")
    return records


def _numbers(records: list[Record], directory: Path) -> dict[str, Any]:
    summary = summarise(records)
    return {name: summary[name] for name in KEPT_NUMBERS if name in summary} | {"size": sizes_of(directory)}


def sizes_of(directory: Path) -> dict[str, int]:
    """Count weights, those that are not zero, and the bytes of the weight files and of a packed file."""
    import torch
    from safetensors import safe_open

    weights = nonzeros = weight_bytes = 0
    for file in weight_files(directory):
        weight_bytes += file.stat().st_size
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 (not a dict)
                tensor = stream.get_tensor(name)
                weights += tensor.numel()
                nonzeros += int(torch.count_nonzero(tensor))
    packed = sum(file.stat().st_size for file in directory.glob("*.owled"))
    return {"weights": weights, "nonzeros": nonzeros, "weight_file_bytes": weight_bytes, "packed_bytes": packed}


def plain_json(value: Any) -> Any:
    """Return what JSON can hold: tuples as lists, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
