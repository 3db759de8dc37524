"""What people look at: the overlay, the path and markers for viewers. Made only for those who subscribe. Needs rclpy."""

from __future__ import annotations

import math
import time
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Path
from rclpy.publisher import Publisher
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from owled_ros.driving.overlay import Overlay, PinholeView, draw_overlay
from owled_ros.driving.prediction import SceneAnswer
from owled_ros.driving.trajectory import Trajectory
from owled_ros.nodes import conversions, topics
from owled_ros.nodes.parameters import DrivingSettings
from owled_ros.onboard.ladder import Outcome

SCENE_MEMORY_S = 2.0  # how long the overlay shows a description
TEXT_HEIGHT = 0.6  # [m]
NAMESPACE = "predicted_trajectory"
LIFETIME = Duration(sec=1)
GREEN, GREY, WHITE = (
    ColorRGBA(r=0.24, g=0.78, b=0.35, a=0.5),
    ColorRGBA(r=0.7, g=0.7, b=0.7, a=0.9),
    ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
)


class DebugOutputs:
    """Draws what became of an image on publishers that it is given, by the names of topics.py."""

    def __init__(self, outputs: dict[str, Publisher]) -> None:
        self._outputs = outputs
        self._scene: tuple[SceneAnswer, float] | None = None

    def described(self, answer: SceneAnswer) -> None:
        """Show a description on the images that follow."""
        self._scene = (answer, time.monotonic())

    def show(self, outcome: Outcome, settings: DrivingSettings, view: PinholeView) -> None:
        """Publish what someone looks at."""
        header = Header(stamp=conversions.stamp_to_time(outcome.stamp), frame_id=settings.output_frame_id)
        trajectory = None if outcome.answer is None or not outcome.valid else outcome.answer.trajectory
        if self._wanted(topics.DEBUG_PATH) and trajectory is not None:
            self._outputs[topics.DEBUG_PATH.name].publish(trajectory_to_path(trajectory, header))
        if self._wanted(topics.DEBUG_MARKERS):
            self._outputs[topics.DEBUG_MARKERS.name].publish(
                outcome_to_markers(outcome, trajectory, header, settings.vehicle.width)
            )
        raw, packed = self._wanted(topics.DEBUG_IMAGE), self._wanted(topics.DEBUG_COMPRESSED)
        if outcome.frame is None or not (raw or packed):
            return
        drawn = self._drawn(outcome, settings, view)
        if raw:
            message = conversions.rgb_to_image(drawn, outcome.stamp, outcome.frame_id)
            self._outputs[topics.DEBUG_IMAGE.name].publish(message)
        if packed:
            message = conversions.rgb_to_compressed(drawn, outcome.stamp, outcome.frame_id)
            self._outputs[topics.DEBUG_COMPRESSED.name].publish(message)

    def _wanted(self, topic: topics.Topic) -> bool:
        return bool(self._outputs[topic.name].get_subscription_count() > 0)

    def _drawn(self, outcome: Outcome, settings: DrivingSettings, view: PinholeView) -> np.ndarray:
        assert outcome.frame is not None
        image, width = outcome.frame.image, settings.debug_image_width_px
        if image.shape[1] > width:
            size = (width, max(round(image.shape[0] * width / image.shape[1]), 2))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        fresh = self._scene is not None and time.monotonic() - self._scene[1] < SCENE_MEMORY_S
        overlay = Overlay(
            answer=outcome.answer,
            scene=self._scene[0] if fresh and self._scene is not None else None,
            ego=outcome.frame.ego,
            title=f"{outcome.identity.model_id}  {outcome.latency_ms:.0f} ms",
            note="" if outcome.valid else outcome.detail,
        )
        return draw_overlay(image, overlay, view, settings.vehicle)


def trajectory_to_path(trajectory: Trajectory, header: Header) -> Path:
    """Convert to nav_msgs/Path; every pose has the stamp at which the vehicle would be there."""
    path = Path(header=header)
    start = header.stamp.sec * conversions.NANOSECONDS + header.stamp.nanosec
    for point in conversions.points_of(trajectory):
        stamp = conversions.stamp_to_time(start + round(point["time"] * conversions.NANOSECONDS))
        pose = PoseStamped(header=Header(stamp=stamp, frame_id=header.frame_id))
        pose.pose.position.x, pose.pose.position.y = point["x"], point["y"]
        pose.pose.orientation.z, pose.pose.orientation.w = (
            math.sin(point["heading"] / 2),
            math.cos(point["heading"] / 2),
        )
        path.poses.append(pose)
    return path


def outcome_to_markers(
    outcome: Outcome, trajectory: Trajectory | None, header: Header, width: float = 1.8
) -> MarkerArray:
    """Draw a trajectory as a band `width` [m] wide with dots at its points, and the answer or the reason as text."""
    if outcome.valid and outcome.answer is not None:
        words, colour = outcome.answer.generation.text, WHITE
    else:
        words, colour = f"no action: {outcome.reason.name}: {outcome.detail}", GREY
    text = _marker(header, 0, Marker.TEXT_VIEW_FACING, colour, text=words)
    text.pose.position.z, text.scale.z = 2.5, TEXT_HEIGHT
    if trajectory is None or len(trajectory) < 2:
        gone = [Marker(header=header, ns=NAMESPACE, id=number, action=Marker.DELETE) for number in (1, 2)]
        return MarkerArray(markers=[text, *gone])
    points = [Point(x=point["x"], y=point["y"], z=0.05) for point in conversions.points_of(trajectory)]
    band = _marker(header, 1, Marker.LINE_STRIP, GREEN, points=points)
    band.scale.x = width
    dots = _marker(header, 2, Marker.SPHERE_LIST, WHITE, points=points)
    dots.scale.x = dots.scale.y = dots.scale.z = 0.25
    return MarkerArray(markers=[text, band, dots])


def _marker(header: Header, number: int, kind: int, colour: ColorRGBA, **fields: Any) -> Marker:
    marker = Marker(header=header, ns=NAMESPACE, id=number, type=kind, action=Marker.ADD, color=colour, **fields)
    marker.lifetime, marker.pose.orientation.w = LIFETIME, 1.0
    return marker
