"""A stage to an image and to what can be seen in it. Needs numpy and cv2.

Colours are painted at the camera's size, visibility is judged at 192 by 192 pixels whatever the camera's size is, so
that one moment has one truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from owled_ros.driving.answer import CAR_KINDS, PEDESTRIAN_KINDS, Light, ObjectKind
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.draw_actors import Local, draw_building, draw_car, draw_light, draw_pedestrian, draw_tree
from owled_ros.scenes.draw_junction import draw_streets, near_arms
from owled_ros.scenes.draw_road import EGO_LANE, draw_road
from owled_ros.scenes.look import Building, Look, Tree
from owled_ros.scenes.paint import Outlines, Sketch, alone, label, outline, paint
from owled_ros.scenes.road import Road
from owled_ros.scenes.stage import (
    CAR_RANGE,
    LIGHT_NEAREST,
    LIGHT_RANGE,
    PEDESTRIAN_RANGE,
    Car,
    Pedestrian,
    Seen,
    SeenObject,
    Stage,
    TrafficLight,
    half_extent,
)

TRUTH_SIZE = 192  # [px]
MIN_SHARE = 0.35  # of an object's area must be seen
MIN_PIXELS = 6
MAX_DRAWN = 95.0  # [m]
GREY = 128.0  # level of no noise
FINE = 320  # [px], images smaller than this are painted at twice their size and averaged


@dataclass(frozen=True)
class RenderedView:
    """What the camera sees at one moment."""

    image: np.ndarray | None  # (H, W, 3) uint8 RGB, None when only the truth was asked for
    ids: np.ndarray  # (192, 192) uint8, 0 or 1 + index of the visible object: cars, pedestrians, light in scene order
    road: np.ndarray  # (192, 192) bool, surface of the ego lane
    seen: Seen


@dataclass(frozen=True)
class _Candidate:
    """An object that is near enough to be reported."""

    label: int
    distance: float
    kind: ObjectKind = ObjectKind.UNKNOWN
    offset: float = 0.0
    braking: bool = False
    light: Light = Light.NONE

    def object(self) -> SeenObject:
        """Return what the expert is told."""
        return SeenObject(self.kind, self.distance, self.offset, self.braking)


def render(stage: Stage, camera: Camera, noise: np.random.Generator | None = None, image: bool = True) -> RenderedView:
    """Draw the stage; `noise` adds the sensor noise of one frame, `image=False` skips the colours."""
    camera = camera.pitched(stage.look.pitch)
    frame = CameraFrame.of(stage, camera)
    ground = (draw_streets if stage.road.ways else draw_road)(stage, frame.s, frame.ground)
    standing, candidates = _draw_standing(stage, frame)
    ground.extend(standing)
    outlines = outline(ground, camera)
    labels = np.zeros((TRUTH_SIZE, TRUTH_SIZE), np.uint8)
    label(outlines, labels)
    visible = [item for item in candidates if _is_visible(item, outlines, labels)]
    seen, ordered = _order(visible)
    table = np.zeros(256, np.uint8)
    for index, item in enumerate(ordered):
        table[item.label] = index + 1
    pixels = _develop(stage.look, camera, outlines, frame.heading, noise) if image else None
    return RenderedView(pixels, table[labels], labels == EGO_LANE, seen)


@dataclass(frozen=True)
class CameraFrame:
    """Where the camera is on the road and in the plane."""

    x: float
    y: float
    heading: float
    s: float  # [m] along the road

    @classmethod
    def of(cls, stage: Stage, camera: Camera) -> CameraFrame:
        """Place the camera on the ego."""
        ego = stage.ego
        ahead = camera.mount_forward
        return cls(
            ego.x + ahead * math.cos(ego.heading),
            ego.y + ahead * math.sin(ego.heading),
            ego.heading,
            stage.ego_s + ahead,
        )

    def ground(self, points: np.ndarray) -> np.ndarray:
        """Bring points (N, 2) of the plane into the camera's road frame (N, 3) with z = 0."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        x, y = points[:, 0] - self.x, points[:, 1] - self.y
        found = np.zeros((len(points), 3))
        found[:, 0] = x * cos + y * sin
        found[:, 1] = y * cos - x * sin
        return found

    def local(self, x: float, y: float, heading: float) -> Local:
        """Bring a pose of the plane into the camera's road frame."""
        dx, dy = x - self.x, y - self.y
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return Local(dx * cos + dy * sin, dy * cos - dx * sin, heading)


