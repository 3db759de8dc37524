"""What is converted to and from Autoware's types, worked by hand; needs ROS, but none of Autoware's packages."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from nav_msgs.msg import Odometry

from owled_ros.driving.answer import Light, ObjectKind, SceneObject
from owled_ros.driving.navigation import CommandKind
from owled_ros.errors import OwledError
from owled_ros.msg import NavigationCommand, PredictedTrajectory, SceneDescription, TrajectoryPoint
from owled_ros.msg import SceneObject as SceneObjectMessage
from owled_ros.nodes import autoware_messages as messages
from owled_ros.nodes.autoware_inputs import message_to_plan
from owled_ros.nodes.hearing import scene_of


def standing(roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> Odometry:
    """At (100, 200, 30), turned by yaw, then pitch, then roll."""
    message = Odometry()
    place, turn = message.pose.pose.position, message.pose.pose.orientation
    place.x, place.y, place.z = 100.0, 200.0, 30.0
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw))
    turn.w, turn.x = cr * cp * cy + sr * sp * sy, sr * cp * cy - cr * sp * sy
    turn.y, turn.z = cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy
    return message


@pytest.mark.parametrize(
    ("turned", "place", "rise"),
    [
        ({}, (110.0, 205.0), 0.0),
        ({"pitch": -0.1}, (110.0, 200.0), 10.0 * math.tan(0.1)),  # nose up, 10 m ahead
        ({"pitch": -0.1, "yaw": math.pi / 2}, (100.0, 210.0), 10.0 * math.tan(0.1)),
        ({"pitch": -0.1, "yaw": math.pi / 2}, (110.0, 200.0), 0.0),
        ({"roll": 0.1}, (100.0, 210.0), 10.0 * math.tan(0.1)),  # left side up
        ({"pitch": -1.4}, (110.0, 200.0), 0.0),  # this is no road
    ],
)
def test_points_lie_on_the_plane_on_which_the_vehicle_stands(
    turned: dict[str, float], place: tuple[float, float], rise: float
) -> None:
    assert messages.ground_of(standing(**turned)).height(*place) == pytest.approx(30.0 + rise)


def test_every_number_of_a_point_has_its_unit_and_sign() -> None:
    # 1.5 s, facing left, 8 m/s, braking, a left turn of radius 20 m: 0.4 rad/s, atan(2.8 / 20)
    row = np.array([[1.5, 101.0, 202.0, math.pi / 2, 8.0, -1.25, 0.05]])
    (point,) = messages.points_of(row, messages.ground_of(standing()), 2.8, SimpleNamespace)
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (1, 500_000_000)
    assert (point.pose.position.x, point.pose.position.y, point.pose.position.z) == (101.0, 202.0, 30.0)
    assert (point.pose.orientation.z, point.pose.orientation.w) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    assert (point.longitudinal_velocity_mps, point.acceleration_mps2) == (8.0, -1.25)
    assert point.heading_rate_rps == pytest.approx(0.4)
    assert point.front_wheel_angle_rad == pytest.approx(math.atan(0.14))


@pytest.mark.parametrize(("seconds", "parts"), [(0.0, (0, 0)), (0.1, (0, 100_000_000)), (0.9999999999, (1, 0))])
def test_seconds_are_rounded_to_nanoseconds(seconds: float, parts: tuple[int, int]) -> None:
    duration = messages.seconds_to_duration(seconds)
    assert (duration.sec, duration.nanosec) == parts


def test_missing_packages_are_named_with_what_to_do() -> None:
    assert messages.missing(["std_msgs", "no_such_msgs"]) == ["no_such_msgs"]
    with pytest.raises(OwledError, match=r"no_such_msgs.*source an Autoware workspace"):
        messages.load(["std_msgs", "no_such_msgs"])


def trajectory(**fields: object) -> PredictedTrajectory:
    points = [TrajectoryPoint(time=0.0, speed=5.0), TrajectoryPoint(time=0.5, x=2.5, speed=5.0)]
    message = PredictedTrajectory(valid=True, points=points, model_id="m", artifact_id="a", manoeuvre=2)
    message.header.stamp.sec, message.header.frame_id = 7, "base_link"
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def test_a_trajectory_comes_with_its_moment_model_and_command() -> None:
    command = NavigationCommand(kind=NavigationCommand.KIND_LEFT, distance=12.0)
    plan = message_to_plan(trajectory(command=command), "base_link")
    assert (plan.stamp, plan.model, plan.manoeuvre) == (7_000_000_000, "m a", 2)
    assert plan.trajectory.x.tolist() == [0.0, 2.5]
    assert plan.command is not None
    assert (plan.command.kind, plan.command.distance) == (CommandKind.LEFT, 12.0)
    assert message_to_plan(trajectory(), "").command is None


@pytest.mark.parametrize(
    ("fields", "base", "words"),
    [
        ({"valid": False}, "base_link", "not valid"),
        ({}, "rear_axle", "output_frame_id"),
        ({"points": []}, "base_link", "fewer than two points"),
        ({"points": [TrajectoryPoint(), TrajectoryPoint(time=1.0, heading=math.nan)]}, "base_link", "not finite"),
        ({"points": [TrajectoryPoint(), TrajectoryPoint(time=1e9)]}, "base_link", "time goes to 1e"),
        ({"points": [TrajectoryPoint(), TrajectoryPoint(time=1.0, speed=1e30)]}, "base_link", "speed goes to 1e"),
        ({"points": [TrajectoryPoint(time=0.01 * step) for step in range(2001)]}, "base_link", "2001 points"),
        ({"points": [TrajectoryPoint(time=0.5), TrajectoryPoint(time=1.0)]}, "base_link", "rise from 0"),
        ({"points": [TrajectoryPoint(), TrajectoryPoint(), TrajectoryPoint(time=1.0)]}, "base_link", "rise from 0"),
    ],
)
def test_a_trajectory_that_cannot_be_used_is_refused_with_words(
    fields: dict[str, object], base: str, words: str
) -> None:
    with pytest.raises(OwledError, match=words):
        message_to_plan(trajectory(**fields), base)


def test_a_description_is_read_back_and_an_invalid_one_is_none() -> None:
    car = SceneObjectMessage(object_class=1, kind=1, distance=12.0)
    message = SceneDescription(valid=True, cars=[car], traffic_light=2, light_distance=22.0)
    scene = scene_of(message)
    assert scene is not None
    assert scene.cars == (SceneObject(ObjectKind.LEAD, 12.0),)
    assert (scene.light, scene.light_distance) == (Light.RED, 22.0)
    assert scene_of(SceneDescription(valid=False)) is None
