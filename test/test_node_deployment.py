"""What drives is what the deployment says and what the topic says: real driving nodes, real promotions, real deaths."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from driving_rig import NODE, TEST, NodeProcess, Peer, fake_node, free_domain, until
from stored_artifacts import make_artifact

from owled_ros.deployment.deployment import Deployment, create_deployment
from owled_ros.errors import OwledError
from owled_ros.msg import DrivingModel
from owled_ros.nodes.driver_client import running_driver
from owled_ros.nodes.quality import LATCHED

DOMAIN = free_domain()
FOLLOW_S = 60.0  # 1 s on a quiet machine
KILLS = int(os.environ.get("OWLED_KILLS", "4"))


class Listener(Peer):
    """Hears what a driving node says that it drives."""

    def __init__(self) -> None:
        super().__init__(DOMAIN, "listener")
        self.said: list[DrivingModel] = []
        self.node.create_subscription(DrivingModel, f"{NODE}/output/model", self.said.append, LATCHED)

    def drives(self, path: Path | str) -> bool:
        def now() -> bool:
            self.executor.spin_once(timeout_sec=0.05)
            return bool(self.said) and self.said[-1].loaded and self.said[-1].artifact_path == str(path)

        return until(now, FOLLOW_S, 0.0)


PROMOTER = """
import sys
from owled_ros.deployment.deployment import open_deployment
from owled_ros.nodes import driver_client
driver_client.DISCOVERY_S = 60.0  # a busy machine finds the node late
car = open_deployment(sys.argv[1])
with driver_client.running_driver("driving_node", car.base, car.root, 20.0) as driver:
    print("promoting", flush=True)
    car.store.promote(sys.argv[2], driver=driver) if sys.argv[2] else car.store.rollback(driver)
