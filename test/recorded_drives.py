"""Small bags for tests: a drive of 10 images/s with odometry at 50/s, every number worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from owled_ros.bags.write import BagWriter
from owled_ros.driving.answer import Action, Light, Manoeuvre, ObjectKind, Scene, SceneObject
from owled_ros.driving.frame import EgoState

START = 1_700_000_000_000_000_000  # [ns]
MILLISECOND = 1_000_000  # [ns]
IMAGE_PERIOD = 100 * MILLISECOND
EGO_PERIOD = 20 * MILLISECOND


def image(number: int, width: int = 64, height: int = 36) -> np.ndarray:
    """Paint an image that tells its number: red = number, green rises to the right, blue downwards."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = number % 256
    image[..., 1] = np.arange(width) * 2 % 256
    image[..., 2] = (np.arange(height) * 3 % 256)[:, None]
    return image


def speed_at(seconds: float) -> float:
    """Drive 5 m/s and accelerate by 1 m/s2."""
    return 5.0 + seconds


def record_drive(
    bag: BagWriter,
    images: int = 10,
    start: int = START,
    encoding: str = "rgb8",
    truth: bool = True,
    yaw_rate: float = 0.1,
    lead: int = 0,
) -> None:
    """Write one drive; odometry begins `lead` periods before the first image and ends with the last."""
    end = start + images * IMAGE_PERIOD
    for stamp in range(start - lead * EGO_PERIOD, end, EGO_PERIOD):
        seconds = (stamp - start) / 1e9
        bag.odometry(stamp, EgoState(stamp, speed_at(seconds), yaw_rate))
        if stamp >= start and (stamp - start) % IMAGE_PERIOD == 0:
            number = (stamp - start) // IMAGE_PERIOD
            bag.image(stamp, image(number), encoding=encoding)
            if truth:
                bag.expert_action(stamp, Action(1.0, 0.02, Manoeuvre.CRUISE))
                bag.scene_truth(stamp, Scene((SceneObject(ObjectKind.LEAD, 12.0),), (), Light.RED, 22.0))


def make_bag(path: Path, images: int = 10, drives: int = 1, storage: str = "mcap", compression: str = "") -> Path:
    """Write a bag of several drives, 60 s apart."""
    with BagWriter(path, storage, compression) as bag:
        for number in range(drives):
            record_drive(bag, images, START + number * 60 * 1000 * MILLISECOND)
    return path
