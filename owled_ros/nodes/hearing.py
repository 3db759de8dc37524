"""What a driving node said, from its typed messages back to what a film draws and a world obeys. Needs the message packages."""

from __future__ import annotations

import math
from typing import Any

from owled_ros.driving.answer import Action, Light, Manoeuvre, ObjectKind, Scene, SceneObject
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason, SceneAnswer
from owled_ros.driving.trajectory import Trajectory
from owled_ros.msg import PredictedAction, PredictedTrajectory, SceneDescription
from owled_ros.msg import SceneObject as SceneObjectMessage
from owled_ros.nodes.conversions import message_to_trajectory


def message_to_answer(action: PredictedAction, trajectory: PredictedTrajectory | None) -> ActionAnswer | None:
    """Convert the action of an image with its trajectory, if that was heard; None where the model said nothing.

    `trajectory` may be that of another image: it then counts as not heard.
    """
    if not action.text:
        return None
    path, reasoning = _path_of(action, trajectory)
    generation = Generation(
        action.text, action.reason != Reason.INCOMPLETE, float(action.confidence), 0, 0.0, reasoning=reasoning
    )
    if not action.valid:
        return ActionAnswer(generation, None, reason_of(action), action.reason_text)
    return ActionAnswer(generation, message_to_action(action), Reason.VALID, trajectory=path)


def message_to_action(message: PredictedAction) -> Action:
    """Convert a valid action."""
    manoeuvre = Manoeuvre(message.manoeuvre) if message.manoeuvre in list(Manoeuvre) else Manoeuvre.UNKNOWN
    return Action(float(message.acceleration), float(message.steering_tire_angle), manoeuvre)


def message_to_scene(message: SceneDescription) -> SceneAnswer:
    """Convert a description."""
    generation = Generation(message.text, message.complete, float(message.confidence), 0, 0.0)
    scene = scene_of(message)
    if scene is None:
        return SceneAnswer(generation, None, reason_of(message), message.reason_text)
    return SceneAnswer(generation, scene, Reason.VALID)


def scene_of(message: SceneDescription) -> Scene | None:
    """Return what is described; None for a description that is not valid."""
    if not message.valid:
        return None
    distance = None if math.isnan(message.light_distance) else float(message.light_distance)
    light = Light(message.traffic_light) if message.traffic_light in list(Light) else Light.UNKNOWN
    cars, pedestrians = (tuple(map(_object, items)) for items in (message.cars, message.pedestrians))
    return Scene(cars, pedestrians, light, distance)


def reason_of(message: Any) -> Reason:
    """Return why an action, trajectory or description is not valid; UNKNOWN for a reason of a later release."""
    return Reason(message.reason) if message.reason in list(Reason) else Reason.UNKNOWN


def _path_of(action: PredictedAction, trajectory: PredictedTrajectory | None) -> tuple[Trajectory | None, str]:
    if trajectory is None or trajectory.header.stamp != action.header.stamp:
        return None, ""
    return message_to_trajectory(trajectory) if trajectory.valid else None, trajectory.reasoning


def _object(message: SceneObjectMessage) -> SceneObject:
    kind = ObjectKind(message.kind) if message.kind in list(ObjectKind) else ObjectKind.UNKNOWN
    return SceneObject(kind, float(message.distance))
