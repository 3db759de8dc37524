"""What leaves the engine, is published and is scored. Needs numpy and pydantic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from owled_ros.driving.answer import Action, AnswerError, Scene, parse_action, parse_scene
from owled_ros.driving.answers.cutting import Cutting, cut
from owled_ros.driving.trajectory import Trajectory

DECLINED_DETAIL = "the model does not know scenes like this one"


class Reason(IntEnum):
    """Why an answer is not valid. Values equal PredictedAction.msg; VALID means that it is."""

    UNKNOWN = 0
    VALID = 1
    NO_IMAGE = 2
    STALE_IMAGE = 3
    BAD_IMAGE = 4
    NO_EGO = 5
    STALE_EGO = 6
    BAD_EGO = 7
    CLOCK_JUMP = 8
    MODEL_NOT_READY = 9
    INFERENCE_ERROR = 10
    OUT_OF_MEMORY = 11
    UNPARSED = 12  # the text is not in the grammar or out of range
    INCOMPLETE = 13  # the token limit came before the end of the answer
    DECLINED = 14  # the model itself answered "unknown"
    LOW_CONFIDENCE = 15
    LATE = 16
    INFEASIBLE = 17  # the trajectory does not start at the vehicle, or is beyond its limits
    MISSING_VIEW = 18  # a camera of the profile has sent nothing
    STALE_VIEW = 19  # a camera has no image near the frame's stamp
    NO_HISTORY = 20  # the past images or ego states that the model asks for are not there (yet)
    POSE_JUMP = 21  # the localisation jumped: the past does not belong to the present
    NO_COMMAND = 22  # the model asks for a navigation command and none has come
    EXPIRED_COMMAND = 23  # the navigation command is too old
    FALLING_STAMP = 24  # behind the stamp that was published last
    NO_SURROUNDINGS = 25  # the model asks for objects or traffic lights, and none that can be used have come
    STALE_SURROUNDINGS = 26  # the objects or traffic lights that the model asks for are too old


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights answered."""

    model_id: str  # name of the model directory and a short hash of its weights
    artifact_id: str = ""  # short hash of the pruning manifest, empty for a dense model


@dataclass(frozen=True)
class Generation:
    """Raw text of the model for one question."""

    text: str
    complete: bool  # the end token was reached
    confidence: float  # [0, 1], see driving.confidence
    tokens: int
    seconds: float  # from the question to the last token
    ids: tuple[int, ...] = ()  # generated tokens, special ones too, without the end token
    reasoning: str = ""  # what the model said before its answer: earlier calls, reasoning tags


@dataclass(frozen=True)
class ActionAnswer:
    """The trajectory of one frame with the action that it begins with, or why there is none."""

    generation: Generation
    action: Action | None
    reason: Reason
    detail: str = ""
    trajectory: Trajectory | None = None  # None unless valid

    @property
    def valid(self) -> bool:
        """True when the action may be used."""
        return self.reason is Reason.VALID


@dataclass(frozen=True)
class SceneAnswer:
    """The description of one frame, or why there is none."""

    generation: Generation
    scene: Scene | None
    reason: Reason
    detail: str = ""

    @property
    def valid(self) -> bool:
        """True when the description may be used."""
        return self.reason is Reason.VALID


@dataclass(frozen=True)
class Prediction:
    """Everything the model said about one frame."""

    stamp: int  # [ns], of the image
    action: ActionAnswer
    scene: SceneAnswer | None  # None when it yielded to a newer frame or was not asked for
    model: ModelIdentity


def judge_action(generation: Generation) -> ActionAnswer:
    """Turn text into an action, or into the reason why it must not be used; then the confidence in an action is 0."""
    none = replace(generation, confidence=0.0)
    if not generation.complete:
        return ActionAnswer(none, None, Reason.INCOMPLETE, "token limit reached before the end of the answer")
    try:
        action = parse_action(generation.text)
    except AnswerError as error:
        return ActionAnswer(none, None, Reason.UNPARSED, str(error))
    if action is None:
        return ActionAnswer(none, None, Reason.DECLINED, DECLINED_DETAIL)
    return ActionAnswer(generation, action, Reason.VALID)


def withhold_below(answer: ActionAnswer, confidence_floor: float) -> ActionAnswer:
    """Withhold a valid action whose confidence is under the floor [0, 1]."""
    confidence = answer.generation.confidence
    if not answer.valid or confidence >= confidence_floor:
        return answer
    detail = f"confidence {confidence:.2f} is below the floor {confidence_floor:.2f}"
    return replace(answer, action=None, trajectory=None, reason=Reason.LOW_CONFIDENCE, detail=detail)


def judge_scene(generation: Generation, cutting: Cutting | None = None) -> SceneAnswer:
    """Turn text into a scene, or into the reason why it must not be used; `cutting` says how it is cut out of other text."""
    if not generation.complete:
        return SceneAnswer(generation, None, Reason.INCOMPLETE, "token limit reached before the end of the answer")
    try:
        text, aside = cut(generation.text, cutting or Cutting())
        scene = parse_scene(text)
    except AnswerError as error:
        return SceneAnswer(generation, None, Reason.UNPARSED, str(error))
    if scene is None:
        return SceneAnswer(generation, None, Reason.DECLINED, DECLINED_DETAIL)
    reasoning = "\n".join(part for part in (generation.reasoning, aside) if part)
    return SceneAnswer(replace(generation, reasoning=reasoning), scene, Reason.VALID)
