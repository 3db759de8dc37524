"""The real child process with a tiny random model and tiny bags: the whole job, bad bags, a full disk, a candidate that does not load."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from autoware_bags import make_autoware_bag
from recorded_drives import START, image, make_bag, record_drive

from owled_ros.bags.write import BagWriter
from owled_ros.deployment.store import Store
from owled_ros.driving.frame import EgoState
from owled_ros.errors import OwledError
from owled_ros.models.manifest import verify
from owled_ros.recalibration.gate import plain_json
from owled_ros.recalibration.job import JobResult, run_job
from owled_ros.recalibration.material import choose_material
from owled_ros.recalibration.parameters import JobParameters
from owled_ros.recalibration.request import JobRequest

pytestmark = pytest.mark.slow
TINY = {
    "IMAGE_SIDE": 32,
    "GRID": 2,
    "IMAGE_TOKENS": 4,
    "WIDTH": 32,
    "HEADS": 2,
    "MLP": 64,
    "VISION_LAYERS": 1,
    "TEXT_LAYERS": 1,
}
ALWAYS = "format_version: 1\nrules: [{name: frames, metric: frames, unit: frames, min: 2}]\n"
NEVER = (
    "format_version: 1\nrules: [{name: size, metric: size.nonzeros, unit: ratio, against: dense, max_ratio: 0.01}]\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of a few thousand weights with the bundled model's tokenizer and prompts."""
    from owled_ros.scenes import mini_model

    directory = tmp_path_factory.mktemp("tiny") / "model"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TINY.items():
            patch.setattr(mini_model, name, value)
        profile = mini_model.build_profile(max_action_tokens=3, max_scene_tokens=3)
        mini_model.save_model(mini_model.build_model(0), directory, profile, "tiny")
    return directory


def recalibrate(tmp_path: Path, model: Path, bags: list[Path], rules: str = ALWAYS, **values: Any) -> JobResult:
    (tmp_path / "gate.yaml").write_text(rules)
    told = {"score": "wanda", "allocation": "owl", "calibration_frames": 3, "gate_frames": 3, **values}
    request = JobRequest(tuple(bags), model, JobParameters(gate_file=str(tmp_path / "gate.yaml"), **told))
    return run_job(request, Store(tmp_path / "store"))


def test_from_bags_to_a_promoted_artifact_and_the_next_candidate_against_it(tmp_path: Path, model: Path) -> None:
    bag = make_bag(tmp_path / "bag", images=8, drives=3)
    first = recalibrate(tmp_path, model, [bag])
    assert first.promoted
    manifest = verify(first.version.path)
    assert manifest.sparsity == pytest.approx(0.5, abs=0.01)
    assert manifest.packed is not None
    assert manifest.gate == first.verdict
    calibration = manifest.calibration[0]
    assert calibration["drive_digests"] == first.verdict["calibration_drives"]
    assert not set(first.verdict["calibration_drives"]) & set(first.verdict["gate_drives"])
    assert not first.verdict["shared_drive"]
    assert len(calibration["frame_fingerprints"]) == 3
    assert first.verdict["frames"] == 3
    assert (
        first.verdict["models"]["candidate"]["size"]["nonzeros"] < first.verdict["models"]["dense"]["size"]["nonzeros"]
    )

    second = recalibrate(tmp_path, model, [bag], rules=NEVER, sparsity=0.6, seed=1)
    assert not second.verdict["passed"]
    assert second.verdict["failed_rules"] == ["size"]
    assert second.verdict["models"]["running"]["model"]["artifact_id"] == first.version.artifact_id
    store = Store(tmp_path / "store")
    assert store.current() == first.version.path
    assert len(store.versions()) == 2


def test_drives_of_an_autoware_vehicle_go_to_the_verdict(tmp_path: Path, model: Path) -> None:
    job = recalibrate(tmp_path, model, [make_autoware_bag(tmp_path / "bag", images=8, drives=3)])
    assert job.promoted
    assert job.verdict["frames"] == 3


def truncated(path: Path) -> Path:
    make_bag(path, images=8, drives=2)
    file = next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:300])
    return path


def without_ego(path: Path) -> Path:
    with BagWriter(path) as bag:
        for number in range(4):
            bag.image(START + number * 100_000_000, image(number))
    return path


