"""Between messages and what the package works with; named by direction. Needs the message packages."""

from __future__ import annotations

import array
import json
import math
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from owled_ros.driving.answer import ObjectKind, Scene
from owled_ros.driving.answer import SceneObject as Seen
from owled_ros.driving.ego import MIN_ROTATION, NANOSECONDS, EgoState, Pose, squared_norm, yaw_of
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.prediction import Reason, SceneAnswer
from owled_ros.driving.trajectory import COLUMNS, Trajectory
from owled_ros.driving.vehicle import VehicleParameters, controls_of
from owled_ros.errors import OwledError
from owled_ros.msg import NavigationCommand as NavigationCommandMessage
from owled_ros.msg import PredictedAction, PredictedTrajectory, SceneDescription, SceneObject, TrajectoryPoint
from owled_ros.onboard.ladder import Outcome

MAX_COMMAND_CHARACTERS = 2_000
JPEG_QUALITY = 85
MIN_STAMP, MAX_STAMP = -(2**31) * NANOSECONDS, (2**31) * NANOSECONDS - 1  # [ns], of builtin_interfaces/Time
UNTRUSTED = (Reason.LOW_CONFIDENCE, Reason.DECLINED)  # what is said about such an image is not to be used either


def stamp_of(message: Any) -> int:
    """Return the stamp of a message with a header [ns]."""
    return int(message.header.stamp.sec) * NANOSECONDS + int(message.header.stamp.nanosec)


def stamp_to_time(stamp: int) -> Time:
    """Convert nanoseconds; what a message cannot say, the stamp of a broken clock, becomes the nearest that it can."""
    stamp = min(max(stamp, MIN_STAMP), MAX_STAMP)
    return Time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def time_to_stamp(time: Any) -> int:
    """Convert builtin_interfaces/Time to nanoseconds."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def odometry_to_ego(message: Odometry) -> EgoState:
    """Take speed and yaw rate from the twist, which is in the vehicle's frame (child_frame_id), and the pose where there is one."""
    twist = message.twist.twist
    return EgoState(stamp_of(message), twist.linear.x, twist.angular.z, pose=pose_of(message.pose.pose))


def report_to_ego(message: Any) -> EgoState:
    """Convert autoware_vehicle_msgs/VelocityReport, which is in base_link."""
    return EgoState(stamp_of(message), float(message.longitudinal_velocity), float(message.heading_rate))


def pose_of(message: Any) -> Pose | None:
    """Convert geometry_msgs/Pose to the plane; None where the source fills in no numbers, or no rotation."""
    pose = Pose(message.position.x, message.position.y, yaw_of(message.orientation))
    return pose if squared_norm(message.orientation) > MIN_ROTATION and pose.is_finite() else None


def message_to_command(message: NavigationCommandMessage, now: int) -> NavigationCommand:
    """Convert; a message without a stamp was given `now` [ns]. Raises OwledError for one that cannot be used."""
    try:
        kind = CommandKind(message.kind)
    except ValueError as error:
        raise OwledError(f"the navigation command has kind {message.kind}; expected one of KIND_*") from error
    distance = None if math.isnan(message.distance) else float(message.distance)
    if distance is not None and not 0.0 <= distance < math.inf:
        raise OwledError(f"the navigation command has distance {distance:g} m; expected 0 m or more, or NaN")
    if len(message.text) > MAX_COMMAND_CHARACTERS:
        raise OwledError(
            f"the navigation command has {len(message.text)} characters; at most {MAX_COMMAND_CHARACTERS} are taken"
        )
    return NavigationCommand(kind, distance, message.text, stamp_of(message) or now)


def command_to_message(command: NavigationCommand | None) -> NavigationCommandMessage:
    """Convert; kind UNKNOWN where there is none."""
    if command is None:
        return NavigationCommandMessage(distance=math.nan)
    distance = math.nan if command.distance is None else command.distance
    message = NavigationCommandMessage(kind=int(command.kind), distance=distance, text=command.text)
    message.header.stamp = stamp_to_time(command.stamp)
    return message


