"""Many bags, several models, several processes: parts in parallel, then one result per model. Needs evaluation.part.

A part is one model on one bag. Parts run in processes of their own when there is more than one; a process that dies
costs only its part, which is tried once more and resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import multiprocessing
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owled_ros.bags.storage import find_bag, list_topics
from owled_ros.bags.topics import choose_topics
from owled_ros.driving.engine import Engine
from owled_ros.errors import OwledError
from owled_ros.evaluation.part import WRITING, PartOptions, evaluate_part
from owled_ros.progress import track

ATTEMPTS = 2
PARTS_NAME = "parts"
LOADER = "owled_ros.models.driving_model:load_engine"
PRELOADED = [  # what LOADER imports, seconds of work: once for all processes, which are forked from a clean one that did it
    "owled_ros.evaluation.part",
    "owled_ros.models.engine",
    "owled_ros.models.load",
    "owled_ros.models.sparse_runner",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSpec:
    """How a process loads a model; `loader` is "module:function" and called with the path and the other values."""

    path: str
    name: str
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    runtime: str = "auto"
    loader: str = LOADER
    role: str = "judged"  # or what it is beside a judged one: "dense", "uniform"

    def load(self) -> Engine:
        """Load the engine."""
        module, function = self.loader.split(":")
        engine: Engine = getattr(importlib.import_module(module), function)(
            self.path or None, device=self.device, dtype=self.dtype, threads=self.threads, runtime=self.runtime
        )
        return engine


@dataclass(frozen=True)
class Job:
    """One part to evaluate."""

    spec: EngineSpec
    bag: Path
    bag_name: str
    file: Path
    options: PartOptions


def plan_jobs(
    bags: Sequence[Path], specs: Sequence[EngineSpec], options: PartOptions, out: Path
) -> dict[str, list[Job]]:
    """Name every part; returns the jobs per model name. Raises OwledError for bags that do not exist."""
    names = unique_names([bag.name for bag in bags])
    return {
        spec.name: [
            Job(spec, bag, name, out / spec.name / PARTS_NAME / f"{name}.jsonl", options)
            for bag, name in zip(bags, names, strict=True)
        ]
        for spec in specs
    }


def run_jobs(jobs: Sequence[Job], processes: int = 1) -> dict[Path, str]:
    """Evaluate all parts; returns file -> error of those that failed. Jobs of one model should stand together."""
    total = sum(count_images(job) for job in jobs)
    failures: dict[Path, str] = {}
    frames = _run_here(jobs, failures) if processes <= 1 else _run_in_processes(jobs, processes, failures)
    for _ in track(frames, "evaluating frames", total or None):
        pass
    return failures


def count_images(job: Job) -> int:
    """Return how many images a job will look at, as far as the bag's index knows; 0 when it cannot be read."""
    try:
        bag = find_bag(job.bag)
        topics = choose_topics(bag, job.options.read)
    except OwledError:
        return 0  # the job itself will say why
    images = sum(topic.count for topic in list_topics(bag) if topic.name == topics.image)
    return -(-images // job.options.stride)


def unique_names(names: Sequence[str]) -> list[str]:
    """Make names usable as file names and different from each other."""
    result: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.-]", "_", name) or "unnamed"
        number, candidate = 2, plain
        while candidate in result:
            candidate, number = f"{plain}-{number}", number + 1
        result.append(candidate)
    return result


def _run_here(jobs: Sequence[Job], failures: dict[Path, str]) -> Iterator[None]:
    loaded: dict[EngineSpec, Engine] = {}
    try:
        for job in jobs:
            if job.spec not in loaded:
                _close(loaded)
                loaded[job.spec] = job.spec.load()
            yield from _attempt(job, loaded[job.spec], failures)
    finally:
        _close(loaded)


def _close(loaded: dict[EngineSpec, Engine]) -> None:
    for engine in loaded.values():
        engine.close()
    loaded.clear()


def _attempt(job: Job, engine: Engine, failures: dict[Path, str]) -> Iterator[None]:
    try:
        yield from evaluate_part(engine, job.bag, job.bag_name, job.file, job.options)
    except OwledError as error:
        logger.error("%s: %s", job.bag_name, error)
        failures[job.file] = str(error)


_worker: dict[str, Any] = {}  # of a worker process: its counter and its loaded engine


def _start_worker(counter: Any, alive: Any) -> None:
    _worker.update(counter=counter, spec=None, engine=None)
    threading.Thread(target=_end_with, args=(alive,), name="end with parent", daemon=True).start()


def _end_with(alive: Any) -> None:
    """End this process when nobody holds the other end any more: a bag can take hours, and nobody would read its result."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    with WRITING:
        os._exit(1)


def _work(job: Job) -> str:
    if _worker["spec"] != job.spec:
        if _worker["engine"] is not None:
            _worker["engine"].close()
        _worker.update(engine=job.spec.load(), spec=job.spec)
    failures: dict[Path, str] = {}
    for _ in _attempt(job, _worker["engine"], failures):
        with _worker["counter"].get_lock():
            _worker["counter"].value += 1
    return failures.get(job.file, "")


def _run_in_processes(jobs: Sequence[Job], processes: int, failures: dict[Path, str]) -> Iterator[None]:
    """Run jobs in processes, each fed by a thread of its own; yields once per evaluated frame."""
    context = multiprocessing.get_context("forkserver")  # no fork of this process: it may have threads and a GPU
    context.set_forkserver_preload(PRELOADED if any(job.spec.loader == LOADER for job in jobs) else ["numpy"])
    counter = context.Value("q", 0)
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    reported = 0
    alive, holding = context.Pipe(
        duplex=False
    )  # the workers end when `holding` is closed, also by the death of this process
    start = functools.partial(ProcessPoolExecutor, 1, context, _start_worker, (counter, alive))
    with ThreadPoolExecutor(processes) as threads:
        feeders = [threads.submit(_feed, waiting, start, failures) for _ in range(min(processes, len(jobs)))]
        try:
            while True:
                unfinished = wait(feeders, timeout=0.5).not_done
                now = counter.value
                yield from (None for _ in range(now - reported))
                reported = max(now, reported)
                if not unfinished:
                    break
        except BaseException:
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.get_nowait()
            holding.close()
            raise
        for feeder in feeders:
            feeder.result()  # raises what a feeder raised
    holding.close()


def _feed(waiting: queue.SimpleQueue[Job], start: Callable[[], ProcessPoolExecutor], failures: dict[Path, str]) -> None:
    """Give jobs to one process; a process that dies is replaced and its job tried once more."""
    pool = start()
    try:
        while not waiting.empty():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    error = pool.submit(_work, job).result()
                except BrokenProcessPool:
                    logger.warning("%s: the process died, attempt %d of %d", job.bag_name, attempt, ATTEMPTS)
                    pool.shutdown()
                    pool = start()
                    error = f"the process that evaluated it died {ATTEMPTS} times; check whether it ran out of memory"
                    continue
                break
            if error:
                failures[job.file] = error
    finally:
        pool.shutdown(cancel_futures=True)
