"""How a camera is mounted, from static transforms and its calibration. Needs driving.overlay.

Frames: base_link x forward, y left, z up, on the ground below the rear axle (as in Autoware); the camera's optical frame z forward,
x right, y down (REP 103). Transforms are those of tf2: a parent, a child, and the child's pose in the parent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from owled_ros.driving.overlay import PinholeView
from owled_ros.errors import OwledError

BASE_FRAME = "base_link"
MAX_DEPTH = 32  # transforms between two frames
MAX_FRAMES = 10_000
MIN_HEIGHT, MAX_HEIGHT = 0.1, 10.0  # [m] that a camera may be above the ground
MAX_TILT = math.radians(60.0)  # of the optical axis; a frame that looks farther up or down is not an optical frame
MAX_ROLL = math.radians(20.0)  # beyond it a picture with a level horizon is wrong
MIN_FOV, MAX_FOV = 0.1, 3.0  # [rad]
MIN_NORM, MAX_NORM = 0.9, 1.1  # of a quaternion

Vector = tuple[float, float, float]
Rotation = tuple[float, float, float, float]  # quaternion x, y, z, w
IDENTITY: Rotation = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Mounting:
    """Where a camera is and looks, in base_link."""

    forward: float  # [m]
    left: float  # [m]
    height: float  # [m] above the ground
    yaw: float  # [rad], left positive
    pitch: float  # [rad], downward positive


@dataclass(frozen=True)
class Lens:
    """What a calibration says, in shares of the image, so that it holds for every resolution."""

    horizontal_fov: float  # [rad]
    centre: tuple[float, float]


class StaticFrames:
    """The tree of static transforms."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Vector, Rotation]] = {}

    def add(self, parent: str, child: str, place: Vector, turn: Rotation) -> None:
        """Take a transform; raises OwledError for one whose numbers cannot be."""
        norm = math.sqrt(sum(value * value for value in turn))
        if not all(map(math.isfinite, (*place, *turn))) or not MIN_NORM <= norm <= MAX_NORM:
            raise OwledError(f"the transform from {parent} to {child} cannot be: place {place}, rotation {turn}")
        if len(self._parents) < MAX_FRAMES or child in self._parents:
            scaled = (turn[0] / norm, turn[1] / norm, turn[2] / norm, turn[3] / norm)
            self._parents[_plain(child)] = (_plain(parent), place, scaled)

    def __len__(self) -> int:
        return len(self._parents)

    def mounting(self, camera: str, base: str = BASE_FRAME) -> Mounting:
        """Return how the optical frame `camera` is mounted.

        Raises:
            OwledError: no transform leads there, or it is not an optical frame of a camera on a vehicle.
        """
        place, turn = self._pose(_plain(camera), _plain(base))
        axis, down = _turned((0.0, 0.0, 1.0), turn), _turned((0.0, 1.0, 0.0), turn)
        pitch = math.asin(max(-1.0, min(1.0, -axis[2])))
        level = math.hypot(axis[0], axis[1])
        if abs(pitch) > MAX_TILT:
            raise OwledError(
                f"{camera} looks {'down' if pitch > 0 else 'up'} by {math.degrees(abs(pitch)):.0f} degrees; expected an "
                "optical frame, z forward and y down"
            )
        sideways = (-axis[1] / level, axis[0] / level, 0.0)  # to the left, level
        roll = math.asin(max(-1.0, min(1.0, sum(a * b for a, b in zip(down, sideways, strict=True)))))
        if down[2] > 0.0 or abs(roll) > MAX_ROLL:
            raise OwledError(
                f"{camera} is rolled by more than {math.degrees(MAX_ROLL):.0f} degrees; its y must point down"
            )
        if not MIN_HEIGHT <= place[2] <= MAX_HEIGHT:
            raise OwledError(
                f"{camera} is {place[2]:.2f} m above {base}; expected {MIN_HEIGHT:g} to {MAX_HEIGHT:g} m, with {base} on "
                "the ground"
            )
        return Mounting(place[0], place[1], place[2], math.atan2(axis[1], axis[0]), pitch)

    def _pose(self, frame: str, base: str) -> tuple[Vector, Rotation]:
        """Return the pose of a frame in its ancestor `base`."""
        place, turn, at = (0.0, 0.0, 0.0), IDENTITY, frame
        for _ in range(MAX_DEPTH):
            if at == base:
                return place, turn
            if at not in self._parents:
                known = "nothing has come" if not self._parents else f"it ends at {at}"
                raise OwledError(f"no static transform leads from {base} to {frame}: {known}")
            at, shift, rotation = self._parents[at]
            moved = _turned(place, rotation)
            place = (shift[0] + moved[0], shift[1] + moved[1], shift[2] + moved[2])
            turn = _product(rotation, turn)
        raise OwledError(f"the static transforms from {frame} go in a circle or through more than {MAX_DEPTH} frames")


def lens_of(width: int, height: int, matrix: tuple[float, ...]) -> Lens:
    """Read the intrinsic matrix (row by row, 9 numbers) of a calibration; raises OwledError for one that is none."""
    fx, cx, cy = matrix[0], matrix[2], matrix[5]
    if width < 2 or height < 2 or not all(map(math.isfinite, (fx, cx, cy))) or fx <= 0.0:
        raise OwledError(f"the camera is not calibrated: focal length {fx:g}, image {width}x{height}")
    fov = 2.0 * math.atan(0.5 * width / fx)
    centre = (cx / width, cy / height)
    if not MIN_FOV <= fov <= MAX_FOV or not all(0.0 < share < 1.0 for share in centre):
        raise OwledError(
            f"the calibration cannot be: field of view {fov:.2f} rad, centre at {centre[0]:.2f} and {centre[1]:.2f} of the image"
        )
    return Lens(fov, centre)


def view_of(
    fallback: PinholeView, given: dict[str, float], lens: Lens | None, mounting: Mounting | None
) -> PinholeView:
    """Put a view together: what is given counts, then what was measured, then the fallback."""
    values = {
        "horizontal_fov": fallback.horizontal_fov,
        "height": fallback.height,
        "pitch": fallback.pitch,
        "forward": fallback.forward,
    }
    more = {"left": fallback.left, "yaw": fallback.yaw}
    if mounting is not None:
        values |= {"height": mounting.height, "pitch": mounting.pitch, "forward": mounting.forward}
        more = {"left": mounting.left, "yaw": mounting.yaw}
    if lens is not None:
        values["horizontal_fov"] = lens.horizontal_fov
    centre = fallback.centre if lens is None or "horizontal_fov" in given else lens.centre
    return PinholeView(**{**values, **given}, **more, centre=centre)


def _plain(frame: str) -> str:
    return frame.strip("/")


def _product(a: Rotation, b: Rotation) -> Rotation:
    """Multiply two quaternions: first b, then a."""
    (ax, ay, az, aw), (bx, by, bz, bw) = a, b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def _turned(vector: Vector, turn: Rotation) -> Vector:
    x, y, z, w = turn
    px, py, pz, _ = _product(_product(turn, (*vector, 0.0)), (-x, -y, -z, w))
    return (px, py, pz)
