"""Polygons in space to pixels: a list of faces is projected at once and painted far to near. Needs numpy and cv2."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from owled_ros.scenes.camera import NEAR, Camera
from owled_ros.scenes.look import Colour

SHIFT = 4  # bits below the pixel
UNTOUCHED = -1  # a face that leaves the labels as they are


@dataclass
class Sketch:
    """Flat faces in the camera's road frame (x forward, y left, z up), in painting order."""

    points: list[np.ndarray] = field(default_factory=list)  # each (N, 3) [m]
    colours: list[Colour] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, points: np.ndarray, colour: Colour, label: int = UNTOUCHED) -> None:
        """Append a face; `label` is written to the label image, UNTOUCHED leaves it."""
        self.points.append(points)
        self.colours.append(colour)
        self.labels.append(label)

    def extend(self, other: Sketch) -> None:
        """Append all faces of another sketch."""
        self.points += other.points
        self.colours += other.colours
        self.labels += other.labels


@dataclass(frozen=True)
class Outlines:
    """The projected faces that touch the image, in coordinates relative to an image of one by one."""

    flat: np.ndarray  # (M, 2) all corners, [0, 1] inside the image
    ends: np.ndarray  # (K,) end of each face in `flat`
    colours: list[Colour]
    labels: np.ndarray  # (K,)

    def pixels(self, width: int, height: int) -> list[np.ndarray]:
        """Return the corners of each face (N, 2) as fixed point numbers; cv2 counts from pixel centres, hence the half."""
        fixed = np.rint((self.flat * (width, height) - 0.5) * (1 << SHIFT)).astype(np.int32)
        ends = self.ends.tolist()
        return [fixed[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def outline(sketch: Sketch, camera: Camera) -> Outlines:
    """Project every face; what lies behind the camera is cut off at the near plane, what is out of sight dropped."""
    sizes = np.array([len(points) for points in sketch.points])
    stacked = np.concatenate(sketch.points)  # (sum N, 3)
    depth = camera.depth(stacked)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    scale = 1.0 / np.array([camera.width, camera.height])
    flat = camera.project(stacked) * scale
    nearest, farthest = np.minimum.reduceat(depth, starts), np.maximum.reduceat(depth, starts)
    low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
    whole = (nearest >= NEAR) & ((high > 0) & (low < 1)).all(axis=1)
    kept, colours, labels = [], [], []
    for index in np.flatnonzero(whole | ((nearest < NEAR) & (farthest > NEAR))):
        polygon = flat[starts[index] : ends[index]]
        if not whole[index]:
            cut = _cut_near(sketch.points[index], depth[starts[index] : ends[index]])
            polygon = np.clip(camera.project(cut) * scale, -20.0, 20.0)
        kept.append(polygon)
        colours.append(sketch.colours[index])
        labels.append(sketch.labels[index])
    if not kept:
        return Outlines(np.empty((0, 2)), np.empty(0, np.int64), [], np.empty(0, np.int64))
    return Outlines(np.concatenate(kept), np.cumsum([len(polygon) for polygon in kept]), colours, np.array(labels))


def paint(outlines: Outlines, image: np.ndarray) -> None:
    """Paint the faces with smooth edges into an image (H, W, 3)."""
    for polygon, colour in zip(outlines.pixels(image.shape[1], image.shape[0]), outlines.colours, strict=False):
        cv2.fillPoly(image, [polygon], colour, cv2.LINE_AA, SHIFT)


def label(outlines: Outlines, image: np.ndarray) -> None:
    """Write the labels of the faces into an image (H, W) uint8."""
    for polygon, value in zip(outlines.pixels(image.shape[1], image.shape[0]), outlines.labels, strict=False):
        if value != UNTOUCHED:
            cv2.fillPoly(image, [polygon], int(value), cv2.LINE_8, SHIFT)


def alone(outlines: Outlines, value: int, size: int) -> tuple[int, float]:
    """Return how many of size x size pixels a label's faces would cover unoccluded, and which part is in the image."""
    chosen = np.flatnonzero(outlines.labels == value)
    if not len(chosen):
        return 0, 0.0
    fixed = [outlines.flat[outlines.ends[index - 1] if index else 0 : outlines.ends[index]] for index in chosen]
    faces = [np.rint((corners * size - 0.5) * (1 << SHIFT)).astype(np.int32) for corners in fixed]
    corners = (np.concatenate(faces) / (1 << SHIFT) + 0.5) / size
    low, high = corners.min(axis=0), corners.max(axis=0)
    extent = np.maximum(high - low, 1e-9)
    inside = float(np.prod(np.clip(np.minimum(high, 1.0) - np.maximum(low, 0.0), 0.0, None) / extent))
    scratch = np.zeros((size, size), np.uint8)
    for face in faces:
        cv2.fillPoly(scratch, [face], 1, cv2.LINE_8, SHIFT)
    return cv2.countNonZero(scratch), inside


def _cut_near(points: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Cut a polygon (N, 3) at the near plane (Sutherland and Hodgman 1974)."""
    kept: list[list[float]] = []
    corners, depths = points.tolist(), depth.tolist()
    for index, (corner, here) in enumerate(zip(corners, depths, strict=True)):
        before = depths[index - 1]
        if (here >= NEAR) != (before >= NEAR):
            share = (NEAR - before) / (here - before)
            kept.append([a + share * (b - a) for a, b in zip(corners[index - 1], corner, strict=True)])
        if here >= NEAR:
            kept.append(corner)
    return np.array(kept).reshape(-1, 3)
