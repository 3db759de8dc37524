"""What a report says first: its title, what became of the frames as a bar of reasons, and one sentence that says why.

Needs evaluation.result. Every sentence is made of the numbers in the result, so it cannot contradict the tables below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owled_ros.driving.prediction import Reason
from owled_ros.evaluation.beside import JUDGED
from owled_ros.evaluation.metrics import UNREADABLE
from owled_ros.evaluation.plots import name_of
from owled_ros.evaluation.result import ResultFile
from owled_ros.evaluation.verdict import NOTHING_ACTED

UNITS = {"_mps2": " m/s²", "_rad": " rad", "_ms": " ms", "_m": " m"}  # endings of conditions
NAMED = 3  # bags and models in a title
WITHHELD = (Reason.DECLINED.name, Reason.LOW_CONFIDENCE.name, Reason.LATE.name)
WORDS = {  # why an answer was not used, after "because"
    Reason.LOW_CONFIDENCE.name: "the confidence was below the floor",
    Reason.DECLINED.name: "the model itself said that it does not know such scenes",
    Reason.LATE.name: "the answer came too late",
    Reason.UNPARSED.name: "the answer could not be read",
    Reason.INCOMPLETE.name: "the answer was not finished within its tokens",
    Reason.INFEASIBLE.name: "the path was beyond what the vehicle can do",
    Reason.MISSING_VIEW.name: "a camera was missing",
    Reason.STALE_VIEW.name: "a camera had no image near the frame",
    Reason.NO_HISTORY.name: "the past that the model asks for was not there",
    Reason.POSE_JUMP.name: "the localisation jumped",
    Reason.NO_COMMAND.name: "no navigation command was given",
    Reason.EXPIRED_COMMAND.name: "the navigation command was too old",
    Reason.INFERENCE_ERROR.name: "the model failed",
    Reason.OUT_OF_MEMORY.name: "the memory was full",
}
SHOWN_METRICS = (
    ("path_ade_3s_m", "path", "m", " over three seconds"),
    ("acceleration_mae_mps2", "acceleration", "m/s²", ""),
)


@dataclass(frozen=True)
class Segment:
    """One part of the bar of reasons."""

    reason: str
    frames: int
    share: float  # [0, 1]
    kind: str  # "acted", "withheld" or "invalid"
    words: str


def title_of(results: Sequence[ResultFile]) -> str:
    """Name the judged models and the bags."""
    judged = [name_of(result) for result in results if result.role == JUDGED] or [name_of(result) for result in results]
    bags = [str(bag.get("Name", "")) for result in results for bag in result.condition.get("Bags", [])]
    return f"{_listed(judged)} on {_listed(bags) or 'no bag'}"


def segments_of(result: ResultFile) -> list[Segment]:
    """Return what became of the frames: acted first, then the reasons why not, the most frequent first."""
    count = len(result.records)
    reasons: dict[str, int] = {}
    for record in result.records:
        reasons[record.reason] = reasons.get(record.reason, 0) + 1
    valid = reasons.pop(Reason.VALID.name, 0)
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    acted = [Segment(Reason.VALID.name, valid, valid / count, "acted", "acted")] if valid else []
    return acted + [
        Segment(name, frames, frames / count, "withheld" if name in WITHHELD else "invalid", words_of(name))
        for name, frames in ordered
    ]


def words_of(reason: str) -> str:
    """Say why an answer was not used."""
    return WORDS.get(reason, reason.lower().replace("_", " "))


def why_of(result: ResultFile) -> str:
    """Say in one sentence why a model passed or failed, or how it drives where it is not judged."""
    segments = segments_of(result)
    if not segments:
        return "No frame was evaluated, so nothing is known about it."
    acted = sum(item.frames for item in segments if item.kind == "acted")
    withheld = next((item for item in segments if item.kind != "acted"), None)
    if not acted:
        assert withheld is not None
        return f"It never acted: on {_share(withheld.share)} of {len(result.records)} frames because {withheld.words}."
    drives = f"it acted on {_share(acted / len(result.records))} of {len(result.records)} frames"
    if withheld is not None:
        drives += f" (not on the others, mostly because {withheld.words})"
    drives += _quality(result)
    if result.role != JUDGED:
        return f"Shown beside: {drives}."
    if not result.whole:
        return f"There is no verdict, as the result ends before its verdict; so far {drives}."
    failed = [item for item in result.metrics.get("conditions", []) if not item["passed"] and not item.get("note")]
    failures = result.metrics.get("bag_failures") or {}
    if failures:
        name, why = next(iter(failures.items()))
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        return f"It failed because {name}{more} could not be evaluated ({why}); elsewhere {drives}."
    if not result.success and failed:
        return f"It failed because {_limit(failed[0])}{_more(len(failed) - 1)}; {drives}."
    if not result.success:
        return f"It failed; {drives}."
    return f"It passed: {drives}."


def status_of(condition: Mapping[str, Any], acted: bool) -> tuple[str, str]:
    """Return the word of a condition and its style; nothing holds where nothing acted."""
    if condition.get("note"):
        return str(condition["note"]), "soft"
    if condition["passed"]:
        return ("holds", "better") if acted else (f"met, but {NOTHING_ACTED}", "soft")
    return "fails", "worse"


def unreadable_share(result: ResultFile) -> float:
    """Return the share of answers that could not be read."""
    return sum(item.share for item in segments_of(result) if item.reason in UNREADABLE)


def _quality(result: ResultFile) -> str:
    means = result.metrics.get("means") or {}
    held = (result.metrics.get("baselines") or {}).get("hold") or {}
    for metric, what, unit, over in SHOWN_METRICS:
        value, other = means.get(metric), held.get(metric)
        if value is not None:
            beside = "" if other is None else f" (continuing as now: {other:.2f} {unit})"
            return f", its {what} is off by {value:.2f} {unit}{over}{beside}"
    return ""


def _limit(condition: Mapping[str, Any]) -> str:
    name, limit, value = str(condition["condition"]), condition["limit"], condition["value"]
    plain, unit = _unit(name)
    measured = "was not measured" if value is None else f"is {_number(value)}{unit}"
    if name.startswith("must_beat "):
        other = name.removeprefix("must_beat ").replace("_", " ")
        return f"its error {measured} and that of the answer “{other}” {_number(limit)}"
    if name == "calibration_drives_in_evaluation":
        return f"it was calibrated on {_number(value)} of the drives that judge it"
    kind, _, what = plain.partition(" ")
    bound = {"min": "at least ", "max": "at most "}.get(kind, "")
    return f"{what if bound else plain} {measured}, wanted {bound}{_number(limit)}{unit}"


def _unit(name: str) -> tuple[str, str]:
    """Split the name of a condition into words and the unit of its numbers."""
    for suffix, unit in UNITS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", " "), unit
    return name.replace("_", " "), ""


def _more(count: int) -> str:
    return f" (and {count} more condition{'' if count == 1 else 's'})" if count else ""


def _listed(names: Sequence[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{value:.0%}" if value in (0.0, 1.0) or 0.01 <= value <= 0.99 else f"{value:.1%}"
