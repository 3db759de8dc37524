"""Judges what a driving node said while a bag was replayed to it: seen, answered, late and dropped are counted.

Needs evaluation.evaluate. The node's answers (its typed topics, nodes.conversions) are matched with the bag's images by their
stamps; truth comes from the bag, so replay and offline results can be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from owled_ros.bags.frames import ReadStatistics, fingerprint, read_samples
from owled_ros.bags.summary import BagSummary, summarise_bag
from owled_ros.driving.answer import AnswerError, Manoeuvre, parse_action, parse_scene
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.prediction import (
    ActionAnswer,
    Generation,
    ModelIdentity,
    Prediction,
    Reason,
    SceneAnswer,
)
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import conclude, metrics_of
from owled_ros.evaluation.offline import truth_from
from owled_ros.evaluation.record import Record, Timing, make_record
from owled_ros.evaluation.result import FORMAT_VERSION, ResultFile, frame_line
from owled_ros.evaluation.scenario import Scenario

Kind = TypeVar("Kind", bound=IntEnum)
Answers = dict[int, dict[str, dict[str, Any]]]  # stamp [ns] -> "action" or "scene" -> what the node said


def add_answer(answers: Answers, said: Mapping[str, Any]) -> None:
    """Take what the node said about one image: kind ("action" or "scene"), stamp, reason, text, and for actions confidence,
    latency_ms, model_id, artifact_id, trajectory (rows of driving.trajectory.COLUMNS), manoeuvre, command, reasoning.
    """
    answers.setdefault(int(said["stamp"]), {})[str(said["kind"])] = dict(said)


def judge_replay(bag: Path, answers: Answers, scenario: Scenario, directory: Path, why_ended: str = "") -> ResultFile:
    """Put answers beside the truth of the bag, judge and write `directory`/result.jsonl."""
    summary = summarise_bag(bag, scenario.read_options())
    statistics = ReadStatistics()
    records = _records(bag, summary, answers, scenario, statistics)
    metrics = metrics_of(records, scenario)
    metrics["coverage"] = coverage_of(records, answers, summary)
    metrics["model"] = _model(answers)
    metrics["calibration"] = {"known": False, "shared_frames": 0, "shared_drives": 0}
    metrics["bag_notes"] = {bag.name: [*statistics.notes, *([why_ended] if why_ended else [])]}
    condition = {
        "FormatVersion": FORMAT_VERSION,
        "Mode": "replay",
        "Scenario": scenario.model_dump(),
        "Model": {"name": metrics["model"]["model_id"] or "driving_node"},
        "Bags": [{"Name": bag.name, "Path": str(bag.resolve()), "Drives": [drive.digest for drive in summary.drives]}],
    }
    lines = [frame_line(record, time.time()) for record in records]
    return conclude(directory, condition, records, lines, metrics, scenario)


def coverage_of(records: Sequence[Record], answers: Answers, summary: BagSummary) -> dict[str, Any]:
    """Count images of the bag, those that the node took up, answered in time, late, and never took up (dropped)."""
    images = len(summary.frames.stamps)
    late = sum(record.reason == Reason.LATE.name for record in records)
    known = set(summary.frames.stamps.tolist())
    return {
        "images": images,
        "evaluated": len(records),
        "evaluated_share": len(records) / images if images else None,
        "answered": sum(record.valid for record in records),
        "late": late,
        "withheld_or_invalid": len(records) - late - sum(record.valid for record in records),
        "dropped": images - len(records),
        "unknown_stamps": sum(stamp not in known for stamp in answers),
        "drives": len(summary.drives),
        "duration_s": summary.duration_s,
        "failed_bags": 0,
    }


def _records(
    bag: Path, summary: BagSummary, answers: Answers, scenario: Scenario, statistics: ReadStatistics
) -> list[Record]:
    frames = summary.frames
    wanted = {
        int(index)
        for index, stamp in zip(frames.index, frames.stamps, strict=True)
        if "action" in answers.get(int(stamp), {})
    }
    vehicle = scenario.vehicle_parameters()
    truth = truth_from(summary.tracks, vehicle)
    records = []
    for sample in read_samples(bag, scenario.read_options(), statistics, only=wanted):
        frame = sample.frame
        said = answers[frame.stamp]
        answer = _action(said["action"], vehicle)
        prediction = Prediction(frame.stamp, answer, _scene(said.get("scene")), ModelIdentity(""))
        timing = Timing(see_s=_number(said["action"].get("latency_ms")) / 1e3)
        records.append(
            make_record(
                bag.name,
                sample.drive,
                sample.index,
                frame.ego,
                prediction,
                truth(sample),
                timing,
                fingerprint(frame),
                _command(said["action"]),
            )
        )
    return records


def _action(said: Mapping[str, Any], vehicle: VehicleParameters) -> ActionAnswer:
    reason = _reason(said)
    generation = Generation(
        str(said.get("text", "")), True, _number(said.get("confidence")), 0, 0.0,
        reasoning=str(said.get("reasoning", "")),
    )  # fmt: skip
    rows = said.get("trajectory")
    try:
        if reason is Reason.VALID and rows:
            return _driven(generation, np.array(rows, np.float64), said, vehicle)
        action = parse_action(generation.text) if reason is Reason.VALID else None
    except AnswerError as error:
        return ActionAnswer(generation, None, Reason.UNPARSED, str(error))
    return ActionAnswer(generation, action, reason)


def _driven(
    generation: Generation, rows: np.ndarray, said: Mapping[str, Any], vehicle: VehicleParameters
) -> ActionAnswer:
    """Take the action from a trajectory (T, 7); raises AnswerError for one that no driving node of ours would publish."""
    first = None
    if np.isfinite(rows).all() and rows[0, 0] == 0.0 and (np.diff(rows[:, 0]) > 0.0).all():
        trajectory = Trajectory(rows)
        first = trajectory.first_action(vehicle.wheel_base, _known(Manoeuvre, said.get("manoeuvre")))
    if first is None or not math.isfinite(first.acceleration + first.steering_tire_angle):
        raise AnswerError("the trajectory holds numbers that are none, or its times do not rise from 0")
    return ActionAnswer(generation, first, Reason.VALID, trajectory=trajectory)


def _number(value: Any) -> float:
    """Return a number that can be averaged and written as JSON; 0 for any other."""
    number = float(value or 0.0)
    return number if math.isfinite(number) else 0.0


def _known(kind: type[Kind], value: Any) -> Kind:
    """Return the member of an enumeration; UNKNOWN, which is 0, for a value of another release or of nobody."""
    number = int(value or 0)
    return kind(number) if number in list(kind) else kind(0)


def _command(said: Mapping[str, Any]) -> NavigationCommand | None:
    kind = _known(CommandKind, said.get("command"))
    return None if kind is CommandKind.UNKNOWN else NavigationCommand(kind)


def _scene(said: Mapping[str, Any] | None) -> SceneAnswer | None:
    if said is None:
        return None
    reason = _reason(said)
    generation = Generation(str(said.get("text", "")), True, 0.0, 0, 0.0)
    try:
        return SceneAnswer(generation, parse_scene(generation.text) if reason is Reason.VALID else None, reason)
    except AnswerError as error:
        return SceneAnswer(generation, None, Reason.UNPARSED, str(error))


def _reason(said: Mapping[str, Any]) -> Reason:
    try:
        return Reason[str(said["reason"])]
    except KeyError as error:
        raise OwledError(
            f"the driving node gave the reason {said.get('reason')!r}; expected one of its release"
        ) from error


def _model(answers: Answers) -> dict[str, Any]:
    newest: Mapping[str, Any] = next((said["action"] for said in reversed(answers.values()) if "action" in said), {})
    ids = {said["action"].get("model_id", "") for said in answers.values() if "action" in said}
    return {
        "name": newest.get("model_id", ""),
        "model_id": newest.get("model_id", ""),
        "artifact_id": newest.get("artifact_id", ""),
        "facts": {"models_during_replay": len(ids)},
        "blocks": [],
    }
