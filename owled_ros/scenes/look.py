"""How a drive looks: colours, light, lens and what stands beside the road, drawn once per drive. Needs numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]  # RGB


@dataclass(frozen=True)
class Building:
    """A box beside the road."""

    s: float  # [m] start
    length: float
    offset: float  # [m] of the facade, left positive
    height: float
    colour: Colour
    floors: int  # rows of windows, 0 for none


@dataclass(frozen=True)
class Tree:
    """A trunk with a crown."""

    s: float
    offset: float
    height: float
    radius: float
    colour: Colour


@dataclass(frozen=True)
class Look:
    """Colours and lens of one drive."""

    sky_top: Colour
    sky_low: Colour
    ground: Colour
    asphalt: Colour
    sidewalk: Colour
    paint: Colour
    hills: Colour | None
    hill_seed: int
    dash_phase: float  # [m]
    gain: tuple[float, float, float]  # per channel
    gamma: float
    noise: float  # standard deviation of the sensor noise at 192 by 192 pixels
    blur: float  # [px] at 192 by 192 pixels
    pitch: float  # [rad], error of the mount


def draw_look(rng: np.random.Generator) -> Look:
    """Draw the appearance of a drive."""
    grey = rng.uniform(55, 125)
    bright = rng.uniform(0.62, 1.12)
    tint = rng.normal(1.0, 0.035, 3)
    sky = np.array([rng.uniform(110, 215), rng.uniform(140, 220), rng.uniform(165, 250)])
    if rng.random() < 0.3:  # overcast
        sky = np.full(3, rng.uniform(140, 225)) + rng.normal(0, 5, 3)
    low = np.minimum(sky * rng.uniform(1.0, 1.2) + rng.uniform(0, 25), 252)
    if rng.random() < 0.15:  # low sun
        low = np.array([rng.uniform(225, 252), rng.uniform(180, 220), rng.uniform(140, 190)])
    green = rng.uniform(0, 1)
    ground = (1 - green) * np.array([125, 112, 90]) * rng.uniform(0.7, 1.3) + green * np.array(
        [72, 118, 58]
    ) * rng.uniform(0.7, 1.3)
    walk = min(grey * rng.uniform(1.25, 1.7) + 15, 205)
    return Look(
        sky_top=colour(sky),
        sky_low=colour(low),
        ground=colour(ground),
        asphalt=colour(np.full(3, grey) + rng.normal(0, 4, 3)),
        sidewalk=colour(np.full(3, walk) + rng.normal(0, 6, 3)),
        paint=colour(np.full(3, rng.uniform(205, 252))),
        hills=colour(low * rng.uniform(0.55, 0.9)) if rng.random() < 0.6 else None,
        hill_seed=int(rng.integers(1 << 30)),
        dash_phase=float(rng.uniform(0, 9)),
        gain=(float(bright * tint[0]), float(bright * tint[1]), float(bright * tint[2])),
        gamma=float(rng.uniform(0.88, 1.15)),
        noise=float(rng.uniform(0.5, 6.0)),
        blur=float(max(rng.uniform(-0.6, 0.55), 0.0)),
        pitch=float(rng.uniform(-0.014, 0.014)),
    )


def draw_scenery(
    rng: np.random.Generator, length: float, gaps: tuple[tuple[float, float], ...]
) -> tuple[Building | Tree, ...]:
    """Draw houses and trees on both sides of `length` metres of road, none inside `gaps` (crossing streets)."""
    items: list[Building | Tree] = []
    built, planted = rng.uniform(0.1, 0.95), rng.uniform(0.1, 0.9)
    for side in (-1.0, 1.0):
        place = rng.uniform(-10, 5)
        while place < length:
            span = rng.uniform(9, 26)
            free = all(place + span < start or place > end for start, end in gaps)
            if free and rng.random() < built:
                offset = side * rng.uniform(9.0, 16.0)
                items.append(
                    Building(
                        place,
                        span,
                        offset,
                        rng.uniform(3.5, 14),
                        colour(rng.uniform(70, 215, 3)),
                        int(rng.integers(0, 4)),
                    )
                )
            if free and rng.random() < planted:
                where = place + rng.uniform(0, span)
                tone = np.array([rng.uniform(30, 110), rng.uniform(75, 150), rng.uniform(25, 80)])
                items.append(
                    Tree(
                        where, side * rng.uniform(7.9, 9.5), rng.uniform(2.6, 4.5), rng.uniform(1.0, 2.2), colour(tone)
                    )
                )
            place += span + rng.uniform(0, 8)
    return tuple(items)


def colour(values: np.ndarray) -> Colour:
    """Round three numbers to a colour."""
    red, green, blue = (int(value) for value in np.clip(np.round(values), 0, 255))
    return red, green, blue
