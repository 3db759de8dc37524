"""All kinds of answer: a new kind is its file and its line in AnswerSpec. Needs pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from owled_ros.driving.answers.acceleration_curvature import AccelerationCurvatureSpec
from owled_ros.driving.answers.action_tokens import ActionTokensSpec
from owled_ros.driving.answers.head import HeadSpec
from owled_ros.driving.answers.kind import AnswerKind
from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.answers.meta_action import MetaActionSpec
from owled_ros.driving.answers.pedals import PedalsSpec
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.answers.speed_curvature import SpeedCurvatureSpec

AnswerSpec = Annotated[
    LineSpec
    | PointsSpec
    | SpeedCurvatureSpec
    | AccelerationCurvatureSpec
    | PedalsSpec
    | MetaActionSpec
    | ActionTokensSpec
    | HeadSpec,
    Field(discriminator="kind"),
]


def make_kind(spec: AnswerSpec, directory: Path) -> AnswerKind:
    """Return the kind of answer with its parameters; raises OwledError where a file or package that it needs is not there."""
    return spec.make(directory)
