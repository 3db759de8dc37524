"""How the job gives way: what the child gives up, when it is stopped, and which paths a goal may name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from owled_ros.errors import OwledError
from owled_ros.recalibration.courtesy import AUTOGROUP, LOWEST_NICE, Courtesy, Pacer, available_memory_bytes
from owled_ros.recalibration.paths import inside

PROGRAM = """
import json, os, sys
from owled_ros.recalibration.courtesy import AUTOGROUP, Courtesy, give_way
missing = give_way(Courtesy(**json.loads(sys.argv[1])))
print(json.dumps({
    "missing": missing, "policy": os.sched_getscheduler(0), "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "cores": sorted(os.sched_getaffinity(0)), "oom": open("/proc/self/oom_score_adj").read().strip(),
    "session": AUTOGROUP.read_text() if AUTOGROUP.exists() else "",
}))
"""


def gave_way(own_session: bool = True, **values: object) -> dict:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(values)], env=environment, capture_output=True, text=True, check=True,
        start_new_session=own_session,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_the_child_gives_up_processor_cores_and_memory() -> None:
    core = max(os.sched_getaffinity(0))
    found = gave_way(cores=[core])
    assert found["policy"] == os.SCHED_IDLE
    assert found["nice"] == 19
    assert found["cores"] == [core]
    assert found["oom"] == "1000"
    assert [name for name in found["missing"] if not name.startswith(("autogroup", "idle disk"))] == []


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel groups no sessions")
def test_only_a_session_of_its_own_goes_behind_the_others() -> None:
    before = AUTOGROUP.read_text()
    alone = gave_way()
    allowed = not any(name.startswith("autogroup") for name in alone["missing"])
    assert alone["session"].endswith(f"nice {LOWEST_NICE}\n") or not allowed
    assert gave_way(own_session=False)["session"] == before  # it would slow down whoever started it


def test_every_means_can_be_switched_off() -> None:
    found = gave_way(idle=False, first_to_go=False)
    assert found["policy"] == os.SCHED_OTHER
    assert found["oom"] == Path("/proc/self/oom_score_adj").read_text().strip()
    assert found["cores"] == sorted(os.sched_getaffinity(0))


def test_the_environment_limits_threads_and_keeps_memory() -> None:
    environment = Courtesy(threads=3).environment({"HOME": "/h", "OMP_NUM_THREADS": "64"})
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["HOME"] == "/h"
    assert int(environment["MALLOC_TRIM_THRESHOLD_"]) > 1 << 30


def test_memory_is_known_on_linux() -> None:
    free = available_memory_bytes()
    assert free is not None
    assert 1 << 20 < free < 1 << 50


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def pacer(**values: float) -> tuple[Pacer, Clock]:
    clock = Clock()
    return Pacer(clock=clock, **values), clock  # type: ignore[arg-type]


def test_the_budget_is_learned_while_nothing_runs() -> None:
    made, _ = pacer(window=20)
    for _ in range(19):
        made.sample(10.0)
    assert made.budget() is None
    made.sample(20.0)
    assert made.budget() == pytest.approx(1.15 * 20.0)  # the p99 of 20 samples is the largest
    made.start()
    made.sample(1000.0)  # is no sample of driving alone
    assert made.budget() == pytest.approx(1.15 * 20.0)
    assert pacer(budget_ms=5.0)[0].budget() == 5.0


def test_stops_grow_while_they_do_not_help_and_shrink_afterwards() -> None:
    made, clock = pacer(budget_ms=10.0, min_stop_s=1.0, max_stop_s=4.0, quiet_s=10.0)
    made.start()
    lengths = []
    for _ in range(4):
        assert not made.should_stop()
        for latency in (11.0, 12.0):
            made.sample(latency)
        assert made.should_stop()
        begun = clock.now
        while made.should_stop():
            clock.now += 0.125
        lengths.append(clock.now - begun)
    assert lengths == [1.0, 2.0, 4.0, 4.0]
    assert made.stops == 4
    assert made.stopped_s == pytest.approx(11.0)
    clock.now += 11.0
    assert not made.should_stop()  # quiet: 4 s -> 2 s, and the next violation doubles it again
    for latency in (11.0, 12.0):
        made.sample(latency)
    assert made.should_stop()
    clock.now += 3.9
    assert made.should_stop()
    clock.now += 0.2
    assert not made.should_stop()


def test_one_slow_answer_is_no_reason_and_only_settled_samples_of_a_stop_count_as_alone() -> None:
    made, clock = pacer(budget_ms=10.0, min_stop_s=1.4)
    made.start()
    for latency in (5.0, 50.0, 5.0, float("nan")):
        made.sample(latency)
    assert not made.should_stop()
    made.sample(50.0)
    assert made.should_stop()
    made.sample(60.0)  # was still slowed down
    clock.now += 1.5
    made.sample(6.0)
    assert not made.should_stop()
    assert list(made.alone_ms) == [6.0]


def test_paths_stay_below_their_roots(tmp_path: Path) -> None:
    root, other, outside = tmp_path / "bags", tmp_path / "more", tmp_path / "secret"
    for directory in (root / "drive", other / "drive2", outside):
        directory.mkdir(parents=True)
    (root / "escape").symlink_to(outside)
    (root / "inner").symlink_to(root / "drive")
    (root / "loop").symlink_to(root / "loop")
    roots = (root, other)
    assert inside("drive", roots, "bag") == root / "drive"
    assert inside("drive2", roots, "bag") == other / "drive2"
    assert inside(str(other / "drive2"), roots, "bag") == other / "drive2"
    assert inside("inner", roots, "bag") == root / "drive"
    for asked, words in (
        ("../secret", "contains"), ("drive/../../secret", "contains"), ("escape", "lies outside"), (str(outside), "lies outside"),
        ("/etc", "lies outside"), ("missing", "does not exist"), ("", "no path"), ("loop", "does not exist"), ("a\0b", "no path"),
    ):  # fmt: skip
        with pytest.raises(OwledError, match=words):
            inside(asked, roots, "bag")
    with pytest.raises(OwledError, match="no root is configured"):
        inside("drive", (), "bag")
