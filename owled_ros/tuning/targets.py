"""What a model should have answered to a frame: the truth of evaluation as a plan, and as text in the profile's form.

Needs driving and evaluation. Letters: N points.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.driving.answer import Light, Manoeuvre, ObjectKind, Scene, format_scene
from owled_ros.driving.answers.action_tokens import ActionTokensKind
from owled_ros.driving.answers.cutting import marked
from owled_ros.driving.answers.head import HeadSpec
from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.answers.meta_action import MetaActionSpec
from owled_ros.driving.answers.pedals import PedalsSpec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.feasibility import problem_of
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError
from owled_ros.evaluation.displacement import LONGEST_S
from owled_ros.evaluation.record import Truth

STANDING = 0.3  # [m/s]
FOLLOWED_M = 30.0  # a lead car within it is followed
SLOW_FOR_M = 15.0  # what a stop within it is for
CURVATURE_OVER_M = 0.1  # [m] driven per step, below it the curvature is not known from it


def horizon_of(profile: DrivingProfile) -> float:
    """Return how far the truth must reach for an answer [s]; raises OwledError where no bag can tell it."""
    spec = profile.answer
    if isinstance(spec, HeadSpec):
        raise OwledError(
            f"the answer is that of the trajectory head {spec.name!r}: a head is trained by the package that it is from, there "
            "are no words to tune on"
        )
    if isinstance(spec, (LineSpec, PedalsSpec)):
        return 0.5  # the action of now
    needed = spec.horizon_s if isinstance(spec, MetaActionSpec) else spec.count * spec.step_s
    if needed > LONGEST_S:
        raise OwledError(
            f"an answer looks {needed:g} s ahead, the truth of a bag {LONGEST_S:g} s; shorten count or step_s"
        )
    return needed


def plan_of(truth: Truth, ego: EgoState, vehicle: VehicleParameters) -> Plan | None:
    """Make the plan that the vehicle carried out; None where the bag does not tell it."""
    if truth.acceleration is None or truth.path is None:
        return None
    path = np.array(truth.path)
    values = np.zeros((len(path) + 1, 7))  # (N, 7), columns of driving.trajectory.COLUMNS
    values[0, 4] = ego.speed
    values[1:, :5] = path[:, :5]
    time, heading, speed = values[:, 0], values[:, 3], values[:, 4]
    values[:, 5] = np.gradient(speed, time) if len(time) > 1 else 0.0
    driven = 0.5 * (speed[1:] + speed[:-1]) * np.diff(time)
    bent = np.divide(np.diff(heading), driven, out=np.zeros(len(driven)), where=np.abs(driven) > CURVATURE_OVER_M)
    values[:, 6] = np.append(bent[:1], 0.5 * (np.append(bent, bent[-1])[1:] + bent))
    values[0, 5] = truth.acceleration
    values[0, 6] = math.tan(truth.steering or 0.0) / vehicle.wheel_base
    named = Manoeuvre[truth.manoeuvre] if truth.manoeuvre else Manoeuvre.UNKNOWN
    return Plan(Trajectory(values), named or manoeuvre_of(truth, speed[time <= 3.0 + 1e-6]))


def manoeuvre_of(truth: Truth, speed: np.ndarray) -> Manoeuvre:
    """Name a drive that nobody named: a stop for a person, behind a car or for anything else; else following or cruising.

    `speed` [m/s] of the next seconds, (N,).
    """
    scene = truth.scene or Scene()
    ahead = {item.kind for item in (*scene.cars, *scene.pedestrians) if item.distance <= SLOW_FOR_M}
    if speed.min() < STANDING:
        if ObjectKind.CROSSING in ahead:
            return Manoeuvre.YIELD
        return Manoeuvre.FOLLOW if ObjectKind.LEAD in ahead and scene.light is not Light.RED else Manoeuvre.STOP
    if any(item.kind is ObjectKind.LEAD and item.distance <= FOLLOWED_M for item in scene.cars):
        return Manoeuvre.FOLLOW
    return Manoeuvre.CRUISE


def answer_text(
    profile: DrivingProfile, kind: AnswerKind, plan: Plan, ego: EgoState, vehicle: VehicleParameters
) -> str:
    """Write what the last call should answer.

    Raises:
        AnswerError: the kind has no words for the plan, or what the words say would be withheld.
    """
    text = kind.format(plan, ego, vehicle)
    ids: tuple[int, ...] = ()
    if isinstance(kind, ActionTokensKind):
        ids = tuple(kind.spec.base_id + index for index in kind.indices_of(plan))
    said = kind.parse(RawAnswer(text, ids), ego, vehicle)
    problem = "it declines" if said is None else problem_of(said.trajectory, ego, vehicle)
    if problem:
        raise AnswerError(f"what was driven would be withheld as an answer: {problem}")
    return marked(text, profile.cutting)


def scene_text(profile: DrivingProfile, truth: Truth) -> str | None:
    """Write what the call for the scene should answer; None where it is not asked, or the bag does not tell."""
    if profile.scene is None or truth.scene is None:
        return None
    return marked(format_scene(truth.scene), profile.cutting.of_reasoning())
