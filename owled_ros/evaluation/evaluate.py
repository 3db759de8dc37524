"""The whole evaluation: run the parts, compute the metrics, judge, write one result per model. Needs evaluation.run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.evaluation.baselines import baseline_records
from owled_ros.evaluation.metrics import summarise
from owled_ros.evaluation.part import Part, PartOptions, read_part
from owled_ros.evaluation.record import Record
from owled_ros.evaluation.result import FORMAT_VERSION, RESULT_NAME, ResultFile, read_result, verdict_of, write_result
from owled_ros.evaluation.run import EngineSpec, Job, plan_jobs, run_jobs
from owled_ros.evaluation.scenario import Scenario
from owled_ros.evaluation.verdict import judge, judgements_as_json, verdict_line
from owled_ros.models.manifest import is_artifact, read_manifest
from owled_ros.models.tuned import DRIVES, FINGERPRINTS, learned_from

COUNTED = {  # line of a part: entry of the coverage
    "WithoutEgo": "without_ego",
    "WithoutView": "without_view",
    "WithoutHistory": "without_history",
    "PoseJumps": "pose_jumps",
    "WithoutCommand": "without_command",
    "Undecodable": "undecodable",
    "Disordered": "disordered",
    "RepairedStamps": "repaired_stamps",
    "BadEgo": "bad_ego",
    "ContradictedEgo": "contradicted_ego",
}


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be evaluated."""

    bags: Sequence[Path]
    specs: Sequence[EngineSpec]
    out: Path
    scenario: Scenario
    processes: int = 1
    stride: int = 1  # every n-th image
    camera_test_frames: int = 24
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # see evaluation.beside.with_references
    go_on: bool = False  # though none of a model's first answers is in its form


def evaluate(request: EvaluationRequest) -> list[ResultFile]:
    """Evaluate every model on every bag; what an earlier, interrupted run has done is not done again."""
    jobs = plan_jobs(request.bags, request.specs, part_options(request), request.out)
    failures = run_jobs([job for group in jobs.values() for job in group], request.processes)
    return finish_all(request, jobs, failures)


def finish_all(
    request: EvaluationRequest, jobs: Mapping[str, Sequence[Job]], failures: dict[Path, str]
) -> list[ResultFile]:
    """Write the result of every model."""
    return [
        finish(group, failures, request.scenario, request.out / name, request.beside.get(name))
        for name, group in jobs.items()
    ]


def part_options(request: EvaluationRequest) -> PartOptions:
    """Return what of a request changes answers or truth."""
    scenario = request.scenario
    return PartOptions(
        read=scenario.read_options(),
        vehicle=scenario.vehicle_parameters(),
        describe=scenario.describe,
        stride=request.stride,
        camera_test_frames=request.camera_test_frames,
        confidence_floor=scenario.confidence_floor,
        go_on=request.go_on,
    )


def finish(
    jobs: Sequence[Job],
    failures: dict[Path, str],
    scenario: Scenario,
    directory: Path,
    beside: Mapping[str, Any] | None = None,
) -> ResultFile:
    """Put the parts of one model together: metrics, verdict, result.jsonl."""
    parts = [read_part(job.file) for job in jobs if job.file not in failures]
    records = [record for part in parts for record in part.records]
    spec = jobs[0].spec
    metrics = metrics_of(records, scenario)
    metrics["coverage"] = _coverage(parts, failures)
    metrics["camera_test"] = _camera_test(parts)
    metrics["calibration"] = calibration_overlap(spec, records, [part.head["Drives"] for part in parts])
    metrics["model"] = _model(spec, parts)
    metrics["beside"] = dict(beside) if beside else None
    metrics["machine"] = {"peak_rss_bytes": max((p.end["machine"]["peak_rss_bytes"] for p in parts), default=None)}
    metrics["bag_notes"] = {part.head["Bag"]: part.end["Notes"] for part in parts if part.end["Notes"]}
    metrics["bag_failures"] = {job.bag_name: failures[job.file] for job in jobs if job.file in failures}
    lines = [line for part in parts for line in part.lines]
    return conclude(directory, _condition(jobs, scenario, parts), records, lines, metrics, scenario)


def conclude(
    directory: Path,
    condition: dict[str, Any],
    records: Sequence[Record],
    lines: Sequence[str],
    metrics: dict[str, Any],
    scenario: Scenario,
) -> ResultFile:
    """Judge the metrics and write result.jsonl; what could not be read begins the verdict's sentence."""
    judgements = judge(metrics, scenario)
    success, summary = verdict_line(judgements)
    failures = "; ".join(f"{name}: {why}" for name, why in metrics.get("bag_failures", {}).items())
    if failures:  # what could not be read explains the rest, so it is told first
        summary = f"Failed: {failures}; {summary.removeprefix('Failed: ')}"
    metrics["conditions"] = judgements_as_json(judgements)
    stamp = max((record.stamp for record in records), default=0)
    path = directory / RESULT_NAME
    write_result(path, condition, lines, verdict_of(success, summary, time.time(), stamp, metrics))
    return read_result(path)


