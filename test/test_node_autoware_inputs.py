"""driving_node on Autoware's inputs over real DDS: reports, objects, lights, CameraInfo and tf_static, and what is wrong about them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from autoware_standins import environment, use_autoware
from driving_rig import BEST_EFFORT, NODE, Bench, NodeProcess, fake_node, free_domain
from fake_driving_node import make_model
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

from owled_ros.nodes.conversions import stamp_to_time

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first test of all may build the stand-ins
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope="module", autouse=True)
def autoware() -> None:
    use_autoware()
    os.environ.update(environment(os.environ))


class Vehicle:
    """Publishes what an Autoware vehicle does."""

    def __init__(self, bench: Bench) -> None:
        from autoware_perception_msgs.msg import TrackedObjects, TrafficLightGroupArray
        from autoware_vehicle_msgs.msg import SteeringReport, VelocityReport

        self.bench = bench
        publish = bench.node.create_publisher
        self.velocity = publish(VelocityReport, f"{NODE}/input/velocity_report", BEST_EFFORT)
        self.steering = publish(SteeringReport, f"{NODE}/input/steering_report", BEST_EFFORT)
        self.tracked = publish(TrackedObjects, f"{NODE}/input/objects", 1)
        self.lights = publish(TrafficLightGroupArray, f"{NODE}/input/traffic_lights", 1)

    def report(self, speed: float = 8.0, publisher: Any = None) -> None:
        from autoware_vehicle_msgs.msg import SteeringReport, VelocityReport

        now = stamp_to_time(self.bench.now())
        message = VelocityReport(longitudinal_velocity=speed)
        message.header.stamp, message.header.frame_id = now, "base_link"
        (publisher or self.velocity).publish(message)
        self.steering.publish(SteeringReport(stamp=now, steering_tire_angle=0.05))

    def see(self, x: float = 20.0, frame: str = "base_link", age_s: float = 0.0, colour: int = 1) -> None:
        """Publish a car that stands, and one red light."""
        from autoware_perception_msgs.msg import (
            ObjectClassification,
            TrackedObject,
            TrackedObjects,
            TrafficLightElement,
            TrafficLightGroup,
            TrafficLightGroupArray,
        )

        stamp = stamp_to_time(self.bench.now() - round(age_s * 1e9))
        car = TrackedObject(classification=[ObjectClassification(label=ObjectClassification.CAR, probability=0.9)])
        car.kinematics.pose_with_covariance.pose.position.x = x
        car.kinematics.pose_with_covariance.pose.orientation.w = 1.0
        car.kinematics.orientation_availability = 2
        car.shape.dimensions.x, car.shape.dimensions.y = 4.0, 1.8
        message = TrackedObjects(objects=[car])
        message.header.stamp, message.header.frame_id = stamp, frame
        self.tracked.publish(message)
        lamp = TrafficLightElement(color=colour, shape=5, status=14, confidence=0.9)
        group = TrafficLightGroup(traffic_light_group_id=7, elements=[lamp])
        self.lights.publish(TrafficLightGroupArray(stamp=stamp, traffic_light_groups=[group]))


@pytest.fixture
def started(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Bench, Vehicle, NodeProcess]]:
    """Start the node with a model whose needs, and parameters, are the test's."""
    needs, parameters = request.param
    control: dict[str, Any] = {"needs": {"cameras": ["front"], "images": [0.0], **needs}} if needs else {}
    model = make_model(tmp_path / "model", **control)
    domain = free_domain()
    with fake_node(domain, tmp_path / "log", model_path=model, **parameters) as process, Bench(domain) as bench:
        process.wait_for_text("odometry <- ")
        yield bench, Vehicle(bench), process
        code, _ = process.end()
        assert code == 0, process.text()
    assert "Traceback" not in process.text()


@pytest.mark.parametrize("started", [({}, {})], indirect=True)
def test_a_report_drives_until_odometry_comes(started: tuple[Bench, Vehicle, NodeProcess]) -> None:
    bench, vehicle, _ = started
    bench.drive_until("VALID", ego=vehicle.report)
    bench.status("odometry", "receiving", meanwhile=vehicle.report)
    assert bench.values("odometry")["topic"] == f"{NODE}/input/velocity_report"
    bench.drive_until("BAD_EGO", ego=lambda: vehicle.report(math.nan))
    bench.drive_until("VALID")  # odometry

    def both() -> None:
        bench.send_ego()
        vehicle.report(math.nan)

    bench.drive_until("VALID", tries=5, ego=both)  # reports are not heard any more


@pytest.mark.parametrize("started", [({}, {})], indirect=True)
def test_a_report_on_the_topic_of_the_odometry_is_heard_there(started: tuple[Bench, Vehicle, NodeProcess]) -> None:
    from autoware_vehicle_msgs.msg import VelocityReport

    bench, vehicle, process = started
    bench.node.destroy_publisher(bench.odometry)
    there = bench.node.create_publisher(VelocityReport, f"{NODE}/input/odometry", BEST_EFFORT)
    answer = bench.drive_until("VALID", tries=100, ego=lambda: vehicle.report(publisher=there))
    assert answer["reason"] == "VALID"
    process.wait_for_text("VelocityReport), as it is published there")


