"""The artifact store: whole at every moment, also after a crash or a power cut between any two steps."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from power_cut import Disk, PowerCutError, recording
from stored_artifacts import FakeCar, make_artifact

from owled_ros.deployment.store import Retention, Store
from owled_ros.errors import OwledError
from owled_ros.models.manifest import read_manifest, verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, name: str, passed: bool | None = True, weight_bytes: int = 64) -> str:
    with store.job() as work:
        return store.add(make_artifact(work / "candidate", name, passed, weight_bytes)).artifact_id


def current_id(store: Store) -> str | None:
    path = store.current()
    return None if path is None else path.name.partition("-")[2]


def test_an_empty_store_has_nothing_and_makes_no_directory(store: Store) -> None:
    assert store.current() is None
    assert store.versions() == []
    assert not store.root.exists()
    with pytest.raises(OwledError, match="nothing to roll back to"):
        store.rollback()


def test_versions_are_numbered_listed_newest_first_and_found_by_the_beginning_of_their_hash(store: Store) -> None:
    first, second = add(store, "a"), add(store, "b", passed=False)
    assert [(item.number, item.artifact_id, item.passed) for item in store.versions()] == [
        (2, second, False),
        (1, first, True),
    ]
    assert store.find(first[:8]).number == 1
    with pytest.raises(OwledError, match="names 0 versions"):
        store.find("ffffffffffff")


def test_promotion_and_the_whole_way_back(store: Store) -> None:
    a, b, c = (add(store, name) for name in "abc")
    assert [store.promote(name) for name in (a, b, a, c)] == ["", a, b, a]
    assert current_id(store) == c
    assert [store.rollback() for _ in range(4)] == [a, b, a, ""]  # c -> a -> b -> a -> dense
    assert store.current() is None
    assert store.promote(b) == ""  # and on from there
    assert store.rollback() == ""


def test_a_refused_version_needs_force_and_a_damaged_one_is_never_promoted(store: Store) -> None:
    refused, unjudged, damaged = add(store, "a", passed=False), add(store, "b", passed=None), add(store, "c")
    with pytest.raises(OwledError, match="refused by the gate"):
        store.promote(refused)
    with pytest.raises(OwledError, match="never judged"):
        store.promote(unjudged)
    store.promote(refused, force=True)
    (store.find(damaged).path / "model.safetensors").write_bytes(b"x" * 64)
    with pytest.raises(OwledError, match="does not match its hash"):
        store.promote(damaged, force=True)
    assert current_id(store) == refused


def test_nothing_is_switched_when_the_driving_node_refuses(store: Store) -> None:
    a, b = add(store, "a"), add(store, "b")
    store.promote(a)
    driver = FakeCar(refuses="no memory for two models")
    with pytest.raises(OwledError, match="no memory"):
        store.promote(b, driver=driver)
    with pytest.raises(OwledError, match="no memory"):
        store.rollback(driver=driver)
    assert driver.heard == [
        ("prepare", b),
        ("prepare", "base"),
    ]  # the way back from the first version leads to the base
    assert current_id(store) == a


def test_the_same_candidate_again_keeps_its_place_and_gets_the_new_verdict(store: Store) -> None:
    first = add(store, "a", passed=False)
    assert add(store, "a", passed=True) == first
    assert [(item.number, item.passed) for item in store.versions()] == [(1, True)]


def test_a_damaged_copy_is_replaced_by_the_same_candidate(store: Store) -> None:
    first = add(store, "a")
    (store.find(first).path / "config.json").unlink()
    add(store, "a")
    assert [item.number for item in store.versions()] == [2]
    verify(store.find(first).path)


def test_retention_deletes_the_oldest_but_never_what_drives_nor_the_way_back(store: Store) -> None:
    ids = [add(store, name) for name in "abcdef"]
    store.promote(ids[0])
    store.promote(ids[1])
    assert store.retain(Retention(max_versions=3)) == ids[2:5]
    assert [item.artifact_id for item in store.versions()] == [ids[5], ids[1], ids[0]]
    assert store.retain(Retention(max_versions=1), protect=(ids[5],)) == []
    assert store.rollback() == ids[0]


def test_retention_counts_bytes(store: Store) -> None:
    ids = [add(store, name, weight_bytes=10_000) for name in "abc"]
    sizes = [item.bytes for item in store.versions()]
    assert store.retain(Retention(max_bytes=sizes[0] + sizes[1])) == [ids[0]]


def test_a_wrong_clock_does_not_change_the_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [add(store, "a")]
    monkeypatch.setattr("time.time", lambda: 0.0)
    ids.append(add(store, "b"))
    for item in store.versions():
        os.utime(item.path, (0, 0))
    assert store.retain(Retention(max_versions=1)) == [ids[0]]


def test_a_link_out_of_the_store_is_refused(store: Store, tmp_path: Path) -> None:
    add(store, "a")
    for target in ("/etc", "artifacts/../../elsewhere", "artifacts/name"):
        (store.root / "current").unlink(missing_ok=True)
        (store.root / "current").symlink_to(target)
        with pytest.raises(OwledError, match="outside the store"):
            store.current()


def test_an_artifact_deleted_by_hand_is_said_and_repaired_by_a_promotion(store: Store) -> None:
    a, b = add(store, "a"), add(store, "b")
    store.promote(a)
    (store.find(a).path).rename(store.root / "moved")
    with pytest.raises(OwledError, match="which is gone"):
        store.current()
    store.promote(b)
    assert current_id(store) == b


def test_a_spoilt_history_costs_the_way_back_and_nothing_else(store: Store) -> None:
    a, b = add(store, "a"), add(store, "b")
    store.promote(a)
    store.promote(b)
    (store.root / "history.json").write_text("{")
    assert current_id(store) == b
    assert store.rollback() == ""


def test_a_second_job_is_refused_and_leftovers_of_a_killed_one_are_swept(store: Store) -> None:
    with store.job():
        with pytest.raises(OwledError, match="another recalibration"):
            with store.job():
                pass
    program = "import os, sys; from pathlib import Path; from owled_ros.deployment.store import Store\n"
    program += "with Store(Path(sys.argv[1])).job() as work: (work / 'half').mkdir(); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", program, str(store.root)], env=environment).returncode == -9
    assert len(list((store.root / "work").iterdir())) == 1
    with store.job() as work:
        assert list((store.root / "work").iterdir()) == [work]
    assert list((store.root / "work").iterdir()) == []


def test_readers_see_a_whole_artifact_while_versions_are_promoted(store: Store) -> None:
    ids = [add(store, name) for name in "ab"]
    store.promote(ids[0])
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            path = store.current()
            assert path is not None
            seen.add(read_manifest(path).base.name)
            stop.wait(0.001)  # lets the writer have the interpreter

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        store.promote(ids[(turn + 1) % 2])
    stop.set()
    reader.join()
    assert seen == {"a", "b"}


def change_add(store: Store) -> None:
    store.promote(store.add(make_artifact(store.root / "work" / "candidate", "d")).artifact_id)


def change_promote(store: Store) -> None:
    store.promote(next(item.artifact_id for item in store.versions() if not item.current and not item.previous))


def change_rollback(store: Store) -> None:
    store.rollback()


def change_retain(store: Store) -> None:
    store.retain(Retention(max_versions=1))


CHANGES = [change_add, change_promote, change_rollback, change_retain]


def steps_of(change: Callable[[Store], None], root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    disk = Disk(prepared(root))
    with recording(disk, monkeypatch):
        change(Store(root))
    return disk.steps


def prepared(root: Path) -> Path:
    """Make a store with versions a (previous), b (current) and c."""
    store = Store(root)
    a, b, _ = (add(store, name) for name in "abc")
    store.promote(a)
    store.promote(b)
    return root


@pytest.mark.parametrize("change", CHANGES)
def test_power_may_fail_after_every_step(
    change: Callable[[Store], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(change, tmp_path / "count", monkeypatch)
    assert steps > 2
    outcomes = set()
    for cut in range(steps + 1):
        root = prepared(tmp_path / f"cut{cut}")
        disk = Disk(root, cut_after=cut)
        disk.sync_everything()
        with recording(disk, monkeypatch):
            try:
                change(Store(root))
            except PowerCutError:
                assert cut < steps
        durable = disk.what_is_left(tmp_path / f"left{cut}")
        for survivor in (root, durable):  # the disk kept everything, or only what was fsynced
            outcomes.add(check_whole(Store(survivor)))
    assert len(outcomes) == (1 if change is change_retain else 2)  # what was current before, or after


def check_whole(store: Store) -> str | None:
    """Assert that what is current is whole and that the store keeps working; returns what is current."""
    path = store.current()
    assert path is not None
    verify(path)
    current = current_id(store)
    for item in store.versions():
        assert item.fault == ""
        verify(item.path)
    new = add(store, "next")
    assert store.promote(new) == current
    assert store.rollback() == current
    assert not [child for child in store.root.rglob("*") if ".aside-" in child.name]
    assert list((store.root / "work").iterdir()) == []
    return current


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_driver_commits_after_the_store_and_a_silent_one_does_not_undo_it(store: Store) -> None:
    a, driver = add(store, "a"), FakeCar(unreachable="it does not answer")
    store.promote(a, driver=driver)
    assert driver.heard == [("prepare", a), ("commit", "")]
    assert current_id(store) == a


@pytest.mark.parametrize("step", ["write_json", "os.replace"])
def test_a_full_disk_changes_nothing_and_the_driver_forgets(store: Store, monkeypatch: Any, step: str) -> None:
    a, b = add(store, "a"), add(store, "b")
    store.promote(a)
    driver = FakeCar()
    with monkeypatch.context() as patch:
        patch.setattr(f"owled_ros.deployment.store.{step}", full)
        with pytest.raises(OwledError, match="the current version is unchanged"):
            store.promote(b, driver=driver)
    assert driver.heard == [("prepare", b), ("abort", "")]
    assert current_id(store) == a
    assert store.rollback() == ""  # one step back, as if nothing had been tried


def test_a_rollback_on_a_full_disk_goes_back_one_step_and_never_two(store: Store, monkeypatch: Any) -> None:
    a, b = add(store, "a"), add(store, "b")
    for name in (a, b, a, b):
        store.promote(name)
    with monkeypatch.context() as patch:
        patch.setattr("owled_ros.deployment.store.write_json", full)
        assert store.rollback() == a  # the rename was possible: it counts
        assert current_id(store) == a
        with pytest.raises(OwledError, match="the current version is unchanged"):
            store.rollback()  # the history has to be cut first
        assert current_id(store) == a
    assert [store.rollback() for _ in range(3)] == [b, a, ""]


@pytest.mark.parametrize("identifier", ["", "0", "00000", "\0", "x" * 5000])
def test_a_slip_of_the_finger_names_no_version(store: Store, identifier: str) -> None:
    add(store, "a")
    with pytest.raises(OwledError, match="names 0 versions"):
        store.promote(identifier)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"promoted": 3}', '{"promoted": [null]}', "NaN", "\xff", "{}", "[1e999]"]
)
def test_a_damaged_history_ends_the_way_back_and_nothing_else(store: Store, content: str) -> None:
    a, b = add(store, "a"), add(store, "b")
    store.promote(a)
    store.promote(b)
    (store.root / "history.json").write_text(content)
    assert [item.artifact_id for item in store.versions()] == [b, a]
    assert current_id(store) == b
    assert store.rollback() == ""


def test_versions_that_cannot_be_read_are_listed_with_their_fault(store: Store) -> None:
    ids = [add(store, name) for name in "abc"]
    (store.find(ids[0]).path / "owled.json").write_text("[" * 100_000)
    manifest = store.find(ids[1]).path / "owled.json"
    manifest.unlink()
    manifest.mkdir()
    (store.root / "current").symlink_to("/somewhere/else")
    listed = {item.artifact_id: item.fault for item in store.versions()}
    assert [bool(listed[name]) for name in ids] == [True, True, False]