def ego_to_odometry(ego: EgoState, pose: tuple[float, float, float], frame_id: str, child_frame_id: str) -> Odometry:
    """Convert; pose is (x [m], y [m], yaw [rad]) in `frame_id`."""
    message = Odometry(child_frame_id=child_frame_id)
    message.header.stamp, message.header.frame_id = stamp_to_time(ego.stamp), frame_id
    message.pose.pose.position.x, message.pose.pose.position.y = pose[0], pose[1]
    message.pose.pose.orientation.z, message.pose.pose.orientation.w = math.sin(pose[2] / 2), math.cos(pose[2] / 2)
    message.twist.twist.linear.x, message.twist.twist.angular.z = ego.speed, ego.yaw_rate
    return message


def outcome_to_action(outcome: Outcome, vehicle: VehicleParameters, frame_id: str) -> PredictedAction:
    """Convert a valid outcome; raises ValueError for any other, so that no guess can be published."""
    if not outcome.valid or outcome.answer is None or outcome.answer.action is None:
        raise ValueError(f"no action: {outcome.reason.name}")
    action = outcome.answer.action
    controls = controls_of(action.acceleration, action.steering_tire_angle, vehicle)
    return PredictedAction(
        valid=True,
        throttle=controls.throttle,
        brake=controls.brake,
        steering=controls.steering,
        acceleration=action.acceleration,
        steering_tire_angle=action.steering_tire_angle,
        manoeuvre=int(action.manoeuvre),
        **_of_answer(outcome, frame_id),
    )


def outcome_to_withheld_action(outcome: Outcome, frame_id: str) -> PredictedAction:
    """Convert an outcome without an action; raises ValueError for one that has one."""
    if outcome.valid:
        raise ValueError("the outcome is valid")
    numbers = dict.fromkeys(("throttle", "brake", "steering", "acceleration", "steering_tire_angle"), math.nan)
    return PredictedAction(valid=False, reason_text=outcome.detail, **numbers, **_of_answer(outcome, frame_id))


def outcome_to_trajectory(outcome: Outcome, frame_id: str) -> PredictedTrajectory:
    """Convert an outcome; the points are there only where it is valid."""
    answer = outcome.answer
    action = None if answer is None or not outcome.valid else answer.action
    trajectory = None if answer is None or not outcome.valid else answer.trajectory
    return PredictedTrajectory(
        valid=trajectory is not None,
        reason_text="" if outcome.valid else outcome.detail,
        points=[] if trajectory is None else [TrajectoryPoint(**point) for point in points_of(trajectory)],
        manoeuvre=0 if action is None else int(action.manoeuvre),
        command=command_to_message(None if outcome.frame is None else outcome.frame.command),
        confidence_calibrated=outcome.calibrated,
        reasoning="" if answer is None else answer.generation.reasoning,
        **_of_answer(outcome, frame_id),
    )


def points_of(trajectory: Trajectory) -> list[dict[str, float]]:
    """Name the numbers of every point."""
    return [dict(zip(COLUMNS, map(float, row), strict=True)) for row in trajectory.values]


def message_to_trajectory(message: PredictedTrajectory) -> Trajectory:
    """Convert back, for whoever draws or records what was published."""
    rows = [[getattr(point, name) for name in COLUMNS] for point in message.points]
    return Trajectory(np.array(rows, np.float64).reshape(-1, len(COLUMNS)))


def _of_answer(outcome: Outcome, frame_id: str) -> dict[str, Any]:
    """Fill in what actions and trajectories have in common."""
    generation = None if outcome.answer is None else outcome.answer.generation
    header = Header(stamp=stamp_to_time(outcome.stamp), frame_id=frame_id)
    return {
        "header": header,
        "reason": int(outcome.reason),
        "confidence": 0.0 if generation is None else generation.confidence,
        "frame_age": outcome.frame_age_s,
        "latency_ms": outcome.latency_ms,
        "text": "" if generation is None else generation.text,
        "model_id": outcome.identity.model_id,
        "artifact_id": outcome.identity.artifact_id,
    }