def _draw_standing(stage: Stage, frame: CameraFrame) -> tuple[Sketch, list[_Candidate]]:
    """Draw all that stands on the ground, far to near, and list what may be reported."""
    parts = [_draw_scenery(stage.road, frame, item) for item in stage.scenery if -30 < item.s - frame.s < MAX_DRAWN]
    parts += [_draw_scenery(arm.road, frame, item) for arm in near_arms(stage, frame.s) for item in arm.scenery]
    candidates: list[_Candidate] = []
    number = 0
    actors: list[Car | Pedestrian | TrafficLight] = [*stage.cars, *stage.pedestrians, *stage.lights]
    for actor in actors:
        x, y, along = stage.place(actor)
        local = frame.local(x, y, along - frame.heading + getattr(actor, "heading", 0.0))
        if not -6 < local.x < MAX_DRAWN:
            continue
        number += 1
        sketch, candidate = _draw_actor(actor, local, number, actor.s - frame.s)
        parts.append((math.hypot(local.x, local.y), sketch))
        if candidate:
            candidates.append(candidate)
    parts.sort(key=lambda part: -part[0])
    whole = Sketch()
    for _, part in parts:
        whole.extend(part)
    return whole, candidates


def _draw_actor(
    actor: Car | Pedestrian | TrafficLight, local: Local, number: int, ahead: float
) -> tuple[Sketch, _Candidate | None]:
    """Draw one object whose place is `ahead` [m] of the camera; a candidate when it is in the range that is reported."""
    if isinstance(actor, Car):
        distance = ahead - half_extent(actor)
        candidate = _Candidate(number, distance, actor.kind, actor.offset, actor.braking)
        return draw_car(actor, local, number), candidate if 0 < distance <= CAR_RANGE else None
    if isinstance(actor, Pedestrian):
        candidate = _Candidate(number, ahead, actor.kind, actor.offset)
        return draw_pedestrian(actor, local, number), candidate if 0 < ahead <= PEDESTRIAN_RANGE else None
    candidate = _Candidate(number, ahead, light=actor.state)
    return draw_light(actor.state, local, number), candidate if LIGHT_NEAREST < ahead <= LIGHT_RANGE else None


def _draw_scenery(road: Road, frame: CameraFrame, item: Building | Tree) -> tuple[float, Sketch]:
    if isinstance(item, Building):
        s = np.array([item.s, item.s + item.length, item.s + item.length, item.s])
        back = item.offset + math.copysign(8.0, item.offset)
        corners = frame.ground(road.points(s, np.array([item.offset, item.offset, back, back])))[:, :2]
        return float(np.hypot(*corners[:2].mean(axis=0))), draw_building(item, corners)
    x, y, along = road.pose_at(item.s)
    x, y = x - math.sin(along) * item.offset, y + math.cos(along) * item.offset
    local = frame.local(x, y, along - frame.heading)
    return math.hypot(local.x, local.y), draw_tree(item, local)


def _is_visible(item: _Candidate, outlines: Outlines, labels: np.ndarray) -> bool:
    if not (labels == item.label).any():
        return False
    covered, inside = alone(outlines, item.label, TRUTH_SIZE)
    pixels = int(np.count_nonzero(labels == item.label))
    return pixels >= MIN_PIXELS and pixels / max(covered, 1) * inside >= MIN_SHARE


