"""What autoware_node hears of driving_node, converted; a trajectory that could not be driven is refused with a reason. Needs the messages."""

from __future__ import annotations

import numpy as np

from owled_ros.driving.navigation import CommandKind
from owled_ros.driving.trajectory import COLUMNS
from owled_ros.errors import OwledError
from owled_ros.msg import DrivingModel, PredictedTrajectory
from owled_ros.nodes.conversions import message_to_command, message_to_trajectory, stamp_of
from owled_ros.onboard.candidates import HeardTrajectory
from owled_ros.onboard.motion import MAX_ACCELERATION, MAX_SPEED

MAX_POINTS = 2_000
MAX_S = 60.0
MOST = (
    MAX_S,
    1e4,
    1e4,
    1e3,
    MAX_SPEED,
    MAX_ACCELERATION,
    10.0,
)  # of each column, in the order of COLUMNS: beyond is no drive


def message_to_plan(message: PredictedTrajectory, base_frame: str) -> HeardTrajectory:
    """Convert a valid trajectory in `base_frame`; raises OwledError for one that cannot be used."""
    if not message.valid:
        raise OwledError("the trajectory is not valid; expected valid ones on this topic")
    frame = message.header.frame_id
    if frame and base_frame and frame != base_frame:
        raise OwledError(
            f"the trajectory is in {frame}, but the odometry tells where {base_frame} is; set output_frame_id of driving_node to "
            f"{base_frame} if that is the vehicle's base"
        )
    if len(message.points) > MAX_POINTS:
        raise OwledError(f"the trajectory has {len(message.points)} points; at most {MAX_POINTS} are taken")
    trajectory = message_to_trajectory(message)
    values = trajectory.values
    if len(values) < 2 or not np.isfinite(values).all():
        raise OwledError("the trajectory has fewer than two points, or numbers that are not finite")
    if values[0, 0] != 0.0 or (np.diff(values[:, 0]) <= 0.0).any():
        raise OwledError("the trajectory's times do not rise from 0")
    for name, column, most in zip(COLUMNS, values.T, MOST, strict=True):
        if np.abs(column).max() > most:
            raise OwledError(f"the trajectory's {name} goes to {np.abs(column).max():g}; at most {most:g} is taken")
    given = message.command.kind != CommandKind.UNKNOWN
    command = message_to_command(message.command, stamp_of(message)) if given else None
    return HeardTrajectory(stamp_of(message), trajectory, model_of(message), message.manoeuvre, command)


def model_of(message: PredictedTrajectory | DrivingModel) -> str:
    """Name what answered: model and artifact."""
    return f"{message.model_id} {message.artifact_id}".strip()