def metrics_of(records: Sequence[Record], scenario: Scenario) -> dict[str, Any]:
    """Summarise a model and, beside it, the trivial answers to the same frames."""
    vehicle, tolerance = scenario.vehicle_parameters(), scenario.tolerance()
    deadline_s = scenario.deadline_ms / 1e3 if scenario.deadline_ms else None
    metrics = summarise(records, vehicle, tolerance, deadline_s)
    metrics["baselines"] = {
        name: summarise(answers, vehicle, tolerance, intervals=False)["means"]
        for name, answers in baseline_records(records, vehicle).items()
    }
    return metrics


def calibration_overlap(
    spec: EngineSpec, records: Sequence[Record], evaluated_drives: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Look for the images and drives that a model was calibrated or tuned on among those it is judged by."""
    path = Path(spec.path)
    entries = learned_from(path) if spec.path else []
    if not entries:
        return {"known": False, "shared_frames": 0, "shared_drives": 0}
    frames = {value for entry in entries for value in entry.get(FINGERPRINTS, ())}
    drives = {value for entry in entries for value in entry.get(DRIVES, ())}
    shared = [record for record in records if record.fingerprint in frames]
    touched = {(record.bag, record.drive) for record in shared}
    evaluated = {digest for group in evaluated_drives for digest in group}
    return {
        "known": bool(frames or drives),
        "shared_frames": len(shared),
        "shared_drives": max(len(touched), len(evaluated & drives)),
    }


def _coverage(parts: Sequence[Part], failures: dict[Path, str]) -> dict[str, Any]:
    sums = {name: sum(part.end.get(name, 0) for part in parts) for name in ("Images", "Evaluated", "Drives", *COUNTED)}
    stride = parts[0].head["Options"]["stride"] if parts else 1
    wanted = sum(-(-part.end["Images"] // stride) for part in parts)
    return {
        "images": sums["Images"],
        "evaluated": sums["Evaluated"],
        "evaluated_share": sums["Evaluated"] / wanted if wanted else None,
        **{key: sums[name] for name, key in COUNTED.items()},
        "drives": sums["Drives"],
        "duration_s": sum(part.end["DurationS"] for part in parts),
        "failed_bags": len(failures),
    }


def _camera_test(parts: Sequence[Part]) -> dict[str, Any] | None:
    """Add up the camera tests of the bags (evaluation.offline.camera_test)."""
    tests = [part.end["CameraTest"] for part in parts if part.end["CameraTest"]]
    if not tests:
        return None
    table = {}
    for kind in ("blank", "shuffled"):
        frames = sum(test[kind]["frames"] for test in tests)
        errors = [error for test in tests for error in test[kind]["acceleration_errors_mps2"]]
        table[kind] = {
            "frames": frames,
            "changed_share": sum(test[kind]["changed"] for test in tests) / frames if frames else None,
            "withheld_share": sum(test[kind]["withheld"] for test in tests) / frames if frames else None,
            "acceleration_mae_mps2": sum(errors) / len(errors) if errors else None,
        }
    return table


def _model(spec: EngineSpec, parts: Sequence[Part]) -> dict[str, Any]:
    path = Path(spec.path)
    pruned = read_manifest(path) if spec.path and is_artifact(path) else None
    head: dict[str, Any] = parts[0].head if parts else {}
    return {
        "name": spec.name,
        "role": spec.role,
        "model_id": head.get("Model", ""),
        "artifact_id": head.get("Artifact", ""),
        "facts": parts[0].end["Facts"] if parts else {},
        "sparsity": pruned.sparsity if pruned else 0.0,
        "cost": pruned.cost if pruned else None,
        "allocation": f"{pruned.method.score}/{pruned.method.allocation}" if pruned else "dense",
        "blocks": [
            {"name": block.name, "component": block.component, "sparsity": block.sparsity} for block in pruned.blocks
        ]
        if pruned
        else [],
    }


def _condition(jobs: Sequence[Job], scenario: Scenario, parts: Sequence[Part]) -> dict[str, Any]:
    drives = {part.head["Bag"]: part.head["Drives"] for part in parts}
    return {
        "FormatVersion": FORMAT_VERSION,
        "Scenario": scenario.model_dump(),
        "Model": asdict(jobs[0].spec),
        "Bags": [
            {"Name": job.bag_name, "Path": str(job.bag.resolve()), "Drives": drives.get(job.bag_name, [])}
            for job in jobs
        ],
        "Options": asdict(jobs[0].options),
    }


def scenario_of(result: ResultFile) -> Scenario:
    """Return the scenario that a result was judged by."""
    try:
        return Scenario.model_validate(result.condition["Scenario"])
    except (KeyError, ValueError) as error:
        raise OwledError(f"{result.path} holds no valid scenario ({error}); evaluate again") from error
