"""A job from the outside: real processes that die, hang and are killed at every stage; afterwards the next job works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from stored_artifacts import FakeCar, make_artifact
from stub_child import STAGES, command

from owled_ros.deployment.store import Store
from owled_ros.errors import OwledError
from owled_ros.models.manifest import verify
from owled_ros.recalibration.courtesy import Pacer
from owled_ros.recalibration.job import JobCancelledError, JobProgress, JobResult, run_job
from owled_ros.recalibration.parameters import JobParameters, budgets_of
from owled_ros.recalibration.request import JobRequest, read_request

PATIENCE_S = 60.0


@dataclass
class Bench:
    """A store, a model directory that tells the stub child what to do, and what a job said."""

    root: Path
    store: Store
    said: list[JobProgress] = field(default_factory=list)

    def control(self, **values: Any) -> None:
        (self.root / "model" / "control.json").write_text(json.dumps(values))

    def request(self, seed: int = 0, **told: Any) -> JobRequest:
        parameters = JobParameters(seed=seed, gate_file=str(self.root / "gate.yaml"), **told)
        return JobRequest(bags=(self.root,), model=self.root / "model", parameters=parameters)

    def run(self, seed: int = 0, told: dict[str, Any] | None = None, **options: Any) -> JobResult:
        request = self.request(seed, **(told or {}))
        return run_job(request, self.store, self.said.append, python=command(self.root), **options)

    def at(self, stage: str) -> Callable[[], bool]:
        return lambda: any(progress.stage == stage for progress in self.said)

    def assert_sound(self, current: str | None) -> None:
        """No process, no leftover, `current` as it was, and the next job works."""
        assert list((self.store.root / "work").iterdir()) == []
        path = self.store.current()
        assert (None if path is None else verify(path).base.name) == current
        self.control(name="next")
        assert self.run(seed=len(self.said)).promoted


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "model").mkdir()
    made = Bench(tmp_path, Store(tmp_path / "store"))
    made.control()
    return made


def promote_something(bench: Bench) -> None:
    with bench.store.job() as work:
        version = bench.store.add(make_artifact(work / "candidate", "old"))
    bench.store.promote(version.artifact_id)


def test_a_candidate_that_passes_is_loaded_and_promoted(bench: Bench) -> None:
    promote_something(bench)
    car = FakeCar()
    outcome = bench.run(driver=car)
    assert outcome.promoted
    assert car.heard == [("prepare", outcome.version.artifact_id), ("commit", "")]
    assert bench.store.current() == outcome.version.path
    assert outcome.version.previous is False
    assert outcome.version.current
    shares = [progress.progress for progress in bench.said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert {progress.stage for progress in bench.said} == {*STAGES, "promoting"}


def test_a_candidate_that_is_worse_is_kept_but_never_promoted(bench: Bench) -> None:
    promote_something(bench)
    bench.control(passed=False)
    car = FakeCar()
    outcome = bench.run(driver=car)
    assert not outcome.promoted
    assert car.heard == []
    assert "refused" in outcome.message
    assert bench.store.find(outcome.version.artifact_id).gated
    bench.assert_sound("old")


def test_a_candidate_that_was_compared_with_a_former_version_is_not_promoted(bench: Bench) -> None:
    promote_something(bench)
    with bench.store.job() as work:
        other = bench.store.add(make_artifact(work / "candidate", "other"))

    def promote_other(progress: JobProgress) -> None:
        if progress.stage == "gating" and bench.store.current() != other.path:
            bench.store.promote(other.artifact_id)

    outcome = run_job(bench.request(), bench.store, promote_other, python=command(bench.root))
    assert outcome.verdict["passed"]
    assert not outcome.promoted
    assert "not current any more" in outcome.message
    assert bench.store.current() == other.path


def test_a_candidate_that_the_driving_node_cannot_load_is_not_promoted(bench: Bench) -> None:
    promote_something(bench)
    outcome = bench.run(driver=FakeCar(refuses="not enough memory for two models"))
    assert outcome.verdict["passed"]
    assert not outcome.promoted
    assert "not enough memory" in outcome.message
    bench.assert_sound("old")


@pytest.mark.parametrize(
    ("how", "words"),
    [("error", "gives no frame"), ("crash", "SIGSEGV.*layer 3"), ("kill", "SIGKILL"), ("silent", "exit code 0")],
)
def test_every_death_of_the_child_is_said_and_harmless(bench: Bench, how: str, words: str) -> None:
    promote_something(bench)
    bench.control(at="pruning", how=how)
    with pytest.raises(OwledError, match=words):
        bench.run()
    bench.assert_sound("old")


@pytest.mark.parametrize("stage", STAGES)
def test_cancelling_at_every_stage_leaves_nothing(bench: Bench, stage: str) -> None:
    promote_something(bench)
    bench.control(at=stage, how="hang")
    started = time.monotonic()
    with pytest.raises(JobCancelledError):
        bench.run(cancelled=bench.at(stage))
    assert time.monotonic() - started < PATIENCE_S
    bench.assert_sound("old")


def test_a_time_limit_ends_a_job(bench: Bench) -> None:
    bench.control(at="gating", how="hang")
    with pytest.raises(OwledError, match="did not end within 1 s"):
        bench.run(told={"time_limit_s": 1.0})
    bench.assert_sound(None)


@pytest.mark.parametrize("stage", STAGES)
def test_killing_the_parent_kills_the_child_and_the_next_job_sweeps(bench: Bench, stage: str) -> None:
    promote_something(bench)
    bench.control(at=stage, how="hang")
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from test_recalibration_job import Bench; from owled_ros.deployment.store import Store\n"
        "root = Path(sys.argv[1]); bench = Bench(root, Store(root / 'store'))\n"
        "def tell(progress):\n"
        f"    if progress.stage == {stage!r}: print('there', flush=True)\n"
        "bench.said = type('Said', (), {'append': staticmethod(tell), '__len__': lambda self: 0})()\n"
        "bench.run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [sys.executable, "-c", program, str(bench.root), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "there\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert children
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(child) for child in children)
    assert len(list((bench.store.root / "work").iterdir())) == 1
    bench.control()
    assert bench.run(seed=7).promoted
    bench.assert_sound("seed7")


def alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_jobs_at_once(bench: Bench) -> None:
    bench.control(at="reading", how="hang")
    stop = threading.Event()
    refused: list[str] = []

    def first() -> None:
        with pytest.raises(JobCancelledError):
            bench.run(cancelled=stop.is_set)

    job = threading.Thread(target=first)
    job.start()
    while not bench.said:
        time.sleep(0.02)
    try:
        bench.run()
    except OwledError as error:
        refused.append(str(error))
    stop.set()
    job.join()
    assert refused
    assert "another recalibration is using" in refused[0]
    bench.assert_sound(None)


def test_the_child_stands_still_while_driving_is_slow(bench: Bench) -> None:
    bench.control(step_s=0.15)
    pacer = Pacer(budget_ms=10.0, window=4, allowed=0, min_stop_s=0.5)
    at_pruning = bench.at("pruning")

    def cancelled() -> bool:
        if at_pruning() and pacer.stops == 0 and not pacer.stopped:
            pacer.sample(50.0)
        return False

    outcome = bench.run(pacer=pacer, cancelled=cancelled)
    assert pacer.stops == 1
    assert outcome.paused_s == pytest.approx(0.5, abs=0.4)
    assert [progress.paused for progress in bench.said if "waiting" in progress.detail] == [True]


def test_a_stopped_child_can_be_cancelled(bench: Bench) -> None:
    bench.control(step_s=0.1)
    pacer = Pacer(budget_ms=10.0, allowed=0, min_stop_s=100.0, max_stop_s=100.0)
    paused = lambda: any(progress.paused for progress in bench.said)  # noqa: E731

    def cancelled() -> bool:
        pacer.sample(50.0)
        return paused()

    with pytest.raises(JobCancelledError):
        bench.run(pacer=pacer, cancelled=cancelled)
    bench.assert_sound(None)


def test_the_store_stays_within_its_limits(bench: Bench) -> None:
    for seed in range(5):
        assert bench.run(seed, told={"keep_versions": 3}).promoted
    names = [verify(item.path).base.name for item in bench.store.versions()]
    assert names == ["seed4", "seed3", "seed2"]


def test_requests_survive_the_way_to_the_child_and_bad_ones_are_refused(tmp_path: Path) -> None:
    told = JobParameters(budgets={"vision": 0.3}, seed=2**63, image_topic="/a", pack=False)
    request = JobRequest((tmp_path,), tmp_path, told, tmp_path, running=tmp_path)
    assert read_request(request.to_json()) == request
    written = json.loads(request.to_json())
    for spoilt, words in (
        ({**written, "python": "evil"}, "unknown keys"),
        ({**written, "parameters": {**written["parameters"], "sparsty": 1}}, "'sparsty'; did you mean sparsity"),
        (
            {**written, "parameters": {**written["parameters"], "threads": "two"}},
            "threads is 'two'; expected a whole number",
        ),
        ({**written, "bags": None}, "cannot be read"),
        ([], "cannot be read"),
    ):
        with pytest.raises(OwledError, match=words):
            read_request(json.dumps(spoilt))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sparsity": 1.0}, r"sparsity is 1\.0; expected a number in \(0, 1\)"),
        ({"sparsity": 60.0}, r"for 60 % give 0\.6"),
        ({"gate_share": float("nan")}, "gate_share is nan"),
        ({"gate_frames": 1}, "gate_frames is 1"),
        ({"threads": True}, "threads is True; expected a whole number"),
        ({"score": "magic"}, "'magic'; expected one of magnitude, wanda"),
        ({"budgets": {"vision": 1.5}}, r"budgets is 1\.5 for vision"),
        ({"budgets": {"wheels": 0.5}}, "'wheels' is not known"),
        ({"cores": "two"}, "expected numbers separated by commas"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(OwledError, match=words):
        JobParameters(**wrong).check()


def test_what_a_job_needs_follows_its_parameters(tmp_path: Path) -> None:
    told = JobParameters(idle_scheduling=True, threads=3, keep_versions=2, keep_gb=0.5, gate_file="rules.yaml")
    assert (told.courtesy.idle, told.courtesy.threads, told.courtesy.cores) == (True, 3, ())
    assert (told.retention.max_versions, told.retention.max_bytes) == (2, 1 << 29)
    assert told.rules == Path("rules.yaml").absolute()
    assert JobParameters().rules.name == "gate.yaml"
    assert JobParameters(budgets={"vision_tower": 0.3, "language": 0.5}).budgets == {"vision": 0.3, "language": 0.5}
    with pytest.raises(OwledError, match="one component twice"):
        JobParameters(budgets={"vision_tower": 0.3, "vision": 0.5})
    with pytest.raises(OwledError, match="give one for each"):
        budgets_of(["vision"], [])
    for bags, words in (((), "no bag"), ((tmp_path / "no",), "does not exist")):
        with pytest.raises(OwledError, match=words):
            JobRequest(bags, tmp_path).check()
