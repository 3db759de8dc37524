"""Real nodes under the catalogue's attacks while they drive: the three laws. benchmarks/attack_soak.py does the same for half an hour,
and measures the gaps against one second: no machine that does other work too holds that in every run.

A driver that is left in peace drives beside the attacked one: where the machine itself is late, both are.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

import hostile_models
from catalogue import Attack, catalogue
from driving_rig import NodeProcess, free_domain
from driving_watch import Drive
from target import DRIVER, Target

from owled_ros.demo.processes import node_environment
from owled_ros.deployment.deployment import create_deployment
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.player import expert_driver, play
from owled_ros.scenes.world import World

PEACEFUL = "/peaceful_node"
GAP_S, TIMES = 5.0, 4.0  # driving goes on: a gap of this long, or of so many times the longest in peace, is a fault
SEED = int(os.environ.get("OWLED_ATTACKS_SEED", "1"))
COUNTS = {
    "image": 12,
    "garbage": 8,
    "ego": 10,
    "command": 5,
    "question": 6,
    "service": 10,
    "store": 8,
    "goal": 8,
    "model": 3,
}
READY_S = 300.0
MODELS_TOO = "OWLED_ATTACKS_MODELS"
SETTINGS = {"deadline_s": 10.0, "max_frame_age_s": 10.0, "description_rate_hz": 0.5, "load_timeout_s": 120.0}
ALL = catalogue()


def chosen(kind: str) -> list[Attack]:
    """Choose attacks of a kind: other ones with another OWLED_ATTACKS_SEED."""
    known = [attack for attack in ALL if attack.kind == kind]
    picked = random.Random(SEED).sample(known, min(COUNTS[kind], len(known)))
    always = {"model": "a sound model", "goal": "goal, fifty at once"}.get(kind)
    return [*picked, *(attack for attack in known if attack.name == always and attack not in picked)]


def world_images(count: int = 5) -> list[np.ndarray]:
    """Render images that the model knows, or it would withhold its actions."""
    driven = play(World(5), expert_driver, Camera().resized(640, 360))
    return [moment.image for moment, _ in itertools.islice(driven, count) if moment.image is not None]


class Rig:
    """A car whose driver and recalibration are attacked, and a driver in peace."""

    def __init__(self, place: Path, compressed: bool) -> None:
        self.domain, self.compressed = free_domain(), compressed
        self.peace_s = 0.0  # longest gap of the driver in peace
        car = create_deployment(place / "car", hostile_models.sound(place / "base"))
        (place / "bags").mkdir()
        transport = "compressed" if compressed else "raw"
        values = [f"{name}:={value}" for name, value in {**SETTINGS, "image_transport": transport}.items()]
        driving = [
            "-m",
            "owled_ros.nodes",
            "driving_node",
            "--ros-args",
            *(word for value in values for word in ("-p", value)),
        ]
        recalibrating = ["-m", "owled_ros.nodes", "recalibration_node", "--ros-args", "-p", f"deployment:={car.root}"]
        recalibrating += ["-p", f"bag_roots:={place / 'bags'}", "-r", f"~/driving/switch_model:={DRIVER}/switch_model"]
        self.nodes = [
            NodeProcess([*driving, "-p", f"deployment:={car.root}"], self.domain, place / "driving.log"),
            NodeProcess(
                [*driving, "-p", "model_path:=mini", "-r", f"__node:={PEACEFUL[1:]}"],
                self.domain,
                place / "peaceful.log",
            ),
            NodeProcess(
                [*recalibrating, "-r", f"~/driving/model:={DRIVER}/output/model"],
                self.domain,
                place / "recalibration.log",
            ),
        ]
        self.drive = Drive(self.domain, [DRIVER, PEACEFUL], world_images(), compressed, rate_hz=4.0)
        self.target = Target(self.domain, place, SEED, car.root, compressed)
        self.target.driven = self.drive.watches[DRIVER].expect
        self.drive.start()

    def close(self) -> None:
        self.target.close()
        self.drive.close()
        for node in self.nodes:
            if node.process.poll() is None:
                node.end(timeout=30.0)

    def check(self, what: str) -> None:
        """Hold the laws: everybody lives, driving went on, and nothing wrong was published."""
        for node in self.nodes:
            assert node.process.poll() is None, f"{what}: a node died\n{node.text()[-3000:]}"
        assert self.drive.faults() == [], what
        gap, peaceful = (self.drive.watches[name].mark() for name in (DRIVER, PEACEFUL))
        self.peace_s = max(self.peace_s, peaceful)
        assert gap <= max(GAP_S, TIMES * self.peace_s), (
            f"{what}: no action for {gap:.2f} s, in peace {self.peace_s:.2f} s"
        )


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "compressed"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    before = dict(os.environ)
    os.environ.update({**node_environment(None), "OMP_NUM_THREADS": "1"})
    made = Rig(tmp_path_factory.mktemp("attacked"), request.param)
    try:
        assert made.drive.wait_for_actions(10, READY_S), [node.text()[-1500:] for node in made.nodes]
        made.nodes[2].wait_for_text("current: none", READY_S)
        yield made
    finally:
        made.close()
        os.environ.clear()
        os.environ.update(before)
    for node in made.nodes:
        assert node.process.returncode == 0, node.text()[-3000:]
        assert "Traceback" not in node.text(), node.text()[-6000:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", COUNTS)
def test_the_three_laws_hold_under_attacks(rig: Rig, kind: str) -> None:
    if rig.compressed and kind not in ("image", "garbage"):
        pytest.skip("what is not about images was asked with raw ones")
    if kind == "model" and not os.environ.get(MODELS_TOO):  # other tests load and refuse them, without attacks beside
        pytest.skip(
            f"a trial runs on idle cores, and beside other tests there are none: set {MODELS_TOO}=1 and run it alone"
        )
    for watch in rig.drive.watches.values():
        watch.mark()
    for attack in chosen(kind):
        heard = attack.run(rig.target)  # raises NoAnswerError where a service has none
        rig.target.spin(0.2)
        rig.check(f"{attack.name} ({heard})")
    assert rig.drive.wait_for_actions(5, READY_S)
    rig.check(kind)


def test_the_catalogue_knows_every_kind_and_no_name_twice() -> None:
    counts = Counter(attack.kind for attack in ALL)
    assert counts.keys() == COUNTS.keys()
    assert len({attack.name for attack in ALL}) == len(ALL) > 900
