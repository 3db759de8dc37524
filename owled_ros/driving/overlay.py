"""Draw a prediction on the camera image: texts, action bars, the predicted path, confidence. Needs numpy and cv2.

The path is the predicted trajectory, projected through a pinhole camera: camera frame z forward, x right, y down; base_link x
forward, y left, z up, on the ground below the rear axle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from owled_ros.driving.answer import Action
from owled_ros.driving.frame import EgoState
from owled_ros.driving.prediction import ActionAnswer, SceneAnswer
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters, controls_of

PATH_STEP_S = 0.1  # between two points of the drawn path
MAX_CHARACTERS = 240  # of an answer
MIN_DEPTH = 1.0  # [m], points nearer to the camera are not drawn
MIN_IMAGE_WIDTH = 320  # [px], smaller images are enlarged before drawing
DESIGN_HEIGHT = 720  # [px], sizes below are for this height
MIN_SCALE = 0.52  # texts do not become smaller than this share of their size at DESIGN_HEIGHT
FONT = cv2.FONT_HERSHEY_SIMPLEX

Colour = tuple[int, int, int]
WHITE: Colour = (245, 245, 245)
GREY: Colour = (170, 170, 170)
DARK: Colour = (18, 20, 24)
GREEN: Colour = (60, 200, 90)
RED: Colour = (225, 60, 50)
AMBER: Colour = (240, 170, 40)
BLUE: Colour = (80, 160, 245)


@dataclass(frozen=True)
class PinholeView:
    """Where the camera looks from; shares of the image size, so it holds for every resolution."""

    horizontal_fov: float = math.radians(70.0)  # [rad]
    height: float = 1.5  # [m] above the ground
    pitch: float = 0.0  # [rad], downward positive
    forward: float = 0.0  # [m] from the rear axle to the camera
    left: float = 0.0  # [m] from the middle of the vehicle to the camera
    yaw: float = 0.0  # [rad], left positive
    centre: tuple[float, float] = (0.5, 0.5)  # of the lens, shares of width and height


@dataclass(frozen=True)
class Overlay:
    """What is drawn besides the image."""

    answer: ActionAnswer | None = None
    scene: SceneAnswer | None = None
    ego: EgoState | None = None
    title: str = ""  # for example the model and its latency
    note: str = ""  # shown in place of the answer where there is none


def draw_overlay(
    image: np.ndarray, overlay: Overlay, view: PinholeView | None = None, vehicle: VehicleParameters | None = None
) -> np.ndarray:
    """Return a drawn copy of an image (H, W, 3) uint8 RGB; without a view no path is drawn."""
    canvas = _enlarged(image)
    scale = max(canvas.shape[0] / DESIGN_HEIGHT, MIN_SCALE)
    vehicle = vehicle or VehicleParameters()
    answer = overlay.answer
    action = answer.action if answer is not None and answer.valid else None
    path = None if answer is None else path_of(answer, overlay.ego, vehicle)
    if path is not None and view is not None:
        edges = path_pixels(path, view, canvas.shape[1], canvas.shape[0], vehicle.width / 2)
        _draw_path(canvas, edges, float(path.acceleration[0]))
    _draw_texts(canvas, overlay, scale)
    if action is not None and answer is not None:
        _draw_bars(canvas, action, answer.generation.confidence, vehicle, scale)
    else:
        _draw_banner(canvas, overlay.note or _why(answer), scale)
    return canvas


def path_of(answer: ActionAnswer, ego: EgoState | None, vehicle: VehicleParameters) -> Trajectory | None:
    """Return what the vehicle would drive: the predicted trajectory; its action rolled out where there is nothing but that."""
    if not answer.valid:
        return None
    if answer.trajectory is not None:
        return answer.trajectory
    return None if answer.action is None or ego is None else roll_out(answer.action, max(ego.speed, 0.0), vehicle)


def path_pixels(
    trajectory: Trajectory, view: PinholeView, width: int, height: int, half_width: float = 0.9
) -> np.ndarray:
    """Project the left and right edge of a predicted path, `half_width` [m] beside it; (2, N, 2) float pixels, left first, nearest first."""
    edges: list[tuple[tuple[float, float], tuple[float, float]]] = []
    times = np.linspace(0.0, trajectory.duration, round(trajectory.duration / PATH_STEP_S) + 1)
    for _, x, y, heading, *_ in trajectory.sample(times).values.tolist():
        sides = tuple(
            project(
                x - side * half_width * math.sin(heading),
                y + side * half_width * math.cos(heading),
                view,
                width,
                height,
            )
            for side in (1.0, -1.0)
        )
        if sides[0] is not None and sides[1] is not None:
            edges.append((sides[0], sides[1]))
    return np.array(edges, np.float64).reshape(-1, 2, 2).transpose(1, 0, 2)  # (2, N, 2)


def project(x: float, y: float, view: PinholeView, width: int, height: int) -> tuple[float, float] | None:
    """Project a point of the ground (x forward, y left [m], base_link) to pixels; None behind or too near the camera."""
    focal = 0.5 * width / math.tan(0.5 * view.horizontal_fov)
    dx, dy = x - view.forward, y - view.left
    ahead = math.cos(view.yaw) * dx + math.sin(view.yaw) * dy
    left = math.cos(view.yaw) * dy - math.sin(view.yaw) * dx
    depth = ahead * math.cos(view.pitch) + view.height * math.sin(view.pitch)
    below = view.height * math.cos(view.pitch) - ahead * math.sin(view.pitch)
    if depth < MIN_DEPTH:
        return None
    return view.centre[0] * width - focal * left / depth, view.centre[1] * height + focal * below / depth


def _enlarged(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if width >= MIN_IMAGE_WIDTH:
        return image.copy()
    factor = MIN_IMAGE_WIDTH / width
    size = (MIN_IMAGE_WIDTH, max(round(height * factor), MIN_IMAGE_WIDTH // 2))
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)


def _draw_path(canvas: np.ndarray, edges: np.ndarray, acceleration: float) -> None:
    if edges.shape[1] < 2:
        return
    outline = np.concatenate([edges[0], edges[1][::-1]])
    outline = np.clip(outline, -4 * canvas.shape[1], 4 * canvas.shape[1])
    colour = RED if acceleration < -1.5 else AMBER if acceleration < -0.5 else GREEN
    corners = np.round(outline).astype(np.int32)
    x, y, w, h = cv2.boundingRect(corners)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + w, canvas.shape[1]), min(y + h, canvas.shape[0])
    if left >= right or top >= bottom:
        return
    region = canvas[top:bottom, left:right]
    filled = region.copy()
    cv2.fillPoly(filled, [corners - (left, top)], colour, cv2.LINE_AA)
    cv2.addWeighted(filled, 0.35, region, 0.65, 0.0, dst=region)
    for edge in edges:
        points = np.round(np.clip(edge, -4 * canvas.shape[1], 4 * canvas.shape[1])).astype(np.int32)
        cv2.polylines(canvas, [points], False, colour, 2, cv2.LINE_AA)


def _draw_texts(canvas: np.ndarray, overlay: Overlay, scale: float) -> None:
    lines: list[tuple[str, Colour]] = []
    if overlay.title:
        lines.append((overlay.title, GREY))
    if overlay.ego is not None:
        lines.append((f"speed {overlay.ego.speed:4.1f} m/s   yaw rate {overlay.ego.yaw_rate:+.2f} rad/s", GREY))
    if overlay.answer is not None and overlay.answer.valid:
        if overlay.answer.generation.reasoning:
            lines.append((_cut(overlay.answer.generation.reasoning), GREY))
        lines.append((_cut(overlay.answer.generation.text), WHITE))
    if overlay.scene is not None:
        colour = WHITE if overlay.scene.valid else AMBER
        lines.extend((part.strip(), colour) for part in overlay.scene.generation.text.split(";") if part.strip())
    step = round(30 * scale)
    limit = max(int(canvas.shape[0] * 0.6) // max(step, 1), 1)
    lines = [(line, colour) for text, colour in lines for line in _wrapped(text, canvas.shape[1], scale)][:limit]
    if not lines:
        return
    widest = max(cv2.getTextSize(text, FONT, 0.7 * scale, _thickness(scale))[0][0] for text, _ in lines)
    _shade(canvas, 0, 0, min(widest + round(28 * scale), canvas.shape[1]), round(14 * scale) + step * len(lines))
    for index, (text, colour) in enumerate(lines):
        _text(
            canvas, text, (round(14 * scale), round(6 * scale) + step * (index + 1) - round(6 * scale)), scale, colour
        )


def _cut(text: str) -> str:
    """Shorten a text that would hide the image, in the middle: how it begins and how it ends says most."""
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def _draw_bars(canvas: np.ndarray, action: Action, confidence: float, vehicle: VehicleParameters, scale: float) -> None:
    controls = controls_of(action.acceleration, action.steering_tire_angle, vehicle)
    height, width = canvas.shape[:2]
    row, margin = round(34 * scale), round(14 * scale)
    top = height - 3 * row - margin
    _shade(canvas, 0, top - margin, width, height)
    push = controls.throttle - controls.brake
    rows = (
        (f"accel {action.acceleration:+.1f} m/s2", push, GREEN if push >= 0 else RED, True),
        (f"steer {action.steering_tire_angle:+.2f} rad", -controls.steering, BLUE, True),
        (f"confidence {confidence:.2f}", confidence, GREEN if confidence >= 0.5 else AMBER, False),
    )
    for index, (label, value, colour, signed) in enumerate(rows):
        y = top + index * row
        _text(canvas, label, (margin, y + round(22 * scale)), scale, WHITE)
        _bar(
            canvas,
            (round(250 * scale), y + round(6 * scale)),
            (width - margin, y + round(26 * scale)),
            value,
            colour,
            signed,
        )


def _bar(
    canvas: np.ndarray, corner: tuple[int, int], opposite: tuple[int, int], value: float, colour: Colour, signed: bool
) -> None:
    (left, top), (right, bottom) = corner, opposite
    if right - left < 10:
        return
    cv2.rectangle(canvas, corner, opposite, GREY, 1, cv2.LINE_AA)
    zero = (left + right) // 2 if signed else left
    reach = (right - left) // 2 if signed else right - left
    end = zero + round(float(np.clip(value, -1.0, 1.0)) * reach)
    cv2.rectangle(canvas, (min(zero, end), top + 2), (max(zero, end), bottom - 2), colour, cv2.FILLED)
    if signed:
        cv2.line(canvas, (zero, top - 2), (zero, bottom + 2), WHITE, 1)


def _draw_banner(canvas: np.ndarray, reason: str, scale: float) -> None:
    lines = _wrapped(f"NO ACTION: {reason}", canvas.shape[1], scale)[:3]
    height, step, margin = canvas.shape[0], round(30 * scale), round(14 * scale)
    top = height - step * len(lines) - margin
    canvas[top:, :] = (0.35 * canvas[top:, :] + 0.65 * np.array((120, 20, 16))).astype(np.uint8)
    for index, line in enumerate(lines):
        _text(canvas, line, (margin, top + step * (index + 1) - round(6 * scale)), scale, WHITE)


def _why(answer: ActionAnswer | None) -> str:
    if answer is None:
        return "no answer yet"
    return answer.detail or answer.reason.name.lower().replace("_", " ")


def _shade(canvas: np.ndarray, left: int, top: int, right: int, bottom: int) -> None:
    region = canvas[max(top, 0) : bottom, left:right]
    if region.size:
        cv2.addWeighted(region, 0.4, np.full_like(region, DARK), 0.6, 0.0, dst=region)


def _wrapped(text: str, width: int, scale: float) -> list[str]:
    """Break a text at blanks so that every line fits the image."""
    clean = text.encode("ascii", "replace").decode().replace("\n", " ")
    character = cv2.getTextSize("0" * 10, FONT, 0.7 * scale, 1)[0][0] / 10.0
    room = max(int((width - 28 * scale) / character), 8)
    lines = [""]
    for word in clean.split(" "):
        for piece in (word[start : start + room] for start in range(0, max(len(word), 1), room)):
            if lines[-1] and len(lines[-1]) + 1 + len(piece) > room:
                lines.append(piece)
            else:
                lines[-1] = f"{lines[-1]} {piece}" if lines[-1] else piece
    return lines


def _text(canvas: np.ndarray, text: str, origin: tuple[int, int], scale: float, colour: Colour) -> None:
    cv2.putText(canvas, text, origin, FONT, 0.7 * scale, colour, _thickness(scale), cv2.LINE_AA)


def _thickness(scale: float) -> int:
    return 2 if scale > 0.9 else 1
