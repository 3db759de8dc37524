"""A pinhole camera on the vehicle: points to pixels. Needs numpy.

Frame of the points: x forward, y left, z up, origin on the road under the camera; the camera sits `mount_forward` ahead
of the rear axle, which is the vehicle's reference point. Pixel (0, 0) is the corner of the image, so that a camera can
be resized by scaling alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

HORIZONTAL_FIELD_OF_VIEW = math.radians(70.0)
NEAR = 0.4  # [m], nothing nearer is drawn


@dataclass(frozen=True)
class Camera:
    """Intrinsics [px] and mount of a camera without distortion."""

    width: int = 1280
    height: int = 720
    fx: float = 640.0 / math.tan(HORIZONTAL_FIELD_OF_VIEW / 2)
    fy: float = 640.0 / math.tan(HORIZONTAL_FIELD_OF_VIEW / 2)
    cx: float = 640.0
    cy: float = 360.0
    mount_height: float = 1.5  # [m] above the road
    mount_forward: float = 1.6  # [m] ahead of the rear axle
    pitch: float = 0.02  # [rad], positive looks down

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera whose image equals this one's squashed to `width` by `height` pixels."""
        across, down = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * across,
            cx=self.cx * across,
            fy=self.fy * down,
            cy=self.cy * down,
        )

    def pitched(self, extra: float) -> Camera:
        """Return the camera turned down by `extra` [rad]."""
        return replace(self, pitch=self.pitch + extra)

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Return the distance [m] of points (N, 3) along the optical axis (N,)."""
        return points[:, 0] * math.cos(self.pitch) - (points[:, 2] - self.mount_height) * math.sin(self.pitch)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points (N, 3) [m] to pixels (N, 2), u right and v down; points must lie before the camera."""
        above = points[:, 2] - self.mount_height
        depth = np.maximum(self.depth(points), 1e-3)
        up = above * math.cos(self.pitch) + points[:, 0] * math.sin(self.pitch)
        return np.stack([self.cx - self.fx * points[:, 1] / depth, self.cy - self.fy * up / depth], axis=1)

    @property
    def horizon(self) -> float:
        """Row [px] of the horizon."""
        return self.cy - self.fy * math.tan(self.pitch)