def scene_to_message(outcome: Outcome, answer: SceneAnswer, frame_age_s: float, latency_ms: float) -> SceneDescription:
    """Convert a description; it is not valid when the model does not trust the image it describes."""
    reason, detail = answer.reason, answer.detail
    if answer.valid and outcome.reason in UNTRUSTED:
        reason, detail = outcome.reason, outcome.detail
    scene = answer.scene if reason is Reason.VALID and answer.scene is not None else Scene()
    message = SceneDescription(
        valid=reason is Reason.VALID,
        reason=int(reason),
        reason_text=detail,
        text=answer.generation.text,
        cars=[_object(SceneObject.CLASS_CAR, item) for item in scene.cars],
        pedestrians=[_object(SceneObject.CLASS_PEDESTRIAN, item) for item in scene.pedestrians],
        traffic_light=int(scene.light) if reason is Reason.VALID else SceneDescription.LIGHT_UNKNOWN,
        light_distance=math.nan if scene.light_distance is None else float(scene.light_distance),
        confidence=0.0 if outcome.answer is None else outcome.answer.generation.confidence,
        frame_age=frame_age_s,
        latency_ms=latency_ms,
        complete=answer.generation.complete,
        model_id=outcome.identity.model_id,
        artifact_id=outcome.identity.artifact_id,
    )
    message.header.stamp, message.header.frame_id = stamp_to_time(outcome.stamp), outcome.frame_id
    return message


def trajectory_to_answer(message: PredictedTrajectory) -> dict[str, Any]:
    """Return what the driving node said about one image, as evaluation.replay reads it."""
    return {
        "kind": "action",
        "stamp": stamp_of(message),
        "reason": _reason_name(message.reason),
        "text": message.text,
        "reasoning": message.reasoning,
        "confidence": message.confidence,
        "latency_ms": message.latency_ms,
        "manoeuvre": message.manoeuvre,
        "command": message.command.kind,
        "trajectory": [[getattr(point, name) for name in COLUMNS] for point in message.points] if message.valid else [],
        "model_id": message.model_id,
        "artifact_id": message.artifact_id,
    }


def description_to_answer(message: SceneDescription) -> dict[str, Any]:
    """Return how the driving node described one image, as evaluation.replay reads it."""
    return {
        "kind": "scene",
        "stamp": stamp_of(message),
        "reason": _reason_name(message.reason),
        "text": message.text,
    }


def _reason_name(value: int) -> str:
    return Reason(value).name if value in list(Reason) else Reason.UNKNOWN.name


def outcome_to_json(outcome: Outcome, **more: Any) -> str:
    """Write what became of an image, with the raw text, as one line of JSON."""
    answer = outcome.answer
    return json.dumps(
        {
            "kind": "action",
            "stamp": outcome.stamp,
            "reason": outcome.reason.name,
            "detail": outcome.detail,
            "text": "" if answer is None else answer.generation.text,
            "reasoning": "" if answer is None else answer.generation.reasoning,
            "confidence": None if answer is None else round(answer.generation.confidence, 4),
            "frame_age_s": round(outcome.frame_age_s, 4),
            "latency_ms": round(outcome.latency_ms, 2),
            "decode_ms": round(outcome.decode_ms, 2),
            "inference_ms": round(outcome.inference_ms, 2),
            "model_id": outcome.identity.model_id,
            "artifact_id": outcome.identity.artifact_id,
            **more,
        }
    )


def scene_to_json(outcome: Outcome, answer: SceneAnswer) -> str:
    """Write a description as one line of JSON."""
    return json.dumps(
        {
            "kind": "scene",
            "stamp": outcome.stamp,
            "reason": answer.reason.name,
            "detail": answer.detail,
            "text": answer.generation.text,
            "seconds": round(answer.generation.seconds, 4),
        }
    )


def rgb_to_image(image: np.ndarray, stamp: int, frame_id: str) -> Image:
    """Convert (H, W, 3) uint8 RGB; array.array is what rclpy takes over without looking at every byte."""
    height, width = image.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp, message.header.frame_id = stamp_to_time(stamp), frame_id
    message.data = array.array("B", image.tobytes())
    return message


def rgb_to_compressed(image: np.ndarray, stamp: int, frame_id: str) -> CompressedImage:
    """Convert (H, W, 3) uint8 RGB to JPEG."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    message = CompressedImage(format="jpeg")
    message.header.stamp, message.header.frame_id = stamp_to_time(stamp), frame_id
    message.data = array.array("B", data.tobytes())
    return message


def _object(object_class: int, item: Seen) -> SceneObject:
    kind = item.kind if isinstance(item.kind, ObjectKind) else ObjectKind.UNKNOWN
    return SceneObject(object_class=object_class, kind=int(kind), distance=float(item.distance))
