"""What is learned is what was driven: truth of a bag as a plan, as text of every kind, and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.answer import Light, Manoeuvre, ObjectKind, Scene, SceneObject
from owled_ros.driving.answers.acceleration_curvature import AccelerationCurvatureSpec
from owled_ros.driving.answers.cutting import Cutting, cut, marked
from owled_ros.driving.answers.kind import RawAnswer
from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.answers.speed_curvature import SpeedCurvatureSpec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.presets import PRESETS, preset
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError
from owled_ros.evaluation.record import Truth, rounded_rows
from owled_ros.tuning.targets import answer_text, horizon_of, manoeuvre_of, plan_of, scene_text

VEHICLE = VehicleParameters()
STEP_S = 0.5


def driven(speed: float, pairs: list[tuple[float, float]], **more: object) -> Truth:
    """What evaluation tells of a drive with (acceleration, curvature) during every half second."""
    values = from_acceleration_curvature(np.array(pairs), STEP_S, speed).values[1:, :5]
    steering = float(np.arctan(VEHICLE.wheel_base * pairs[0][1]))
    return Truth(
        acceleration=pairs[0][0], steering=steering, source="ego_motion", path=rounded_rows(values.tolist()), **more
    )


drives = st.tuples(
    st.floats(3.0, 20.0),
    st.lists(st.tuples(st.floats(-1.0, 1.0), st.floats(-0.01, 0.01)), min_size=8, max_size=8),
)


@given(drives)
def test_points_are_the_places_that_were_driven(drive: tuple[float, list[tuple[float, float]]]) -> None:
    speed, pairs = drive
    truth, ego = driven(speed, pairs), EgoState(0, speed)
    kind = PointsSpec(count=8, step_s=STEP_S).make(Path())
    plan = plan_of(truth, ego, VEHICLE)
    assert plan is not None
    assert truth.path is not None
    said = kind.parse(RawAnswer(kind.format(plan, ego, VEHICLE)), ego, VEHICLE)
    assert said is not None
    places = np.array(truth.path)[:, 1:3]
    found = np.column_stack([said.trajectory.x, said.trajectory.y])[1:]
    assert np.abs(found - places).max() <= 0.5 * 0.01 + 1e-6  # two decimals


@given(drives)
def test_speeds_and_curvatures_lead_to_the_places(drive: tuple[float, list[tuple[float, float]]]) -> None:
    speed, pairs = drive
    truth, ego = driven(speed, [(a, pairs[0][1]) for a, _ in pairs]), EgoState(0, speed)
    plan = plan_of(truth, ego, VEHICLE)
    assert plan is not None
    assert truth.path is not None
    places = np.array(truth.path)[:, 1:3]
    for spec in (SpeedCurvatureSpec(count=8, step_s=STEP_S), AccelerationCurvatureSpec(count=8, step_s=STEP_S)):
        kind = spec.make(Path())
        said = kind.parse(RawAnswer(kind.format(plan, ego, VEHICLE)), ego, VEHICLE)
        assert said is not None
        found = np.column_stack([said.trajectory.x, said.trajectory.y])[1:]
        # a speed off by 0.005 m/s for 4 s, or an acceleration off by 0.005 m/s2: 0.04 m; a curvature off by 0.00005 at 24 m/s
        assert np.hypot(*(found - places).T).max() < 0.35


def test_the_first_action_is_what_evaluation_measured() -> None:
    truth, ego = driven(8.0, [(-1.2, 0.02)] * 6), EgoState(0, 8.0)
    plan = plan_of(truth, ego, VEHICLE)
    assert plan is not None
    action = plan.trajectory.first_action(VEHICLE.wheel_base)
    assert action.acceleration == pytest.approx(-1.2)
    assert np.tan(action.steering_tire_angle) / VEHICLE.wheel_base == pytest.approx(0.02)
    assert answer_text(preset("line"), LineSpec().make(Path()), plan, ego, VEHICLE).startswith(
        "cruise, acceleration -1.2"
    )


def test_what_the_bag_does_not_tell_is_not_learned() -> None:
    assert plan_of(Truth(), EgoState(0, 8.0), VEHICLE) is None
    assert plan_of(Truth(acceleration=0.0, steering=0.0), EgoState(0, 8.0), VEHICLE) is None


@pytest.mark.parametrize(
    ("scene", "speed", "manoeuvre"),
    [
        (Scene(), [8.0, 8.0], Manoeuvre.CRUISE),
        (Scene((SceneObject(ObjectKind.LEAD, 25.0),)), [8.0, 7.0], Manoeuvre.FOLLOW),
        (Scene((SceneObject(ObjectKind.LEAD, 40.0),)), [8.0, 8.0], Manoeuvre.CRUISE),
        (Scene((SceneObject(ObjectKind.LEAD, 8.0),)), [2.0, 0.0], Manoeuvre.FOLLOW),
        (Scene((), (SceneObject(ObjectKind.CROSSING, 9.0),)), [2.0, 0.0], Manoeuvre.YIELD),
        (Scene((SceneObject(ObjectKind.LEAD, 8.0),), (), Light.RED, 20.0), [2.0, 0.0], Manoeuvre.STOP),
        (Scene(), [0.0, 0.0], Manoeuvre.STOP),
    ],
)
def test_a_drive_that_nobody_named(scene: Scene, speed: list[float], manoeuvre: Manoeuvre) -> None:
    assert manoeuvre_of(Truth(scene=scene), np.array(speed)) is manoeuvre


def test_driving_that_would_be_withheld_is_not_taught() -> None:
    """Backwards: no profile may drive it, so no model learns to say it."""
    ego = EgoState(0, -2.0)
    path = tuple((0.5 * step, -1.0 * step, 0.0, 0.0, -2.0) for step in range(1, 7))
    plan = plan_of(Truth(acceleration=0.0, steering=0.0, path=path), ego, VEHICLE)
    assert plan is not None
    with pytest.raises(AnswerError, match="would be withheld"):
        answer_text(preset("points"), PointsSpec(count=6, step_s=0.5).make(Path()), plan, ego, VEHICLE)


CUTTINGS = [
    Cutting(),
    Cutting(begin="<PLANNING>", end="</PLANNING>", prose=True),
    Cutting(label_needed=True, prose=True),
    Cutting(reasoning_opened=True),
    Cutting(brackets=True, prose=True),
    Cutting(begin="<A>", end="</A>", label_needed=True, reasoning_opened=True, prose=True),
]


@pytest.mark.parametrize("cutting", CUTTINGS)
def test_what_is_taught_is_cut_out_again(cutting: Cutting) -> None:
    answer = "[[1.00, 0.00], [2.00, -0.10]]"
    assert cut(marked(answer, cutting), cutting) == (answer, "")


def test_horizons() -> None:
    assert {name: horizon_of(preset(name)) for name in PRESETS if name != "head"} == {
        "line": 0.5, "pedals": 0.5, "points": 3.0, "speed_curvature": 3.0, "acceleration_curvature": 3.0, "coarse_controls": 3.0, "meta_action": 3.0,
        "action_tokens": 5.0, "points_history": 3.0, "poses_command": 4.0, "three_calls": 3.0,
    }  # fmt: skip
    with pytest.raises(OwledError, match="trained by the package"):
        horizon_of(preset("head"))
    far = preset("points").model_copy(update={"answer": PointsSpec(count=20, step_s=0.5)})
    with pytest.raises(OwledError, match="10 s ahead"):
        horizon_of(far)


def test_scenes_are_taught_where_they_are_asked_and_known() -> None:
    scene = Scene((SceneObject(ObjectKind.LEAD, 12.3),), (), Light.RED, 22.0)
    assert scene_text(preset("points"), Truth(scene=scene)) == "1 car: lead 12 m; 0 pedestrians; traffic light red 22 m"
    assert scene_text(preset("points"), Truth()) is None
    assert scene_text(preset("poses_command"), Truth(scene=scene)) is None