def _order(visible: list[_Candidate]) -> tuple[Seen, list[_Candidate]]:
    near = sorted(visible, key=lambda item: item.distance)
    cars = [item for item in near if item.kind in CAR_KINDS]
    people = [item for item in near if item.kind in PEDESTRIAN_KINDS]
    lights = [item for item in near if item.light is not Light.NONE][:1]
    seen = Seen(
        tuple(item.object() for item in cars),
        tuple(item.object() for item in people),
        lights[0].light if lights else Light.NONE,
        lights[0].distance if lights else None,
    )
    return seen, cars + people + lights


def _develop(
    look: Look, camera: Camera, outlines: Outlines, heading: float, noise: np.random.Generator | None
) -> np.ndarray:
    """Paint the colours, then pass them through the lens and the sensor."""
    factor = 2 if camera.width <= FINE else 1
    fine = camera.resized(camera.width * factor, camera.height * factor)
    image = _backdrop(look, fine, heading)
    paint(outlines, image)
    if factor > 1:
        image = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    if look.blur > 0.05:
        across, down = look.blur * camera.width / TRUTH_SIZE, look.blur * camera.height / TRUTH_SIZE
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=across, sigmaY=down)
    image = cv2.LUT(image, _tone_curve(look))
    return image if noise is None else _add_noise(image, look.noise, noise)


def _backdrop(look: Look, camera: Camera, heading: float) -> np.ndarray:
    """Sky and ground as vertical gradients, and a line of hills that turns with the heading."""
    rows = np.arange(camera.height)[:, None]
    horizon = camera.horizon
    up = np.clip((horizon - rows) / max(horizon, 1.0), 0, 1)
    down = np.clip((rows - horizon) / max(camera.height - horizon, 1.0), 0, 1)
    sky = np.asarray(look.sky_low) * (1 - up) + np.asarray(look.sky_top) * up
    ground = np.asarray(look.ground) * (0.86 + 0.2 * down)
    column = np.clip(np.where(rows < horizon, sky, ground), 0, 255).astype(np.uint8)
    image = cv2.resize(column[:, None], (camera.width, camera.height), interpolation=cv2.INTER_NEAREST)
    if look.hills:
        azimuth = np.linspace(-0.75, 0.75, 25)
        wave = (look.hill_seed % 97) / 9.0
        height = (
            0.035 + 0.02 * np.sin(3.1 * (azimuth + heading) + wave) + 0.014 * np.sin(8.3 * (azimuth + heading) - wave)
        )
        u = camera.cx - camera.fx * np.tan(azimuth)
        line = np.stack([u, horizon - camera.fy * np.maximum(height, 0.002)], axis=1)
        base = np.array([[u[-1], horizon + 1], [u[0], horizon + 1]])
        cv2.fillPoly(image, [np.rint(np.concatenate([line, base]) * 16).astype(np.int32)], look.hills, cv2.LINE_AA, 4)
    return image


def _tone_curve(look: Look) -> np.ndarray:
    level = (np.arange(256) / 255.0) ** look.gamma * 255.0
    return np.clip(level[:, None] * np.asarray(look.gain), 0, 255).astype(np.uint8)[None]  # (1, 256, 3)


def _add_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise that has the same deviation after the image is squashed to 192 by 192, whatever its size."""
    height, width = image.shape[:2]
    small = TRUTH_SIZE // 2
    grain = cv2.cvtColor(
        rng.standard_normal((TRUTH_SIZE, TRUTH_SIZE), dtype=np.float32) * deviation, cv2.COLOR_GRAY2RGB
    )
    tinted = rng.standard_normal((small, small, 3), dtype=np.float32) * np.float32(0.5 * deviation)
    cv2.add(grain, cv2.resize(tinted, (TRUTH_SIZE, TRUTH_SIZE)), dst=grain)
    shifted = cv2.convertScaleAbs(grain + np.float32(GREY))
    if (width, height) != (TRUTH_SIZE, TRUTH_SIZE):
        shifted = cv2.resize(shifted, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.addWeighted(image, 1.0, shifted, 1.0, -GREY)
