"""One model on one bag, frame by frame into a file that a killed run resumes. Needs evaluation.offline.

A part begins with a line that says what it is of, goes on with the lines of the result and ends with one that sums up.
Frames are appended in batches and flushed to the disk. A part of other weights, of another bag or of other settings is
started over.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from owled_ros.bags.frames import ReadOptions, ReadStatistics, read_samples
from owled_ros.bags.summary import BagSummary, summarise_bag
from owled_ros.driving.engine import Engine, needs_of, recommended_floor
from owled_ros.driving.form_watch import FormWatch
from owled_ros.driving.prediction import Reason
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.evaluation.offline import camera_test, stream_records, truth_from
from owled_ros.evaluation.record import Record, frame_to_record
from owled_ros.evaluation.result import frame_line, read_lines

FORMAT_VERSION = 2
BATCH_S = 2.0
WRITING = threading.Lock()  # held while lines are written: whoever ends the process waits for it
READ_AHEAD = 4  # decoded images that wait for the engine
HEAD, END = "Part", "PartEnd"
Item = TypeVar("Item")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartOptions:
    """What changes the answers or the truth of a part."""

    read: ReadOptions = field(default_factory=ReadOptions)
    vehicle: VehicleParameters = field(default_factory=VehicleParameters)
    describe: bool = True
    stride: int = 1  # every n-th image
    camera_test_frames: int = 24  # 0 leaves the test out
    confidence_floor: float | None = None  # actions below are withheld; None: what the model recommends
    go_on: bool = False  # though none of the first answers is in the model's form; changes no answer


@dataclass(frozen=True)
class Part:
    """A finished part."""

    lines: list[str]  # of its frames, as they go into the result
    records: list[Record]
    head: dict[str, Any]
    end: dict[str, Any]


def evaluate_part(engine: Engine, bag: Path, name: str, file: Path, options: PartOptions) -> Iterator[None]:
    """Evaluate what is missing of one bag; yields once per frame, also for those of an earlier run."""
    options = replace(options, read=replace(options.read, needs=needs_of(engine)))
    summary = summarise_bag(bag, options.read)
    head = _head(engine, summary, name, options)
    done = _resume(file, head)
    yield from (None for _ in done)
    if _is_finished(file):
        logger.info("%s: already evaluated with %s", name, head["Model"])
        return
    if done:
        logger.info("%s: resuming after %d frames", name, len(done))
    truth = truth_from(summary.tracks, options.vehicle)
    floor = recommended_floor(engine) if options.confidence_floor is None else options.confidence_floor
    statistics = ReadStatistics(frames=len(done))
    indices = sorted(done)
    watch = FormWatch(head["Model"], watching=not (options.go_on or done))
    samples = read_samples(bag, options.read, statistics, _Missing(done, options.stride))
    with _Appender(file) as appender:
        for record in stream_records(engine, _read_ahead(samples), truth, name, options.describe, floor):
            appender.add(frame_line(record, time.time()))
            watch.see(Reason[record.reason], record.reason, record.text)
            indices.append(record.index)
            yield
        chosen = _evenly(indices, options.camera_test_frames)
        tested = camera_test(engine, bag, chosen, truth, options.read, floor) if chosen else None
        appender.add(json.dumps({END: _end(engine, summary, statistics, len(indices), tested)}, allow_nan=False))


def read_part(file: Path) -> Part:
    """Read a finished part; raises OwledError when it is not finished."""
    lines, records, head, end = [], [], {}, None
    for line in read_lines(file):
        if HEAD in line:
            head = line[HEAD]
        elif END in line:
            end = line[END]
        else:
            lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False))
            records.append(frame_to_record(line["Frame"]))
    if end is None:
        raise OwledError(f"{file} is not finished; run the evaluation again, it resumes where it stopped")
    return Part(lines, records, head, end)


def _head(engine: Engine, summary: BagSummary, name: str, options: PartOptions) -> dict[str, Any]:
    return {
        "FormatVersion": FORMAT_VERSION,
        "Bag": name,
        "Drives": [drive.digest for drive in summary.drives],
        "Model": engine.identity.model_id,
        "Artifact": engine.identity.artifact_id,
        "Options": {key: value for key, value in json.loads(json.dumps(asdict(options))).items() if key != "go_on"},
    }


def _end(
    engine: Engine, summary: BagSummary, statistics: ReadStatistics, evaluated: int, tested: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "Images": statistics.images,
        "Evaluated": evaluated,
        "WithoutEgo": statistics.without_ego,
        "Undecodable": statistics.undecodable,
        "Disordered": statistics.disordered,
        "RepairedStamps": statistics.repaired_stamps,
        "BadEgo": statistics.bad_ego,
        "ContradictedEgo": statistics.contradicted_ego,
        "WithoutView": statistics.without_view,
        "WithoutHistory": statistics.without_history,
        "PoseJumps": statistics.pose_jumps,
        "WithoutCommand": statistics.without_command,
        "Drives": len(summary.drives),
        "DurationS": summary.duration_s,
        "Notes": statistics.notes,
        "CameraTest": tested,
        "Facts": {name: value for name, value in engine.facts.items() if isinstance(value, (str, int, float, bool))},
        "machine": {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
    }


def _resume(file: Path, head: Mapping[str, Any]) -> set[int]:
    """Cut a part back to its last whole line and return the images that are done; start over where it does not fit."""
    done: set[int] = set()
    whole = 0
    if file.exists():
        with open(file, "rb") as stream:
            for number, raw in enumerate(stream):
                line = _parsed(raw)
                if line is None or (number == 0 and line.get(HEAD) != head):
                    break
                if "Frame" in line:
                    done.add(line["Frame"]["Index"])
                whole += len(raw)
    if not whole:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({HEAD: dict(head)}) + "\n")
        return set()
    os.truncate(file, whole)
    return done


def _is_finished(file: Path) -> bool:
    """Tell whether the last line of a part is its end."""
    with open(file, "rb") as stream:
        stream.seek(max(0, file.stat().st_size - (1 << 20)))
        last = stream.readlines()[-1]
    return last.startswith(b'{"' + END.encode())


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _evenly(indices: list[int], count: int) -> list[int]:
    """Choose at most `count` values, evenly spread."""
    ordered = sorted(indices)
    if count <= 0 or not ordered:
        return []
    step = max(1, -(-len(ordered) // count))
    return ordered[::step]


@dataclass(frozen=True)
class _Missing:
    """The images that are still to be evaluated."""

    done: set[int]
    stride: int

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index % self.stride == 0 and index not in self.done


class _Appender:
    """Appends lines; what was added is on the disk at the latest BATCH_S later."""

    def __init__(self, file: Path) -> None:
        self._file, self._waiting, self._flushed = file, [], time.monotonic()  # type: ignore[var-annotated]

    def __enter__(self) -> _Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, line: str) -> None:
        self._waiting.append(line + "\n")
        if time.monotonic() - self._flushed > BATCH_S:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            try:
                with WRITING, open(self._file, "a", encoding="utf-8") as stream:
                    stream.write("".join(self._waiting))
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise OwledError(f"cannot write {self._file} ({error}); free some disk space and run again") from error
        self._waiting.clear()
        self._flushed = time.monotonic()


def _read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Read and decode in a thread of its own, a few images ahead of the engine."""
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(READ_AHEAD)
    stopped = threading.Event()

    def offer(entry: tuple[Item | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                offer((item, None))
                if stopped.is_set():
                    return
            offer((None, None))
        except BaseException as error:  # handed over to the thread that reads
            offer((None, error))

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
