"""An engine for tests that drives by arithmetic: no weights, no torch, always the same answers."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from owled_ros.driving.answer import (
    ACCELERATION_STEP,
    Action,
    Light,
    Manoeuvre,
    ObjectKind,
    Scene,
    SceneObject,
    format_action,
    format_scene,
)
from owled_ros.driving.frame import Frame
from owled_ros.driving.prediction import Generation, ModelIdentity, judge_action, judge_scene

DEADLY = 99  # number of the image that kills a "dying" driver


class FakeDriver:
    """Accelerates by the red of the image.

    Kinds: "seeing", "blind" (ignores the image), "mute" (nobody understands it), "slow", "dying",
    "wild" (brakes, accelerates, doubts and stammers by the number of the image).
    """

    def __init__(self, kind: str = "seeing") -> None:
        self.kind = kind
        self.identity = ModelIdentity(f"fake-{kind}@0", "")
        self.facts: dict[str, Any] = {"device": "cpu", "kernel": "none", "disk_bytes": 1000, "parameters": 10}
        self.asked = 0

    def see(self, frame: Frame) -> Frame:
        self.asked += 1
        if self.kind == "dying" and frame.image[0, 0, 0] == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "slow":
            time.sleep(0.02)
        return frame

    def act(self, prefix: Frame) -> Any:
        if self.kind == "mute":
            return judge_action(Generation("well, hm", True, 0.1, 3, 0.0))
        if self.kind == "wild":
            return self._wild(int(prefix.image[0, 0, 0]))
        red = float(prefix.image[..., 0].mean()) if self.kind == "seeing" else 4.0
        action = Action((red % 10 - 5) * ACCELERATION_STEP, 0.02, Manoeuvre.CRUISE)
        return judge_action(Generation(format_action(action), True, 0.9, 12, 0.0))

    def _wild(self, number: int) -> Any:
        acceleration = ACCELERATION_STEP * (number * 7 % 17 - 8)  # -1.6 to +1.6 m/s2
        text = format_action(Action(acceleration, 0.01 * (number % 5 - 2), Manoeuvre.FOLLOW))
        confidence = (number * 3 % 10 + 0.5) / 10
        return judge_action(Generation(text if number % 11 else "erm", True, confidence, 12, 0.0))

    def describe(self, prefix: Frame, cancelled: Any = None) -> Any:
        scene = Scene((SceneObject(ObjectKind.LEAD, 12.0),), (), Light.RED, 20.0)
        return judge_scene(Generation(format_scene(scene), True, 0.9, 20, 0.0))

    def close(self) -> None:
        pass


def load(path: str | None, **settings: Any) -> FakeDriver:
    """Load like owled_ros.models.driving_model.load_engine; the path says the kind."""
    del settings
    return FakeDriver(path or "seeing")


def spec(kind: str = "seeing") -> Any:
    """Return how a process loads it."""
    from owled_ros.evaluation.run import EngineSpec

    return EngineSpec(path=kind, name=kind, loader="fake_driver:load")
