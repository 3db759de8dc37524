"""Paths of one frame from above as a small SVG: the path that was driven, what models and trivial answers would have driven.

Needs evaluation.displacement. Forward is up, left is left; a circle marks every full second; numbers only, no foreign text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from owled_ros.driving.rollout import HORIZON_S
from owled_ros.driving.vehicle import VehicleParameters, steering_of_yaw_rate
from owled_ros.evaluation.displacement import rolled_out
from owled_ros.evaluation.record import Record, Row

WIDTH, HEIGHT = 310, 190  # [px]
MARGIN = 14  # [px]
LEAST_FORWARD, LEAST_SIDEWAYS = 8.0, 8.0  # [m] that are always shown
GRID_M = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
TRUTH, HOLD, STRAIGHT = "#111111", "#8a929b", "#b8860b"
VEHICLE_LENGTH, VEHICLE_WIDTH, REAR = 4.5, 1.8, 0.8  # [m], REAR of it behind the rear axle


@dataclass(frozen=True)
class Line:
    """One path: rows that begin with time [s], x, y [m]."""

    rows: tuple[Row, ...]
    colour: str
    width: float = 2.0
    dashes: str = ""


def lines_of(
    record: Record, others: Sequence[tuple[Record, str]], colour: str, vehicle: VehicleParameters
) -> list[Line]:
    """Return the paths of one frame, the trivial ones first: they are drawn below.

    Args:
        others: what other models answered to the same frame, with their colours.
    """
    hold = _held(record, vehicle)
    said = [path_of(record, vehicle), *(path_of(other, vehicle) for other, _ in others)]
    horizon = max((path[-1][0] for path in said if path), default=HORIZON_S)
    lines = [
        Line(hold, HOLD, 1.5, "4 3"),
        Line(rolled_out(record.speed, 0.0, 0.0, vehicle), STRAIGHT, 1.5, "1 3"),
    ]
    if record.truth.path is not None:
        driven = [row for row in record.truth.path if row[0] <= horizon + 1e-6]
        lines.append(Line(((0.0, 0.0, 0.0), *driven), TRUTH, 2.5))
    lines += [Line(path, tint, 1.8) for other, tint in others if (path := path_of(other, vehicle))]
    own = path_of(record, vehicle)
    return lines + ([Line(own, colour, 2.4)] if own else [])


def path_of(record: Record, vehicle: VehicleParameters) -> tuple[Row, ...] | None:
    """Return the path of a valid answer."""
    if record.trajectory is not None:
        return record.trajectory
    if record.acceleration is None or record.steering is None:
        return None
    return rolled_out(record.speed, record.acceleration, record.steering, vehicle)


def birds_eye(lines: Sequence[Line]) -> str:
    """Draw paths from above; one scale for both axes."""
    points = np.array([row[1:3] for line in lines for row in line.rows])
    far, near = max(float(points[:, 0].max()), LEAST_FORWARD), min(float(points[:, 0].min()), -REAR - 1.0)
    side = max(float(np.abs(points[:, 1]).max()), LEAST_SIDEWAYS / 2)
    scale = min((HEIGHT - 2 * MARGIN) / (far - near), (WIDTH - 2 * MARGIN) / (2 * side))  # [px/m]
    bottom = HEIGHT - MARGIN + near * scale  # of x = 0

    def at(x: float, y: float) -> tuple[float, float]:
        return WIDTH / 2 - y * scale, bottom - x * scale

    parts = [
        f'<svg class="above" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="paths from above">',
        *_grid(far, scale, bottom),
        _vehicle(scale, *at(0.0, 0.0)),
    ]
    for line in lines:
        pixels = [at(row[1], row[2]) for row in line.rows]
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        parts.append(
            f'<polyline points="{drawn}" fill="none" stroke="{line.colour}" stroke-width="{line.width}" '
            f'stroke-linejoin="round"{dashes}/>'
        )
        if not line.dashes:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{line.width + 0.6:.1f}" fill="{line.colour}"/>'
                for (x, y), row in zip(pixels, line.rows, strict=True)
                if row[0] > 0.0 and abs(row[0] - round(row[0])) < 1e-3
            ]
    return "".join([*parts, "</svg>"])


def _grid(far: float, scale: float, bottom: float) -> list[str]:
    step = next((size for size in GRID_M if size * scale >= 28.0), GRID_M[-1])
    parts = []
    for number in range(int(far / step) + 1):
        y = bottom - number * step * scale
        parts.append(f'<line x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6ea"/>')
        if number:
            parts.append(f'<text x="3" y="{y - 3:.1f}" font-size="10" fill="#5c6672">{number * step:g} m</text>')
    return parts


def _vehicle(scale: float, x: float, y: float) -> str:
    width, length = VEHICLE_WIDTH * scale, VEHICLE_LENGTH * scale
    top = y - (VEHICLE_LENGTH - REAR) * scale
    return f'<rect x="{x - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" height="{length:.1f}" rx="1.5" fill="#dfe3e8"/>'


def _held(record: Record, vehicle: VehicleParameters) -> tuple[Row, ...]:
    steering = steering_of_yaw_rate(record.yaw_rate, record.speed, vehicle.wheel_base)
    return rolled_out(record.speed, 0.0, steering, vehicle)
