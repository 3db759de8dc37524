"""What another perception tells of the world: the same vectors by way of a frame as straight from the stage; noise and gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from owled_ros.commands import drive, sensitivity
from owled_ros.driving.answer import Action
from owled_ros.driving.ego import EgoState
from owled_ros.driving.frame import Frame
from owled_ros.driving.surroundings import Surroundings
from owled_ros.driving.vector_facts import Facts, facts_of
from owled_ros.driving.vector_frame import vectors_of
from owled_ros.driving.vector_words import Pedals
from owled_ros.driving.vectors import Route
from owled_ros.llm_driver.host import build_tiny, save
from owled_ros.models.vector_encoder import VectorConfig
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.closed_loop import drive_route
from owled_ros.scenes.perception import Perception, surroundings_of
from owled_ros.scenes.player import driver_of
from owled_ros.scenes.stage import Stage
from owled_ros.scenes.vector_scenes import scene_of
from owled_ros.scenes.world import World

IMAGE = np.zeros((2, 2, 3), np.uint8)
STILL = Pedals(0.0, 0.0, 0.0)


def told(stage: Stage, perception: Perception) -> Surroundings:
    return surroundings_of(stage, perception, 0)


def facts_by_frame(stage: Stage) -> Facts:
    ego = EgoState(0, stage.ego.speed, 0.0, 0.0, steering_tire_angle=0.0)
    return facts_of(vectors_of(Frame(IMAGE, 0, ego, around=told(stage, Perception()))))


@pytest.mark.parametrize("seed", range(6))
def test_both_ways_to_the_vectors_agree(seed: int) -> None:
    stage = World(seed).stage
    straight, by_frame = facts_of(scene_of(stage, 0.0, STILL)), facts_by_frame(stage)
    assert by_frame.light == straight.light
    assert by_frame.light_distance == pytest.approx(straight.light_distance, abs=1e-3)
    assert [item.distance for item in by_frame.vehicles] == pytest.approx(
        [i.distance for i in straight.vehicles], abs=1e-3
    )
    assert [item.crossing for item in by_frame.pedestrians] == [item.crossing for item in straight.pedestrians]
    assert by_frame.turn == pytest.approx(straight.turn, abs=0.5)
    assert by_frame.lane_offset == pytest.approx(straight.lane_offset, abs=0.05)


def test_noise_moves_and_gaps_take_away() -> None:
    stage = World(3).stage
    clear, again = told(stage, Perception()).objects, told(stage, Perception()).objects
    assert clear == again
    assert clear
    shaken = told(stage, Perception(noise=1.0)).objects
    assert shaken is not None
    assert len(shaken) == len(clear)
    assert shaken != clear
    assert told(stage, Perception(dropped=1.0)).objects == ()
    half = told(stage, Perception(dropped=0.5)).objects
    assert half is not None
    assert 0 < len(half) < len(clear)


def test_a_route_is_driven_by_what_is_told() -> None:
    """A driver that knows the route only: it steers at the third point and holds its speed; nobody renders an image for it."""
    asked: list[int] = []

    def steer(frame: Frame) -> Action:
        asked.append(frame.image.size)
        point = vectors_of(frame).route[3]
        return Action(7.0 - frame.ego.speed, float(np.clip(0.6 * point[Route.Y], -0.3, 0.3)))

    route = drive_route(5, driver_of(steer), Camera().resized(64, 64), 0.2, perception=Perception())
    assert route.answers == len(asked)
    assert set(asked) == {12}
    assert route.progress > 0.05
    assert route.outcome.value != "off road"


def test_the_command_lets_a_vector_model_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model says nothing that can be read: every answer is withheld and the car stands until it is given up."""
    small = VectorConfig(
        hidden_size=16, num_latents=3, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    save(*build_tiny(0, small), tmp_path / "model", "untrained")
    monkeypatch.setattr("owled_ros.scenes.world.TIME_OUT_SPEED", 25.0)  # given up after 10 to 16 s
    app = typer.Typer()
    drive.register(app)
    sensitivity.register(app)
    words = [
        "drive",
        "--policy",
        str(tmp_path / "model"),
        "--routes",
        "1",
        "--rate-hz",
        "1",
        "--alone",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(
        app, [*words, "--width", "64", "--height", "64", "--noise-m", "0.5", "--dropped", "0.2"]
    )
    assert result.exit_code == 0, result.output
    assert "time out" in result.output
