"""Profiles of format 1, read as format 2: the same prompts, the same limits. Needs pydantic."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.confidence import Calibration
from owled_ros.driving.profile_parts import MAX_SIDE, MAX_TOKENS, Call, Camera, Number, Part, Text, check_template
from owled_ros.driving.templates import FieldKind, escaped

EGO_FIELDS = {"speed": FieldKind.NUMBER, "yaw_rate": FieldKind.NUMBER}
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=2, le=MAX_SIDE)]


class Format1(Part):
    """The whole file of format 1; the ego template knows {speed} [m/s] and {yaw_rate} [rad/s]."""

    format_version: Literal[1]
    ego_template: Text = (
        "You drive a car. Your speed is {speed:.1f} m/s, your yaw rate is {yaw_rate:+.2f} rad/s (left positive)."
    )
    action_question: Text = (
        "What should the car do now? Answer with one line, exactly in this form: "
        "'<cruise|follow|stop|yield>, acceleration <signed number> m/s2, steering <signed number> rad'. "
        "Acceleration lies between -6.0 and +2.0, steering (left positive) between -0.30 and +0.30. "
        "If you cannot tell, answer 'unknown'."
    )
    scene_question: Text = (
        "What is to be seen? Answer with one line, exactly in this form: '<n> cars: <lead|oncoming|parked> <distance> m, ...; "
        "<n> pedestrians: <sidewalk|crossing> <distance> m, ...; traffic light <red|yellow|green> <distance> m' "
        "or 'no traffic light' at the end. Nearest first."
    )
    max_action_tokens: Tokens = 32
    max_scene_tokens: Tokens = 96
    max_answer_tokens: Tokens = 128
    speed_step: Positive = 0.1  # [m/s]
    yaw_rate_step: Positive = 0.01  # [rad/s]
    max_speed: Positive = 60.0  # [m/s], larger speeds saturate in the sentence
    max_yaw_rate: Positive = 1.0  # [rad/s]
    image_size: tuple[Side, Side] | None = None  # (width, height) [px]
    confidence: Calibration = Calibration()

    @field_validator("ego_template")
    @classmethod
    def _plain(cls, text: str) -> str:
        check_template(text, EGO_FIELDS)
        return text


def read_format1(data: bytes | str) -> dict[str, Any]:
    """Read a file of format 1 into the fields of a profile; raises pydantic's ValidationError."""
    old = Format1.model_validate_json(data)
    fitted = (old.confidence.slope, old.confidence.offset) != (1.0, 0.0)
    return {
        "cameras": (Camera(size=old.image_size),),
        "numbers": {
            "speed": Number(step=old.speed_step, min=0.0, max=old.max_speed),
            "yaw_rate": Number(step=old.yaw_rate_step, min=-old.max_yaw_rate, max=old.max_yaw_rate),
        },
        "ego": old.ego_template,
        "calls": (Call(user=_after_ego(old.action_question), max_tokens=old.max_action_tokens),),
        "scene": Call(name="scene", user=_after_ego(old.scene_question), max_tokens=old.max_scene_tokens),
        "question": Call(name="question", user="{images}{ego}{question}", max_tokens=old.max_answer_tokens),
        "answer": LineSpec(),
        "confidence": replace(old.confidence, calibrated=fitted or old.confidence.calibrated),
    }


def _after_ego(question: str) -> str:
    return "{images}{ego}" + escaped(question)
