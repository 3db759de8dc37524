"""Bags on several machines through Ray: the same parts, the same results as one process. Needs ray (optional extra).

Every machine must see bags, models and the result directory under the same paths (a shared file system). A part that fails
or loses its worker is tried again RETRIES times and costs only its bag.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import EvaluationRequest, finish_all, part_options
from owled_ros.evaluation.part import evaluate_part
from owled_ros.evaluation.result import ResultFile
from owled_ros.evaluation.run import Job, plan_jobs
from owled_ros.progress import track

RETRIES = 1
LOCAL = "local"
logger = logging.getLogger(__name__)


def evaluate_on_fleet(request: EvaluationRequest, address: str) -> list[ResultFile]:
    """Evaluate like evaluation.evaluate.evaluate, with `request.processes` parts at a time on a cluster.

    Args:
        request: What is to be evaluated.
        address: Of a running cluster ("auto" finds it), or "local" for this machine alone.
    """
    ray = _import_ray()
    ray.init(
        address=None if address == LOCAL else address,
        num_cpus=request.processes if address == LOCAL else None,
        include_dashboard=False if address == LOCAL else None,
        log_to_driver=False,
    )
    try:
        jobs = plan_jobs(request.bags, request.specs, part_options(request), request.out.resolve())
        failures: dict[Path, str] = {}
        every = [job for group in jobs.values() for job in group]
        for _ in track(_run(ray, every, failures), "evaluating bags", len(every)):
            pass
        return finish_all(request, jobs, failures)
    finally:
        ray.shutdown()


def evaluate_job(job: Job) -> str:
    """Evaluate one part in whatever process this is; returns why it failed, empty when it did not."""
    try:
        engine = job.spec.load()
        try:
            for _ in evaluate_part(engine, job.bag, job.bag_name, job.file, job.options):
                pass
        finally:
            engine.close()
    except OwledError as error:
        return str(error)
    return ""


def _run(ray: Any, jobs: Sequence[Job], failures: dict[Path, str]) -> Iterator[None]:
    remote = ray.remote(max_retries=RETRIES, num_cpus=1)(evaluate_job)
    waiting = {remote.remote(job): job for job in jobs}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        job = waiting.pop(done)
        try:
            error = ray.get(done)
        except ray.exceptions.RayError as lost:
            error = f"its worker was lost ({type(lost).__name__})"
        if error:
            logger.error("%s: %s", job.bag_name, error)
            failures[job.file] = error
        yield


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise OwledError("evaluating on a cluster needs Ray, which is not installed: pip install 'ray'") from error
    return ray