def without_camera(path: Path) -> Path:
    with BagWriter(path) as bag:
        for number in range(4):
            bag.odometry(START + number * 100_000_000, EgoState(START, 5.0))
    return path


def one_frame(path: Path) -> Path:
    with BagWriter(path) as bag:
        bag.odometry(START, EgoState(START, 5.0))
        bag.image(START, image(0))
    return path


def empty(path: Path) -> Path:
    with BagWriter(path):
        pass
    return path


@pytest.mark.parametrize("make", [truncated, without_ego, without_camera, one_frame, empty])
def test_bags_that_give_nothing_are_refused_with_words(tmp_path: Path, model: Path, make: Any) -> None:
    bag = make(tmp_path / "bag")
    with pytest.raises(OwledError, match=r"bag|images"):
        recalibrate(tmp_path, model, [bag])
    store = Store(tmp_path / "store")
    assert store.versions() == []
    assert list((store.root / "work").iterdir()) == []


def test_images_of_changing_size_and_a_single_drive(tmp_path: Path, model: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(12):
            stamp = START + number * 1_000_000_000
            for early in (0, 400_000_000, 800_000_000):
                bag.odometry(stamp + early, EgoState(stamp + early, 5.0 + number))
            bag.image(stamp, image(number, 64 + 16 * number, 36 + 2 * number), encoding="jpeg")
    with pytest.raises(OwledError, match="--cut-single-drive"):
        recalibrate(tmp_path, model, [tmp_path / "bag"])
    outcome = recalibrate(tmp_path, model, [tmp_path / "bag"], cut_single_drive=True)
    assert outcome.verdict["shared_drive"]


def test_a_bag_cut_in_the_middle_of_a_chunk_gives_what_is_before(tmp_path: Path, model: Path) -> None:
    bag = make_bag(tmp_path / "bag", images=40, drives=3)
    file = next(bag.glob("*.mcap"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 3 // 4])
    outcome = recalibrate(tmp_path, model, [bag])
    assert outcome.promoted
    assert not outcome.verdict["shared_drive"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, model: Path) -> None:
    bag = make_bag(tmp_path / "bag", images=8, drives=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the child inherits it; a write beyond it fails
    try:
        with pytest.raises(OwledError):
            recalibrate(tmp_path, model, [bag])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store = Store(tmp_path / "store")
    assert store.versions() == []
    assert list((store.root / "work").iterdir()) == []
    assert recalibrate(tmp_path, model, [bag]).promoted


def test_a_candidate_that_does_not_load_is_refused_not_fatal(tmp_path: Path, model: Path) -> None:
    from owled_ros.recalibration.gate import judge_candidate
    from owled_ros.recalibration.gate_rules import read_rules

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "gate.yaml").write_text(ALWAYS)
    roles = {"candidate": broken, "running": model, "dense": model}
    verdict = judge_candidate(roles, [], read_rules(tmp_path / "gate.yaml"), {"shared_drive": False})
    assert (verdict["passed"], verdict["failed_rules"]) == (False, ["candidate_loads"])
    json.dumps(verdict, allow_nan=False)


def test_no_image_calibrates_and_judges(tmp_path: Path) -> None:
    from owled_ros.bags.frames import ReadOptions

    bags = [make_bag(tmp_path / name, images=6, drives=2) for name in ("a", "b")]
    with BagWriter(tmp_path / "c") as bag:  # the same drive again, under another name
        record_drive(bag, 6, START)
    steps: list[int] = []
    material = choose_material([*bags, tmp_path / "c"], ReadOptions(), 8, 5, 0.3, 0, False, steps.append)
    assert steps == [1, 2, 3]
    assert sum(map(len, material.calibration)) == 8
    assert sum(map(len, material.gate)) == 5
    assert not set(material.drives(material.calibration)) & set(material.drives(material.gate))
    assert len(set(material.names)) == 3


def test_verdicts_are_plain_json() -> None:
    import numpy as np

    values = plain_json({"a": float("nan"), "b": (np.float64(1.5), np.int64(2)), 3: [float("inf")]})
    assert values == {"a": None, "b": [1.5, 2], "3": [None]}