@pytest.mark.parametrize(
    "started", [({"ego": [0.2], "needs_pose": True}, {"ego_source": "velocity_report"})], indirect=True
)
def test_reports_give_the_speed_and_odometry_the_pose(started: tuple[Bench, Vehicle, NodeProcess]) -> None:
    bench, vehicle, _ = started
    began = bench.now()

    def both() -> None:
        vehicle.report(5.0)
        bench.send_ego(speed=5.0, x=5.0 * (bench.now() - began) / 1e9)

    for _ in range(100):  # the steering is heard some images after the speed: topics are found one by one
        answer = bench.drive_until("VALID", tries=100, ego=both)
        if "wheels" in answer["reasoning"]:
            break
    assert "wheels 0.05" in answer["reasoning"]
    assert answer["reasoning"].split("; ")[-1] in ("-1.0", "-0.9", "-1.1"), "0.2 s at 5 m/s"
    bench.drive_until("STALE_EGO")  # odometry alone drives nothing


@pytest.mark.parametrize("started", [({"objects_s": 0.5, "lights_s": 0.5}, {})], indirect=True)
def test_objects_and_lights_are_shown_fresh_or_there_is_a_reason(started: tuple[Bench, Vehicle, NodeProcess]) -> None:
    bench, vehicle, _ = started
    assert "none have come" in bench.drive_until("NO_SURROUNDINGS")["detail"]

    def standing(**seen: Any) -> Any:
        def say() -> None:
            bench.send_ego(speed=0.0)
            vehicle.see(**seen)

        return say

    answer = bench.drive_until("VALID", ego=standing())
    assert answer["reasoning"] == "CAR 20.0 0.0; 7 RED"
    bench.status("objects", "receiving", meanwhile=standing())
    bench.spin(0.6)
    assert "older than the image" in bench.drive_until("STALE_SURROUNDINGS", ego=standing(age_s=2.0))["detail"]
    bench.drive_until("VALID", ego=standing())
    words = bench.drive_until("NO_SURROUNDINGS", ego=standing(x=math.nan))["detail"]
    assert "object 0 holds numbers that are not finite" in words
    words = bench.drive_until("NO_SURROUNDINGS", ego=standing(frame="map"))["detail"]
    assert "they are in frame 'map'; expected base_link or the frame of the odometry" in words
    bench.drive_until("VALID", ego=standing())


@pytest.mark.parametrize("started", [({"objects_s": 0.5}, {})], indirect=True)
def test_predicted_objects_are_heard_where_those_are_published(started: tuple[Bench, Vehicle, NodeProcess]) -> None:
    from autoware_perception_msgs.msg import PredictedObject, PredictedObjects

    bench, vehicle, _ = started
    bench.node.destroy_publisher(vehicle.tracked)
    predicted = bench.node.create_publisher(PredictedObjects, f"{NODE}/input/objects", 1)

    def say() -> None:
        bench.send_ego(speed=0.0)
        item = PredictedObject()
        item.kinematics.initial_pose_with_covariance.pose.position.x = 9.0
        message = PredictedObjects(objects=[item])
        message.header.stamp, message.header.frame_id = stamp_to_time(bench.now()), "base_link"
        predicted.publish(message)

    answer = bench.drive_until("VALID", tries=100, ego=say)
    assert answer["reasoning"] == "UNKNOWN 9.0 0.0"


@pytest.mark.parametrize("started", [({}, {"camera__height_m": 1.4})], indirect=True)
def test_the_view_comes_from_camera_info_and_tf_static_and_a_parameter_wins(
    started: tuple[Bench, Vehicle, NodeProcess],
) -> None:
    from tf2_msgs.msg import TFMessage

    bench, _, process = started
    info = bench.node.create_publisher(CameraInfo, f"{NODE}/input/camera_info", BEST_EFFORT)
    static = bench.node.create_publisher(TFMessage, "/tf_static", LATCHED)

    def calibrated(focal: float) -> CameraInfo:
        message = CameraInfo(width=1000, height=600, distortion_model="plumb_bob")
        message.k = [focal, 0.0, 500.0, 0.0, focal, 300.0, 0.0, 0.0, 1.0]
        message.header.frame_id = "optical"
        return message

    transform = TransformStamped(child_frame_id="optical")
    transform.header.frame_id = "base_link"
    transform.transform.translation.x, transform.transform.translation.z = 2.0, 1.8
    turn = transform.transform.rotation
    turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
    static.publish(TFMessage(transforms=[transform]))

    def until_said(words: str, message: CameraInfo) -> None:
        for _ in range(300):
            info.publish(message)
            bench.spin(0.1)
            if words in process.text():
                return
        raise AssertionError(process.text())

    until_said("CameraInfo is not used: the camera is not calibrated", calibrated(0.0))
    until_said(
        "field of view 1.57 rad (CameraInfo), height 1.4 m (parameter), pitch 0 rad (tf_static), forward 2 m (tf_static)",
        calibrated(500.0),
    )
