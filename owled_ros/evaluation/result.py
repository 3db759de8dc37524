"""result.jsonl: condition first, one object per frame, the verdict last. Needs evaluation.record.

The form is that of driving_log_replayer_v2 (docs/result_format.md): every line after the first has "Result", "Stamp" and
"Frame". Writers write aside and rename; readers accept a last line that is only half there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owled_ros.driving.frame import NANOSECONDS
from owled_ros.errors import OwledError
from owled_ros.evaluation.record import TIMING_KEY, Record, frame_to_record, record_to_frame
from owled_ros.files import ASIDE, fsync_path

RESULT_NAME = "result.jsonl"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1 has no trajectories and true paths of three points
NO_DATA = {"Result": {"Success": False, "Summary": "NoData"}, "Stamp": {"System": 0.0, "ROS": 0.0}, "Frame": {}}
TIMING_GROUPS = (TIMING_KEY, "timing", "machine")  # keys whose values differ between two runs


@dataclass(frozen=True)
class ResultFile:
    """A result that was read."""

    path: Path
    condition: dict[str, Any]
    records: list[Record]
    success: bool
    summary: str
    metrics: dict[str, Any]  # the "Frame" of the verdict; empty when the file ends before it
    whole: bool  # False: the verdict is missing

    @property
    def role(self) -> str:
        """What the model is here: "judged", or beside a judged one "dense" or "uniform"."""
        return str(self.condition.get("Model", {}).get("role", "judged"))


def frame_line(record: Record, system_s: float) -> str:
    """Return the line of one frame; `system_s` is the wall-clock time of its evaluation."""
    summary = record.text if record.valid else f"{record.reason}: {record.text}"
    return _line(record.valid, summary, system_s, record.stamp / NANOSECONDS, record_to_frame(record))


def verdict_of(success: bool, summary: str, system_s: float, stamp: int, metrics: Mapping[str, Any]) -> str:
    """Return the last line."""
    return _line(success, summary, system_s, stamp / NANOSECONDS, {"Verdict": dict(metrics)})


def write_result(path: Path, condition: Mapping[str, Any], frames: Iterable[str], verdict: str) -> None:
    """Write a whole result, line by line, aside; it appears in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}{ASIDE}{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8") as stream:
            stream.write(_json({"Condition": dict(condition)}) + "\n")
            stream.write(_json(NO_DATA) + "\n")
            for line in frames:
                stream.write(line + "\n")
            stream.write(verdict + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OwledError(f"cannot write {path} ({error}); free some disk space or choose another --out") from error
    fsync_path(path.parent)


def read_result(path: Path) -> ResultFile:
    """Read a result file or the directory that holds one; a half-written last line is left out."""
    path = path / RESULT_NAME if path.is_dir() else path
    if not path.is_file():
        raise OwledError(f"{path} does not exist; expected a {RESULT_NAME} written by `owled evaluate`")
    lines = list(read_lines(path))
    if not lines or "Condition" not in lines[0]:
        raise OwledError(
            f"{path} does not begin with a condition; expected a {RESULT_NAME} written by `owled evaluate`"
        )
    condition = lines[0]["Condition"]
    if condition.get("FormatVersion") not in READABLE_VERSIONS:
        raise OwledError(
            f"{path} has format {condition.get('FormatVersion')}; expected {' or '.join(map(str, READABLE_VERSIONS))}: "
            "evaluate again"
        )
    frames = [line["Frame"] for line in lines[1:] if "Bag" in line.get("Frame", {})]
    last = lines[-1]
    metrics = last.get("Frame", {}).get("Verdict")
    return ResultFile(
        path=path,
        condition=condition,
        records=[frame_to_record(frame) for frame in frames],
        success=metrics is not None and bool(last["Result"]["Success"]),
        summary=last["Result"]["Summary"] if metrics is not None else "The result ends before its verdict",
        metrics=metrics or {},
        whole=metrics is not None,
    )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a jsonl file; the last line may be half there, any other damage is an OwledError."""
    with open(path, encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                value = json.loads(line)
            except ValueError as error:
                if not line.endswith("\n") or not stream.readline():
                    return
                raise OwledError(f"line {number} of {path} is not JSON ({error}); evaluate again") from error
            if not isinstance(value, dict):
                raise OwledError(f"line {number} of {path} is not an object; evaluate again")
            yield value


def without_timings(line: str) -> str:
    """Return a line of a result without what differs between two runs on the same input."""
    value = json.loads(line)
    value.get("Stamp", {}).pop("System", None)
    return _json(_strip(value))


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _strip(item) for name, item in value.items() if name not in TIMING_GROUPS}
    return [_strip(item) for item in value] if isinstance(value, list) else value


def _line(success: bool, summary: str, system_s: float, ros_s: float, frame: Mapping[str, Any]) -> str:
    stamp = {"System": round(system_s, 3), "ROS": ros_s}
    return _json({"Result": {"Success": success, "Summary": summary}, "Stamp": stamp, "Frame": dict(frame)})


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
