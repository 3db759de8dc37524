"""Profiles to begin with, in our own words: the default, and one per kind of answer and shape of model. Needs driving.profile."""

from __future__ import annotations

from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.profile import DrivingProfile
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


def default_profile() -> DrivingProfile:
    """Return how a model without `driving.json` is asked."""
    return DrivingProfile(
        numbers=NUMBERS,
        ego=EGO,
        calls=(Call(user="{images}{ego} " + LINE_QUESTION, max_tokens=32),),
        answer=LineSpec(),
        scene=SCENE,
    )
