"""From what the model said to a trajectory, or to the reason why there is none. Needs driving.answers and driving.feasibility."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from owled_ros.driving.answers.action_tokens import ActionTokensSpec
from owled_ros.driving.answers.cutting import Cutting, cut
from owled_ros.driving.answers.head import HeadSpec
from owled_ros.driving.answers.kind import AnswerKind, RawAnswer
from owled_ros.driving.answers.make import AnswerSpec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.feasibility import problem_of
from owled_ros.driving.prediction import DECLINED_DETAIL, ActionAnswer, Generation, Reason
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError


def judge_answer(
    generation: Generation,
    kind: AnswerKind,
    cutting: Cutting | None,
    ego: EgoState,
    vehicle: VehicleParameters,
    hidden: np.ndarray | None = None,
) -> ActionAnswer:
    """Cut the answer out, read it and check whether the vehicle can drive it; where not, the confidence is 0.

    `cutting` is None for kinds that do not read the text (see reads_text); `hidden` (T, C) is for heads.
    """
    none = replace(generation, confidence=0.0)
    if not generation.complete:
        return ActionAnswer(none, None, Reason.INCOMPLETE, "token limit reached before the end of the answer")
    try:
        text, aside = (generation.text, "") if cutting is None else cut(generation.text, cutting)
        plan = kind.parse(RawAnswer(text, generation.ids, hidden), ego, vehicle)
    except AnswerError as error:
        return ActionAnswer(none, None, Reason.UNPARSED, str(error))
    if plan is None:
        return ActionAnswer(none, None, Reason.DECLINED, DECLINED_DETAIL)
    problem = problem_of(plan.trajectory, ego, vehicle)
    if problem:
        return ActionAnswer(none, None, Reason.INFEASIBLE, problem)
    reasoning = "\n".join(part for part in (generation.reasoning, aside) if part)
    action = plan.trajectory.first_action(vehicle.wheel_base, plan.manoeuvre)
    return ActionAnswer(replace(generation, reasoning=reasoning), action, Reason.VALID, trajectory=plan.trajectory)


def reads_text(answer: AnswerSpec) -> bool:
    """Tell whether a kind of answer reads the text, and not the ids or the hidden states."""
    return not isinstance(answer, HeadSpec) and not (isinstance(answer, ActionTokensSpec) and answer.read == "ids")
