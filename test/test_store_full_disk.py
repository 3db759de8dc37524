"""A store on a file system that is really full, really read-only, and another than that of its work: nothing or one whole step."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_a_mount import run_mounted

START = """
import json, os, subprocess, sys
from pathlib import Path
from stored_artifacts import FakeCar, make_artifact
from owled_ros.deployment.store import Store
from owled_ros.errors import OwledError
from owled_ros.models.manifest import verify

place = Path(sys.argv[1])
store, said = Store(place / "store"), []

def add(name):
    with store.job() as work:
        return store.add(make_artifact(work / "candidate", name)).artifact_id

def now():
    path = store.current()
    return "" if path is None else path.name.partition("-")[2]

def attempt(change):
    driver, before, words = FakeCar(), now(), ""
    try:
        change(driver)
    except OwledError as error:
        words = str(error)
    said.append({"before": before, "after": now(), "words": words, "heard": [step for step, _ in driver.heard]})

def fill():
    for number in range(100_000):  # every block, then every name
        try:
            with open(place / f"filler{number}", "wb") as stream:
                while number == 0:
                    stream.write(b"." * 4096)
                    stream.flush()
        except OSError:
            if number:
                return

def free():
    for path in place.glob("filler*"):
        path.unlink()
"""
FULL = """
a, b, c = (add(name) for name in "abc")
for name in (a, b, a, b):
    store.promote(name)
for _ in range(2):  # it is filled twice, and everything is tried twice
    fill()
    for _ in range(2):
        attempt(lambda driver: store.promote(c, driver=driver))
    for _ in range(2):
        attempt(lambda driver: store.rollback(driver=driver))
    free()
    for version in store.versions():
        verify(version.path)
left = [str(path) for path in store.root.rglob("*") if ".aside-" in path.name]
store.promote(c)
print(json.dumps({"said": said, "names": [a, b, c], "left": left, "end": now(), "back": store.rollback()}))
"""
READ_ONLY = """
a, b = add("a"), add("b")
store.promote(a)
subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
attempt(lambda driver: store.promote(b, driver=driver))
attempt(lambda driver: store.rollback(driver=driver))
attempt(lambda driver: add("c"))
print(json.dumps({"said": said, "listed": [item.artifact_id for item in store.versions()], "names": [a, b]}))
"""
ELSEWHERE = """
store = Store(Path(sys.argv[2]) / "store")
store.prepare()
(place / "artifacts").mkdir()
(store.root / "artifacts").rmdir()
(store.root / "artifacts").symlink_to(place / "artifacts")
assert os.stat(store.root / "work").st_dev != os.stat(store.root / "artifacts").st_dev
a, b = add("a"), add("b")
for name in (a, b):
    attempt(lambda driver: store.promote(name, driver=driver))
attempt(lambda driver: store.rollback(driver=driver))
big = make_artifact(Path(sys.argv[2]) / "big", "big", weight_bytes=1 << 22)  # larger than the other file system
attempt(lambda driver: store.add(big))
left = [path.name for path in (place / "artifacts").iterdir() if path.name[0] == "."]
whole = [verify(item.path).files != {} for item in store.versions()]
print(json.dumps({"said": said, "names": [a, b], "left": left, "whole": whole, "kept": big.is_dir()}))
"""


@pytest.mark.parametrize("options", ["size=1m", "size=4m,nr_inodes=120"], ids=["blocks", "names"])
def test_promotion_and_rollback_on_a_full_disk_do_nothing_or_one_whole_step(tmp_path: Path, options: str) -> None:
    found = run_mounted(options, tmp_path / "full", START + FULL)
    a, b, c = found["names"]
    way_back = [b, a, b, a, ""]  # from where the promotions led
    assert len(found["said"]) == 8
    for step in found["said"]:
        if step["words"]:
            assert step["after"] == step["before"]
            assert step["heard"] in (["prepare", "abort"], []), "the driver forgets what it prepared"
            assert "No space left on device" in step["words"]
        else:
            assert step["after"] in (c, way_back[way_back.index(step["before"]) + 1] if step["before"] != c else "")
            assert step["heard"] == ["prepare", "commit"]
    assert any(step["words"] for step in found["said"]), "the disk was really full"
    assert found["left"] == []
    assert found["end"] == c, "with room again it continues"


def test_a_read_only_store_refuses_in_a_sentence_and_stays(tmp_path: Path) -> None:
    found = run_mounted("size=4m", tmp_path / "fixed", START + READ_ONLY)
    a, b = found["names"]
    for step in found["said"]:
        assert (step["before"], step["after"], step["heard"]) == (a, a, [])
        assert "Read-only file system" in step["words"]
    assert found["listed"] == [b, a]


def test_versions_on_another_file_system_than_the_work_are_copied_whole(tmp_path: Path) -> None:
    found = run_mounted("size=2m", tmp_path / "other", START + ELSEWHERE, tmp_path)
    a, b = found["names"]
    assert [(step["after"], step["words"]) for step in found["said"][:3]] == [(a, ""), (b, ""), (a, "")]
    assert "No space left on device" in found["said"][3]["words"]
    assert (found["left"], found["whole"], found["kept"]) == ([], [True, True], True)
