"""A model that reads vectors in the real driving node: what it is told equals the world, in a bag too; what is wrong has a reason."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import NODE, TEST, Bench, NodeProcess, fake_node, free_domain
from fake_driving_node import TOLD, make_model
from nav_msgs.msg import Path as PathMessage
from rclpy.qos import DurabilityPolicy, QoSProfile
from rich.console import Console
from sensor_msgs.msg import PointCloud2

from owled_ros.bags.frames import read_frames
from owled_ros.bags.reading import ReadOptions
from owled_ros.demo.run import DemoOptions, run_demo
from owled_ros.driving.answer import Light
from owled_ros.driving.ego import Pose
from owled_ros.driving.needs import InputNeeds, SurroundingsNeed
from owled_ros.driving.perceived_tables import lights_table, objects_table
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, TrafficLight
from owled_ros.driving.vector_facts import facts_of
from owled_ros.driving.vector_frame import vectors_of
from owled_ros.driving.vector_words import Pedals
from owled_ros.driving.vectors import Route, VectorScene, Vehicle, unpack
from owled_ros.errors import OwledError
from owled_ros.llm_driver.host import build_tiny, save
from owled_ros.models.vector_encoder import VectorConfig
from owled_ros.nodes.perception_output import route_to_path, table_to_cloud
from owled_ros.scenes.vector_scenes import scene_of
from owled_ros.scenes.world import World

NEEDS = {"cameras": ["front"], "images": [0.0], "objects_s": 0.5, "lights_s": 1.0, "route_s": 10.0}
CRUISE = "cruise, acceleration +0.4 m/s2, steering +0.00 rad"
SEED = 1  # with cars, people and a light ahead
AHEAD = tuple(Pose(float(x), 0.0, 0.0) for x in range(60))


def told(model: Path) -> list[VectorScene]:
    """Return the vectors of every frame that the model saw, by stamp; that of the warm-up, which has none, is left out."""
    files = sorted((file for file in (model / TOLD).glob("*.npy") if file.stem != "0"), key=lambda file: int(file.stem))
    return [unpack(np.load(file)) for file in files]


def assert_equal(found: VectorScene, expected: VectorScene) -> None:
    """Who waits and who crosses is concluded from place and speed."""
    assert np.abs(found.route - expected.route).max() < 0.03  # 0.03 rad of heading, 1 cm of place
    vehicles = np.delete(found.vehicles - expected.vehicles, Vehicle.MOVING, axis=1)
    assert np.abs(vehicles).max() < 1e-4
    assert np.abs((found.pedestrians - expected.pedestrians)[:, :8]).max() < 1e-4
    assert np.abs(found.ego - expected.ego).max() < 1e-4


def test_what_the_model_is_told_is_the_world_and_so_is_the_recording(tmp_path: Path) -> None:
    model, bag = make_model(tmp_path / "model", text=CRUISE, needs=NEEDS), tmp_path / "bag"
    options = DemoOptions(
        out=tmp_path / "out", model=str(model), driver=(str(TEST / "fake_driving_node.py"),), seconds=1.5, width=64, height=64,
        lockstep=True, routes=1, seed=SEED, domain=free_domain(), record=bag, film=False,
    )  # fmt: skip
    tally = run_demo(options, Console(file=open(os.devnull, "w"), force_terminal=False))  # noqa: SIM115
    assert (tally.sent, tally.reasons["VALID"]) == (15, 15)
    seen = told(model)
    assert len(seen) == 15
    world, applied = World(SEED), 0.0
    for scene in seen:
        assert_equal(scene, scene_of(world.stage, 0.0, Pedals(max(applied, 0.0) / 2.0, 0.0, 0.0), applied))
        applied = 0.4  # m/s2, of full throttle 2
        for _ in range(5):
            world.step(applied, 0.0, 0.02)
    needs = InputNeeds(objects=SurroundingsNeed(0.5), lights=SurroundingsNeed(1.0), route=SurroundingsNeed(10.0))
    recorded = [vectors_of(frame) for frame in read_frames(bag, ReadOptions(needs=needs))]
    assert len(recorded) == 15
    for scene, again in zip(seen, recorded, strict=True):
        assert np.abs(scene.packed() - again.packed()).max() < 1e-3
    facts = facts_of(seen[0])
    assert (len(facts.vehicles), len(facts.pedestrians), seen[0].route[:, Route.LIGHT].sum()) == (2, 3, 1.0)


@pytest.mark.slow
def test_an_llm_driver_is_asked_in_the_node(tmp_path: Path) -> None:
    """One that was never trained: every image is answered, and nothing that it says can be driven."""
    small = VectorConfig(
        hidden_size=16, num_latents=3, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    save(*build_tiny(0, small), tmp_path / "model", "untrained")
    options = DemoOptions(
        out=tmp_path / "out", model=str(tmp_path / "model"), seconds=0.3, width=64, height=64, lockstep=True, routes=1,
        seed=SEED, domain=free_domain(), film=False, noise_m=0.5, dropped=0.2,
    )  # fmt: skip
    with pytest.raises(
        OwledError, match=r"no action in 3 answered images; the last was withheld for (UNPARSED|INCOMPLETE)"
    ):
        run_demo(options, Console(file=open(os.devnull, "w"), force_terminal=False))  # noqa: SIM115


class Perception:
    """Publishes what a perception would, from the test's own process."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        publish = bench.node.create_publisher
        self.objects = publish(PointCloud2, f"{NODE}/input/objects", 5)
        self.lights = publish(PointCloud2, f"{NODE}/input/traffic_lights", 5)
        self.path = publish(PathMessage, f"{NODE}/input/path", 5)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.stop_lines = publish(PointCloud2, f"{NODE}/input/stop_lines", latched)

    def say(
        self,
        *users: RoadUser,
        route: tuple[Pose, ...] | None = AHEAD,
        lights: tuple[TrafficLight, ...] = (),
        age_s: float = 0.0,
    ) -> Callable[[], None]:
        """Return what publishes a standing vehicle's odometry, objects, lights and route."""

        def publish() -> None:
            self.bench.send_ego(speed=0.0)
            stamp = self.bench.now() - round(age_s * 1e9)
            self.objects.publish(table_to_cloud(objects_table(users), stamp))
            self.lights.publish(table_to_cloud(lights_table(lights), stamp))
            if route is not None:
                self.path.publish(route_to_path(Surroundings(route=route), stamp))

        return publish


