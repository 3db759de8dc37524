"""Small drives with turns and stops, whose images show what is done next, for tests of tuning."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from owled_ros.bags.write import BagWriter
from owled_ros.driving.ego import EgoState, Pose
from owled_ros.driving.navigation import CommandKind, NavigationCommand

START = 1_700_000_000_000_000_000  # [ns]
EGO_S, IMAGE_S = 0.05, 0.5
LEAD_S = 1.0  # of motion before the first image
EARLY = 4  # ego states before, so that no past that is asked for is the first one
PHASES = ((0.0, 0.0), (0.0, 0.05), (-1.0, 0.0), (1.0, 0.0), (0.0, -0.05))  # (acceleration [m/s2], curvature [1/m])
PHASE_S = 2.0


def paint(acceleration: float, curvature: float, speed: float, now: float) -> np.ndarray:
    """Show what is done as plain colours and the time as a stripe, so that no two images are alike: (28, 28, 3)."""
    image = np.zeros((28, 28, 3), np.uint8)
    image[:, :14] = (int(127 + 100 * acceleration), int(127 + 2000 * curvature), int(min(speed, 10.0) * 25))
    image[:, 14:] = 255 - image[:, :14]
    image[14:] = (int(now * 20) % 256, int(now * 60) % 256, int(now * 140) % 256)
    return image


def write_drive(
    bag: BagWriter, start: int, seconds: float, first: int = 0, cameras: tuple[str, ...] = ("/camera/image",)
) -> None:
    """Drive phase after phase from 5 m/s, with poses and a command; an image of every camera each half second."""
    x = y = heading = 0.0
    speed, steps = 5.0, round(seconds / EGO_S)
    for step in range(-EARLY, steps + 1):
        now = step * EGO_S
        acceleration, curvature = PHASES[(first + int(max(now, 0.0) / PHASE_S + 1e-9)) % len(PHASES)]
        stamp = start + round(now * 1e9)
        state = EgoState(stamp, speed, speed * curvature, None, Pose(x, y, heading))
        bag.odometry(stamp, state, pose=(x, y, heading))
        bag.acceleration(stamp, acceleration)
        if now >= LEAD_S - 1e-9 and step % round(IMAGE_S / EGO_S) == 0:
            kind = CommandKind.LEFT if curvature > 0 else CommandKind.RIGHT if curvature < 0 else CommandKind.STRAIGHT
            bag.navigation_command(stamp, NavigationCommand(kind))
            for number, topic in reversed(
                [*enumerate(cameras)]
            ):  # the main camera last: an answer is asked for behind it
                bag.image(stamp, np.roll(paint(acceleration, curvature, speed, now), number, axis=1), topic=topic)
        after = max(speed + acceleration * EGO_S, 0.0)
        way = 0.5 * (speed + after) * EGO_S
        middle = heading + 0.5 * way * curvature
        x, y, heading, speed = x + way * math.cos(middle), y + way * math.sin(middle), heading + way * curvature, after


def make_drives(
    path: Path, drives: int = 2, seconds: float = 12.0, day: int = 0, cameras: tuple[str, ...] = ("/camera/image",)
) -> Path:
    """Write a bag of several drives, a minute apart; bags of other days are other drives."""
    with BagWriter(path) as bag:
        for number in range(drives):
            start = START + day * 86_400 * 10**9 + number * 60 * 10**9
            write_drive(bag, start, seconds, day + number, cameras)
    return path
