"""The engine protocol: what the node, the evaluation and the gate ask of a model. Needs driving.prediction.

The order is fixed (design decision 5): `see` computes the prefix of image and ego state once; `act` decodes the
action from it; `describe` and `ask` continue from the same prefix as often as wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from owled_ros.driving.frame import Frame
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import ActionAnswer, Generation, ModelIdentity, Prediction, SceneAnswer


def needs_of(engine: object) -> InputNeeds:
    """Return what a model must be shown; without a profile one image of one camera and the ego state."""
    needs: InputNeeds | None = getattr(getattr(engine, "profile", None), "needs", None)
    return needs or InputNeeds()


def recommended_floor(engine: object) -> float:
    """Return the confidence floor [0, 1] that a model brings with it; 0 when it brings none."""
    profile = getattr(engine, "profile", None)
    return float(profile.confidence.floor) if profile is not None else 0.0


def never() -> bool:
    """Cancel nothing."""
    return False


class Engine(Protocol):
    """A loaded driving model. Not thread-safe: one thread calls it."""

    identity: ModelIdentity
    facts: Mapping[str, Any]  # device, dtype, kernel, sparsity, bytes: for diagnostics and reports

    def see(self, frame: Frame) -> Any:
        """Compute the prefix of a frame (image and ego sentence); it stays valid until the next `see`."""

    def act(self, prefix: Any) -> ActionAnswer:
        """Decode the action; never raises for a bad answer, only for a broken model."""

    def describe(self, prefix: Any, cancelled: Callable[[], bool] = never) -> SceneAnswer | None:
        """Decode the scene description; None when `cancelled` became true between two tokens."""

    def ask(self, prefix: Any, question: str, cancelled: Callable[[], bool] = never) -> Generation | None:
        """Decode a free answer to a question about the frame; None when cancelled."""

    def close(self) -> None:
        """Free the model; the engine cannot be used afterwards."""


def predict(engine: Engine, frame: Frame, describe: bool = True) -> Prediction:
    """Ask everything about one frame: the offline form used by evaluation, gate and calibration."""
    prefix = engine.see(frame)
    action = engine.act(prefix)
    return Prediction(frame.stamp, action, engine.describe(prefix) if describe else None, engine.identity)