"""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as made:
        yield made


@pytest.fixture
def car(tmp_path: Path) -> Deployment:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "control.json").write_text("{}")
    return create_deployment(tmp_path / "car", base)


def add(car: Deployment, name: str, **control: Any) -> Path:
    with car.store.job() as work:
        made = make_artifact(work / "candidate", name, more={"control.json": json.dumps(control)})
        return car.store.add(made).path


@pytest.fixture
def in_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))


def test_the_node_follows_its_deployment_and_survives_a_restart(
    tmp_path: Path, car: Deployment, listener: Listener
) -> None:
    first, broken = add(car, "a"), add(car, "b", load_fails=True)
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root):
        assert listener.drives(car.base)
        assert listener.said[-1].source == DrivingModel.SOURCE_DEPLOYMENT
        assert listener.said[-1].deployment == str(car.root)
        car.store.promote(first.name)  # by someone who knows nothing of the node
        assert listener.drives(first)
        car.store.rollback()
        assert listener.drives(car.base)
        car.store.promote(broken.name)  # cannot be loaded: what drives keeps driving, and the topic does not lie
        assert until(lambda: "cannot be loaded" in (tmp_path / "log").read_text())
        assert listener.drives(car.base)
        car.store.rollback()
        car.store.promote(first.name)
        assert listener.drives(first)
    listener.said.clear()
    with fake_node(DOMAIN, tmp_path / "log2", deployment=car.root):
        assert listener.drives(first)


def test_a_promotion_with_the_driver_is_prepare_rename_commit(
    tmp_path: Path, car: Deployment, listener: Listener, in_domain: None
) -> None:
    good, bad = add(car, "a"), add(car, "b", load_fails=True)
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root):
        assert listener.drives(car.base)
        with running_driver("driving_node", car.base, car.root, 120.0) as driver:
            car.store.promote(good.name, driver=driver)
            assert listener.drives(good)
            with pytest.raises(OwledError, match="safetensors header is damaged"):
                car.store.promote(bad.name, driver=driver)
            assert car.store.current() == good
            car.store.rollback(driver=driver)
            assert listener.drives(car.base)
        other = create_deployment(tmp_path / "other", car.base)
        with running_driver("driving_node", car.base, other.root, 120.0) as driver:
            with pytest.raises(OwledError, match="would not survive its restart"):
                driver.prepare(None)
    assert "request switch-" in listener.said[-1].why


@pytest.mark.parametrize("victim", ["driver", "promoter"])
def test_whoever_dies_during_a_promotion_store_and_car_agree_afterwards(
    tmp_path: Path, car: Deployment, listener: Listener, in_domain: None, victim: str
) -> None:
    slow = add(car, "a", load_s=3.0)
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root) as node:
        assert listener.drives(car.base)
        with NodeProcess(["-c", PROMOTER, str(car.root), slow.name], DOMAIN, tmp_path / "promoter") as promoter:
            threading.Event().wait(2.5)  # somewhere between its start and the end of the slow loading
            (node if victim == "driver" else promoter).process.send_signal(signal.SIGKILL)
            promoter.process.wait(60.0)
        wanted = car.driving()
        assert wanted in (car.base, slow)
        if victim == "promoter":
            assert listener.drives(wanted)
            return
    with fake_node(DOMAIN, tmp_path / "log2", deployment=car.root):
        listener.said.clear()
        assert listener.drives(car.driving())


@pytest.mark.timeout(600 + 60 * KILLS)
def test_random_kills_of_either_side_leave_store_and_car_agreed(
    tmp_path: Path, car: Deployment, listener: Listener, in_domain: None
) -> None:
    """OWLED_KILLS=200 makes a long run of it; what was killed when comes from a fixed seed."""
    chance = random.Random(11)
    versions = [add(car, name, load_s=0.4) for name in ("a", "b", "c")]
    node = fake_node(DOMAIN, tmp_path / "log0", deployment=car.root)
    killed = {"driver": 0, "promoter": 0}
    try:
        assert listener.drives(car.base)
        for turn in range(KILLS):
            current = car.store.current()
            target = chance.choice([version for version in versions if version != current])
            name = "" if current is not None and chance.random() < 0.3 else target.name
            victim = chance.choice(("driver", "promoter"))
            with NodeProcess(["-c", PROMOTER, str(car.root), name], DOMAIN, tmp_path / f"promoter{turn}") as promoter:
                promoter.wait_for_text("promoting")
                time.sleep(chance.uniform(0.0, 1.2))
                (node if victim == "driver" else promoter).process.kill()
                promoter.process.wait(60.0)
            killed[victim] += 1
            if victim == "driver":
                node.process.wait(60.0)
                listener.said.clear()
                node = fake_node(DOMAIN, tmp_path / f"log{turn + 1}", deployment=car.root)
            assert listener.drives(car.driving()), f"turn {turn}, {victim} killed: {listener.said[-1:]}"
            assert car.driving() in (car.base, *versions)
            print(f"turn {turn}: {killed} killed so far, store and car agree", flush=True)
    finally:
        node.process.kill()
        node.process.wait()


def test_a_parameter_file_without_a_model_drives_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    deadline_s: 0.4\n")
    arguments = [
        str(TEST / "fake_driving_node.py"),
        "--ros-args",
        "--params-file",
        str(file),
        "-p",
        "exit_on_failure:=true",
    ]
    with NodeProcess(arguments, DOMAIN, tmp_path / "log") as process:
        assert process.process.wait(60.0) == 1
        assert "a parameter file was given but no model" in process.text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no deployment"),
        ("{", "is not a deployment"),
        (json.dumps({"format_version": 1, "base": "/gone"}), "is not there"),
    ],
)
def test_a_wrong_deployment_drives_nothing(tmp_path: Path, content: str | None, words: str) -> None:
    root = tmp_path / "car"
    if content is not None:
        root.mkdir()
        (root / "deployment.json").write_text(content)
    with fake_node(DOMAIN, tmp_path / "log", deployment=root, exit_on_failure=True) as process:
        assert process.process.wait(60.0) == 1
        assert words in process.text()
