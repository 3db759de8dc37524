"""What is asked about one front camera, in our own words; the profile of a model without a file is made of it. Needs pydantic."""

from __future__ import annotations

from typing import Any

from owled_ros.driving.answers.acceleration_curvature import AccelerationCurvatureSpec
from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.answers.pedals import PedalsSpec
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.answers.speed_curvature import SpeedCurvatureSpec
from owled_ros.driving.profile_parts import Call, Number

EGO = "You drive a car. Your speed is {speed:.1f} m/s, your yaw rate is {yaw_rate:+.2f} rad/s (left positive)."
NUMBERS = {"speed": Number(step=0.1, min=0.0, max=60.0), "yaw_rate": Number(step=0.01, min=-1.0, max=1.0)}
LINE_QUESTION = (
    "What should the car do now? Answer with one line of this form and nothing else:\n"
    "<cruise|follow|stop|yield>, acceleration <signed number> m/s2, steering <signed number> rad\n"
    "The acceleration lies between -6.0 and +2.0, the steering (left positive) between -0.30 and +0.30. "
    "If you cannot tell, answer: unknown"
)
SCENE_QUESTION = (
    "What is to be seen? Answer with one line of this form and nothing else, nearest first:\n"
    "<n> cars: <lead|oncoming|parked> <distance> m, ...; <n> pedestrians: <sidewalk|crossing> <distance> m, ...; "
    "traffic light <red|yellow|green> <distance> m\n"
    "Without a traffic light the line ends with: no traffic light"
)
SCENE = Call(name="scene", user="{images}{ego} " + SCENE_QUESTION, max_tokens=96)
SingleCameraAnswer = LineSpec | PointsSpec | SpeedCurvatureSpec | AccelerationCurvatureSpec | PedalsSpec


def single_camera(answer: SingleCameraAnswer, question: str, max_tokens: int) -> dict[str, Any]:
    """Return the fields of a profile with one front camera and one question."""
    return {
        "numbers": NUMBERS,
        "ego": EGO,
        "calls": (Call(user="{images}{ego} " + question, max_tokens=max_tokens),),
        "answer": answer,
        "scene": SCENE,
        "question": Call(name="question", user="{images}{ego} {question}", max_tokens=128),
    }
