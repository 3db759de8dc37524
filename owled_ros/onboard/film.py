"""Keep what was driven: overlay film and image, and a bag; written in a thread, so that driving does not wait. Needs cv2, no ROS."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from owled_ros.driving.overlay import Overlay, PinholeView, draw_overlay
from owled_ros.driving.vehicle import VehicleParameters

FILM, IMAGE = "drive.mp4", "overlay.png"
WAITING = 60  # images that may wait to be written; the rest is left out and counted
logger = logging.getLogger(__name__)


class Scribe:
    """Does jobs one after the other in its own thread; jobs that find the queue full are left out and counted."""

    def __init__(self) -> None:
        self.left_out = 0
        self.problem = ""
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="scribe", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], None], wait: bool = False) -> None:
        """Queue a job; `wait` for room instead of leaving it out."""
        try:
            self._jobs.put(job, block=wait)
        except queue.Full:
            self.left_out += 1

    def close(self, timeout: float = 30.0) -> None:
        """Finish what is queued."""
        self._jobs.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # a full disk must not end the drive; the first words are reported
                self.problem = self.problem or f"{type(error).__name__}: {error}"
                logger.warning("cannot write: %s", error)


class Film:
    """Writes `drive.mp4` and, at the end, the most telling image as `overlay.png`."""

    def __init__(self, directory: Path, rate_hz: float, width: int, view: PinholeView | None) -> None:
        self.directory = directory
        self.images = 0
        self._rate, self._width, self._view = rate_hz, width, view
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._best: tuple[float, np.ndarray, Overlay] | None = None

    def add(self, image: np.ndarray, overlay: Overlay) -> None:
        """Draw and write an image (H, W, 3) uint8 RGB."""
        worth = telling(overlay)
        if self._best is None or worth > self._best[0]:
            self._best = (worth, image, overlay)
        height, width = image.shape[:2]
        if width > self._width:
            size = (self._width, round(height * self._width / width / 2) * 2)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        drawn = draw_overlay(image, overlay, self._view, VehicleParameters())
        size = (drawn.shape[1], drawn.shape[0])
        if self._writer is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._size = size
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.directory / FILM), code, self._rate, size)
            if not self._writer.isOpened():
                raise OSError(f"OpenCV cannot write {self.directory / FILM}")
        if size != self._size:
            drawn = cv2.resize(drawn, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        self.images += 1

    def close(self) -> None:
        """Finish the film and write the image."""
        if self._writer is not None:
            self._writer.release()
        if self._best is not None:
            drawn = draw_overlay(self._best[1], self._best[2], self._view, VehicleParameters())
            cv2.imwrite(str(self.directory / IMAGE), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))


def telling(overlay: Overlay) -> float:
    """Rate how much there is to see: objects and a light that are described, and a valid action."""
    seen = 0.0
    if overlay.scene is not None and overlay.scene.scene is not None:
        scene = overlay.scene.scene
        seen = len(scene.cars) + 2.0 * len(scene.pedestrians) + 2.0 * (scene.light_distance is not None)
    return seen + 3.0 * (overlay.answer is not None and overlay.answer.valid)