def car(x: float, y: float = 0.0, kind: RoadUserClass = RoadUserClass.CAR) -> RoadUser:
    return RoadUser(x, y, 0.0, 4.5, 1.8, 0.0, 0.0, kind, 1.5)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Perception, NodeProcess, Path]]:
    model, domain = make_model(tmp_path / "model", needs=NEEDS), free_domain()
    with fake_node(domain, tmp_path / "log", model_path=model) as process, Bench(domain) as bench:
        process.wait_for_text("odometry <- ")
        yield Perception(bench), process, model
        code, _ = process.end()
        assert code == 0, process.text()
    assert "Traceback" not in process.text()


def test_what_is_wrong_has_a_reason_and_what_is_left_out_is_said_once(
    started: tuple[Perception, NodeProcess, Path],
) -> None:
    perception, process, model = started
    bench = perception.bench

    def reason(name: str, **said: Any) -> str:
        users = said.pop("users", (car(20.0),))
        return str(bench.drive_until(name, ego=perception.say(*users, **said))["detail"])

    assert "asks for objects and none have come" in bench.drive_until("NO_SURROUNDINGS")["detail"]
    for _ in range(40):  # topics are found one by one
        if "route points and none have come" in reason("NO_SURROUNDINGS", route=None):
            break
    else:
        raise AssertionError("the missing route is not said")
    red = TrafficLight(1, Light.RED, place=(24.3, 0.5))
    reason("VALID", lights=(red,))
    facts = facts_of(told(model)[-1])
    assert (facts.light, facts.light_distance, len(facts.vehicles)) == ("red", pytest.approx(24.3), 1)
    reason("VALID", users=(car(8.0, kind=RoadUserClass.UNKNOWN), car(9.0, kind=RoadUserClass.ANIMAL)))
    assert [round(item.distance) for item in facts_of(told(model)[-1]).vehicles] == [8]
    assert "not finite" in reason("NO_SURROUNDINGS", users=(car(math.nan),))
    assert "5000 m away; expected at most 1000 m" in reason("NO_SURROUNDINGS", users=(car(5_000.0),))
    assert "place 0 of the route" in reason("NO_SURROUNDINGS", route=(Pose(math.nan, 0.0, 0.0), *AHEAD))
    assert "50.0 m off the route" in reason("NO_SURROUNDINGS", route=(Pose(0.0, 50.0, 0.0), Pose(90.0, 50.0, 0.0)))
    assert "lights" not in reason("VALID")
    bench.spin(0.6)
    assert "objects are" in reason("STALE_SURROUNDINGS", age_s=2.0)

    many = tuple(car(float(x), 4.0) for x in range(5, 50))
    for _ in range(4):
        reason("VALID", users=many)
    assert told(model)[-1].vehicles[-1, Vehicle.X] == pytest.approx(3.4)  # the 30th of them, at 34 m
    words = "the model is told of 45 vehicles the nearest 30"
    bench.status("objects", words, meanwhile=perception.say(*many))
    process.wait_for_text(words)
    assert process.text().count(words) == 1
    reason("VALID")
    process.wait_for_text("told of every road user again")


def test_the_bundled_model_drives_by_what_it_is_told(tmp_path: Path) -> None:
    """Proof of life with torch, the model's own directory and the whole chain."""
    options = DemoOptions(
        out=tmp_path / "out", model="llm-driver", seconds=0.6, width=64, height=64, lockstep=True, routes=1, seed=SEED,
        domain=free_domain(), film=False, noise_m=0.5, dropped=0.1,
    )  # fmt: skip
    tally = run_demo(options, Console(file=open(os.devnull, "w"), force_terminal=False))  # noqa: SIM115
    assert tally.sent == 6
    assert tally.reasons["VALID"] == tally.answered >= 5
