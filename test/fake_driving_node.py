"""The real driving node with a model that does what a control file says; started by the tests as a process of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from owled_ros.driving.confidence import Calibration
from owled_ros.driving.engine import never
from owled_ros.driving.frame import Frame
from owled_ros.driving.needs import CameraNeed, InputNeeds, SurroundingsNeed
from owled_ros.driving.prediction import ActionAnswer, Generation, ModelIdentity, SceneAnswer, judge_action, judge_scene
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.vector_frame import vectors_of
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError

CONTROL, TOLD = "control.json", "told"  # TOLD: directory of vectors, <stamp>.npy
EXIT_CODE = 7  # of a process that leaves at the image number `exit_at`
GOOD = "cruise, acceleration +0.4 m/s2, steering +0.02 rad"
SCENE = "1 car: lead 12 m; 0 pedestrians; traffic light red 22 m"
FAILURES: dict[str, Callable[[], BaseException]] = {
    "memory": lambda: MemoryError("no room for the image"),
    "torch": lambda: RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "fault": lambda: ValueError("weights of layer 7 are NaN"),
}


class FakeEngine:
    """Answers what `control.json` in its model directory says."""

    facts: Mapping[str, Any] = {"device": "cpu", "kernel": "fake"}

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.seen = 0
        self.identity = ModelIdentity(f"{directory.name}@fake")
        needs = self.control().get("needs")
        if needs is not None:  # a model with a driving profile
            self.profile = SimpleNamespace(needs=input_needs(**needs), confidence=Calibration())
            if self.profile.needs.route is not None:  # what it was told is kept
                (directory / TOLD).mkdir(exist_ok=True)

    def control(self) -> dict[str, Any]:
        return json.loads((self.directory / CONTROL).read_text())

    def see(self, frame: Frame) -> Frame:
        control = self.control()
        time.sleep(control.get("delay_s", 0.0))
        if control.get("fail"):
            raise FAILURES[control["fail"]]()
        self.seen += 1
        if (self.directory / TOLD).is_dir():
            np.save(self.directory / TOLD / f"{frame.stamp}.npy", vectors_of(frame).packed())
        if self.seen == control.get("exit_at"):
            os._exit(EXIT_CODE)
        return frame

    def act(self, prefix: Frame) -> ActionAnswer:
        control = self.control()
        text, complete, confidence = (
            control.get("text", GOOD),
            control.get("complete", True),
            control.get("confidence", 0.9),
        )
        shown = [f"{view.camera} {round((prefix.stamp - view.stamp) / 1e9, 1)}" for view in prefix.views]
        if prefix.around is not None:
            shown += [f"{item.kind.name} {item.x:.1f} {item.y:.1f}" for item in prefix.around.objects or ()]
            shown += [f"{light.group} {light.light.name}" for light in prefix.around.lights or ()]
        if prefix.ego.steering_tire_angle is not None:
            shown.append(f"wheels {prefix.ego.steering_tire_angle:.2f}")
        reasoning = "; ".join([*shown, *(f"{state.pose.x:.1f}" for state in prefix.past if state.pose is not None)])
        answer = judge_action(Generation(text, complete, confidence, 8, 0.0, reasoning=reasoning))
        if answer.action is None:
            return answer
        return replace(answer, trajectory=roll_out(answer.action, prefix.ego.speed, VehicleParameters()))

    def describe(self, prefix: Frame, cancelled: Callable[[], bool] = never) -> SceneAnswer | None:
        if not self._wait(self.control().get("scene_delay_s", 0.0), cancelled):
            return None
        return judge_scene(Generation(self.control().get("scene", SCENE), True, 0.9, 8, 0.0))

    def ask(self, prefix: Frame, question: str, cancelled: Callable[[], bool] = never) -> Generation | None:
        if not self._wait(self.control().get("scene_delay_s", 0.0), cancelled):
            return None
        return Generation(f"you asked: {question}", True, 0.9, 4, 0.0)

    def close(self) -> None:
        """Free nothing."""

    @staticmethod
    def _wait(seconds: float, cancelled: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if cancelled():
                return False
            time.sleep(0.005)
        return not cancelled()


def input_needs(
    cameras: list[str],
    images: list[float],
    ego: list[float] | None = None,
    objects_s: float | None = None,
    lights_s: float | None = None,
    route_s: float | None = None,
    **flags: bool,
) -> InputNeeds:
    """Make needs of what a control file holds; objects, lights and route by how old they may be [s]."""
    budgets = tuple(CameraNeed(name, 2_000, 500) for name in cameras)
    ages = (objects_s, lights_s, route_s)
    objects, lights, route = (None if age is None else SurroundingsNeed(age) for age in ages)
    return InputNeeds(budgets, tuple(images), tuple(ego or ()), objects=objects, lights=lights, route=route, **flags)


def load_fake(path: str, *, device: str, dtype: str, threads: int, runtime: str) -> FakeEngine:
    """Load a directory that holds a control file."""
    directory = Path(path)
    if not (directory / CONTROL).is_file():
        raise OwledError(f"model directory {directory} has no {CONTROL}")
    engine = FakeEngine(directory)
    time.sleep(engine.control().get("load_s", 0.0))
    if engine.control().get("load_fails"):
        raise OSError("safetensors header is damaged")
    return engine


def make_model(directory: Path, **control: Any) -> Path:
    """Write a model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    aside = directory / "aside.json"
    aside.write_text(json.dumps(control))
    aside.rename(directory / CONTROL)
    return directory


if __name__ == "__main__":
    from owled_ros.nodes.process import leave, watch_signals

    watch_signals()
    from owled_ros.nodes.driving_node import main

    leave(main(load_fake))
