"""What a source hears from the typed topics: nothing is lost, nothing is read out of text, images passed over are counted."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from owled_ros.driving.answer import Action, Light, Manoeuvre, ObjectKind, Scene, SceneObject
from owled_ros.driving.frame import EgoState
from owled_ros.driving.overlay import Overlay
from owled_ros.driving.prediction import ActionAnswer, Generation, ModelIdentity, Reason, SceneAnswer
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.nodes import conversions
from owled_ros.nodes.camera_output import CameraOutput, Shown
from owled_ros.nodes.hearing import message_to_answer, message_to_scene
from owled_ros.onboard.ladder import Outcome

ACTION = Action(0.5, 0.25, Manoeuvre.FOLLOW)  # exact in the messages' float32
SAID = Generation("[(1.0, 0.0)]", True, 0.75, 4, 0.0, reasoning="a car is ahead")


def outcome(stamp: int = 7, reason: Reason = Reason.VALID, said: Generation | None = SAID) -> Outcome:
    path = roll_out(ACTION, 5.0, VehicleParameters())
    valid = reason is Reason.VALID
    answer = said and ActionAnswer(said, ACTION if valid else None, reason, "why", trajectory=path if valid else None)
    detail = "" if valid else "why"
    return Outcome(stamp, "camera", reason, detail, answer=answer, identity=ModelIdentity("model@1"), latency_ms=12.0)


def messages(what: Outcome) -> tuple[Any, Any]:
    action = (
        conversions.outcome_to_action(what, VehicleParameters(), "base_link")
        if what.valid
        else conversions.outcome_to_withheld_action(what, "base_link")
    )
    return action, conversions.outcome_to_trajectory(what, "base_link")


def test_a_valid_answer_comes_back_whatever_its_text_looks_like() -> None:
    action, trajectory = messages(outcome())
    heard = message_to_answer(action, trajectory)
    assert heard is not None
    assert (heard.action, heard.reason, heard.generation.reasoning) == (ACTION, Reason.VALID, "a car is ahead")
    assert heard.trajectory is not None
    np.testing.assert_allclose(heard.trajectory.values, outcome().answer.trajectory.values, atol=1e-4)  # type: ignore[union-attr]
    other = messages(outcome(stamp=8))[1]
    alone = message_to_answer(action, other)
    assert alone is not None
    assert (alone.valid, alone.trajectory, alone.generation.reasoning) == (True, None, "")


def test_withheld_answers_keep_their_reason_and_unasked_models_said_nothing() -> None:
    heard = message_to_answer(*messages(outcome(reason=Reason.LOW_CONFIDENCE)))
    assert heard is not None
    assert (heard.valid, heard.reason, heard.detail) == (False, Reason.LOW_CONFIDENCE, "why")
    assert message_to_answer(*messages(outcome(reason=Reason.NO_EGO, said=None))) is None


@pytest.mark.parametrize(
    "scene",
    [
        Scene(),
        Scene((SceneObject(ObjectKind.LEAD, 12.0),), (SceneObject(ObjectKind.CROSSING, 4.5),), Light.RED, 22.0),
    ],
)
def test_descriptions_come_back(scene: Scene) -> None:
    answer = SceneAnswer(Generation("words", True, 0.0, 4, 0.1), scene, Reason.VALID)
    assert message_to_scene(conversions.scene_to_message(outcome(), answer, 0.0, 1.0)).scene == scene
    doubtful = conversions.scene_to_message(outcome(reason=Reason.LOW_CONFIDENCE), answer, 0.0, 1.0)
    assert (message_to_scene(doubtful).scene, message_to_scene(doubtful).reason) == (None, Reason.LOW_CONFIDENCE)


class Heard:
    """A CameraOutput on a node that only remembers who subscribed, and what came of it."""

    def __init__(self) -> None:
        self.topics: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.drawn: list[tuple[int, Overlay]] = []
        node = SimpleNamespace(
            create_publisher=lambda *given: SimpleNamespace(publish=lambda message: None),
            create_subscription=lambda kind, topic, call, depth: self.topics.__setitem__(topic, call),
        )
        sketch = lambda shown, overlay: self.drawn.append((shown.stamp, overlay))  # noqa: E731
        self.output = CameraOutput(node, "/car", self.events.append, sketch, simulated=True)  # type: ignore[arg-type]

    def show(self, stamp: int) -> None:
        image = np.zeros((4, 6, 3), np.uint8)
        self.output.show(Shown(stamp, image, EgoState(stamp, 5.0), 0.0, 0.0, 0, ACTION, None, {}))

    def hear(self, what: Outcome, trajectory_first: bool = False) -> None:
        action, trajectory = messages(what)
        names = ("action", "trajectory") if what.valid else ("withheld_action", "withheld")
        said = [(names[0], action), (names[1], trajectory)]
        for name, message in reversed(said) if trajectory_first else said:
            self.topics[f"/car/output/{name}"](message)


def test_images_passed_over_are_counted_and_one_that_is_shown_again_counts_once() -> None:
    heard = Heard()
    for stamp in (1, 1, 2, 3, 4):
        heard.show(stamp)
    heard.output.forgiving = True
    heard.hear(outcome(1, Reason.NO_EGO, None))
    assert not heard.events, "a node that has heard nothing yet has not answered"
    heard.output.forgiving = False
    heard.hear(outcome(1))
    heard.hear(outcome(1))
    assert not heard.output.answered.is_set(), "an answer to an earlier image is none to the newest"
    heard.hear(outcome(4))
    assert heard.output.answered.is_set()
    assert [event["passed_over"] for event in heard.events] == [0, 2]
    assert [event["confidence"] for event in heard.events] == [0.75, 0.75]
    assert (heard.output.sent, heard.output.taken_up) == (4, 2)
    heard.hear(outcome(99))
    assert len(heard.events) == 2, "what was never shown is not counted"


@pytest.mark.parametrize("trajectory_first", [False, True])
def test_the_film_shows_the_trajectory_that_was_published(trajectory_first: bool) -> None:
    heard = Heard()
    heard.show(1)
    heard.hear(outcome(1), trajectory_first)
    assert [(stamp, overlay.answer.trajectory is not None) for stamp, overlay in heard.drawn] == [(1, True)]  # type: ignore[union-attr]
    heard.show(2)
    heard.topics["/car/output/action"](messages(outcome(2))[0])
    assert len(heard.drawn) == 1, "its trajectory may still come"
    heard.output.finish()
    assert [(stamp, overlay.answer.trajectory) for stamp, overlay in heard.drawn[1:]] == [(2, None)]  # type: ignore[union-attr]


def test_actions_hold_until_they_are_too_old_or_forgotten() -> None:
    heard = Heard()
    heard.show(1)
    heard.hear(outcome(1))
    assert heard.output.fresh_action(math.inf) == ACTION
    assert heard.output.fresh_action(0.0) is None
    heard.output.forget_action()
    assert heard.output.fresh_action(math.inf) is None
