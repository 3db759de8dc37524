"""Images a driving model must not trust: noise, textures, broken and turned scenes. Needs numpy and cv2.

The model learns to decline them, so that its confidence falls on what it never saw. Every kind is drawn with its own
random parameters; several are made to resemble photographs in their spectrum (power falls as 1/f^2, Field 1987), because
a real camera is what a model of rendered roads will meet first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from owled_ros.scenes.camera import Camera
from owled_ros.scenes.render import render
from owled_ros.scenes.sample import sample_stage

Size = tuple[int, int]  # width, height [px]
Maker = Callable[[np.random.Generator, Size], np.ndarray]


def out_of_distribution_image(seed: int, size: int | Size, kind: str | None = None) -> np.ndarray:
    """Draw an image (H, W, 3) uint8 RGB of one of KINDS, of `kind` when given; `size` is (width, height) or one side."""
    rng = np.random.default_rng([seed, 0x0D])
    shape = (size, size) if isinstance(size, int) else size
    names = list(KINDS)
    weights = np.array([WEIGHTS.get(name, 1.0) for name in names])
    chosen = kind or names[int(rng.choice(len(names), p=weights / weights.sum()))]
    image = KINDS[chosen](rng, shape)
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))


def spectral_noise(rng: np.random.Generator, size: Size, exponent: float, stretch: float = 1.0) -> np.ndarray:
    """Return noise (H, W) with amplitude falling as 1/f^exponent, zero mean, unit deviation; `stretch` widens it."""
    width, height = size
    across = np.fft.rfftfreq(width)[None, :] * width * stretch
    down = np.fft.fftfreq(height)[:, None] * height
    radius = np.maximum(np.hypot(across, down), 1.0)
    wave = rng.standard_normal(radius.shape) + 1j * rng.standard_normal(radius.shape)
    noise = np.fft.irfft2(wave / radius**exponent, s=(height, width))
    return (noise - noise.mean()) / max(float(noise.std()), 1e-9)


def _constant(rng: np.random.Generator, size: Size) -> np.ndarray:
    level = rng.choice([0.0, 255.0, 128.0]) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    return np.zeros((size[1], size[0], 3)) + level + rng.normal(0, rng.uniform(0, 4), (size[1], size[0], 3))


def _white_noise(rng: np.random.Generator, size: Size) -> np.ndarray:
    channels = int(rng.choice([1, 3]))
    noise = rng.standard_normal((size[1], size[0], channels)) * rng.uniform(15, 90) + rng.uniform(60, 190)
    return np.repeat(noise, 3 // channels, axis=2)


def _coloured_noise(rng: np.random.Generator, size: Size) -> np.ndarray:
    exponent = rng.uniform(0.4, 2.2)
    return _toned(rng, spectral_noise(rng, size, exponent), spectral_noise(rng, size, exponent))


def _gradient(rng: np.random.Generator, size: Size) -> np.ndarray:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (x / size[0]) * math.cos(angle) + (y / size[1]) * math.sin(angle)
    if rng.random() < 0.4:
        ramp = np.hypot(x / size[0] - rng.uniform(0, 1), y / size[1] - rng.uniform(0, 1))
    share = ((ramp - ramp.min()) / np.ptp(ramp))[..., None]
    return (1 - share) * rng.uniform(0, 255, 3) + share * rng.uniform(0, 255, 3)


def _polygons(rng: np.random.Generator, size: Size) -> np.ndarray:
    image = np.full((size[1], size[0], 3), rng.integers(0, 255, 3), np.uint8)
    for _ in range(int(rng.integers(5, 60))):
        centre = rng.uniform(0, 1, 2)
        corners = (centre + rng.normal(0, rng.uniform(0.03, 0.3), (int(rng.integers(3, 8)), 2))) * size
        cv2.fillPoly(image, [corners.astype(np.int32)], rng.integers(0, 255, 3).tolist(), cv2.LINE_AA)
    return image


def _stripes(rng: np.random.Generator, size: Size) -> np.ndarray:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    angle, period = rng.uniform(0, math.pi), rng.uniform(4, 60) * size[0] / 192
    wave = np.sin(2 * math.pi / period * (x * math.cos(angle) + y * math.sin(angle)))
    if rng.random() < 0.4:
        wave = wave * np.sin(2 * math.pi / period * (y * math.cos(angle) - x * math.sin(angle)))
    share = ((np.sign(wave) if rng.random() < 0.5 else wave) * 0.5 + 0.5)[..., None]
    return (1 - share) * rng.uniform(0, 255, 3) + share * rng.uniform(0, 255, 3)


def _cells(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Voronoi cells with shading: stones, leaves, crowds."""
    seeds = rng.uniform(0, 1, (int(rng.integers(12, 140)), 2)) * size
    y, x = np.mgrid[0 : size[1] : 2, 0 : size[0] : 2]
    distance = (x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2
    nearest = distance.argmin(axis=-1)
    shade = np.sqrt(distance.min(axis=-1))
    base = rng.uniform(30, 220, 3) + rng.normal(0, rng.uniform(8, 50), (len(seeds), 3))
    image = base[nearest] * (1.1 - 0.5 * shade / max(shade.max(), 1))[..., None]
    return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)


def _texture(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Several textures in regions with ragged borders, shaded by soft light: what photographs look like from afar."""
    region = spectral_noise(rng, size, rng.uniform(1.4, 2.2), float(rng.uniform(0.4, 2.5)))
    levels = np.sort(rng.normal(0, 0.9, int(rng.integers(1, 5))))
    image = np.zeros((size[1], size[0], 3))
    for index in range(len(levels) + 1):
        inside = np.searchsorted(levels, region) == index
        fine = spectral_noise(rng, size, rng.uniform(0.5, 1.6), float(rng.uniform(0.3, 3.0)))
        image[inside] = (_natural(rng) + rng.uniform(4, 40) * fine[..., None])[inside]
    light = 1.0 + 0.2 * spectral_noise(rng, size, 2.0)
    return image * light[..., None]


def _landscape(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Clouds over a ragged skyline of foliage over grainy ground, without a street."""
    width, height = size
    horizon = rng.uniform(0.25, 0.75) * height
    ragged = spectral_noise(rng, (width, 2), rng.uniform(0.8, 1.4))[0]
    skyline = horizon - np.abs(rng.uniform(0.02, 0.15) * height * (1.0 + ragged))
    rows = np.arange(height)[:, None]
    clouds = _toned(
        rng, spectral_noise(rng, size, rng.uniform(1.3, 2.0), 0.5), None, _natural(rng, 120, 245), rng.uniform(3, 30)
    )
    leaves = _toned(
        rng, spectral_noise(rng, size, rng.uniform(0.4, 1.1)), None, _natural(rng, 15, 120), rng.uniform(10, 40)
    )
    depth = np.clip((rows - horizon) / max(height - horizon, 1), 0.02, 1)
    soil = _toned(
        rng, spectral_noise(rng, size, rng.uniform(0.6, 1.4), 0.4), None, _natural(rng, 40, 180), rng.uniform(5, 30)
    )
    image = np.where((rows < skyline)[..., None], clouds, leaves)
    return np.where((rows > horizon)[..., None], soil * (0.7 + 0.4 * depth)[..., None], image)


def _road_like(rng: np.random.Generator, size: Size) -> np.ndarray:
    """A landscape with lines that run to a vanishing point, everything grainy, blurred and lit unevenly."""
    image = _landscape(rng, size)
    width, height = size
    vanishing = np.array([rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.65) * height])
    surface = np.zeros((height, width), np.uint8)
    low, high = sorted(rng.uniform(-0.6, 1.6, 2) * width)
    corners = np.array([vanishing, [high + 0.3 * width, height], [low - 0.3 * width, height]])
    cv2.fillPoly(surface, [corners.astype(np.int32)], 255)
    grain = _toned(
        rng, spectral_noise(rng, size, rng.uniform(0.5, 1.5), 0.4), None, np.full(3, rng.uniform(50, 170)), 18
    )
    share = (
        cv2.GaussianBlur(surface, (0, 0), float(rng.uniform(0.8, 4)) * width / 192).astype(np.float32)[..., None] / 255
    )
    image = image * (1 - share) + grain * share
    lines = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 6))):
        foot = np.array([rng.uniform(-0.5, 1.5) * width, height])
        start = vanishing + rng.uniform(0.05, 0.4) * (foot - vanishing)
        cv2.line(lines, start.astype(int).tolist(), foot.astype(int).tolist(), int(rng.integers(60, 255)),
                 max(1, round(rng.uniform(0.5, 4) * width / 192)), cv2.LINE_AA)  # fmt: skip
    glow = (lines.astype(np.float32) / 255)[..., None] * (0.6 + 0.4 * spectral_noise(rng, size, 0.8)[..., None])
    image = image * (1 - np.clip(glow, 0, 1)) + rng.uniform(140, 255) * np.clip(glow, 0, 1)
    for _ in range(int(rng.integers(0, 5))):  # things that stand there
        centre = np.array([rng.uniform(0, 1) * width, vanishing[1] + rng.uniform(0, 0.2) * height])
        extent = np.abs(rng.normal(0.02, 0.08, 2)) * size + 2
        low_u, low_v = (int(value) for value in np.maximum(centre - extent, 0))
        patch = image[low_v : int(centre[1] + extent[1]), low_u : int(centre[0] + extent[0])]
        patch[:] = 0.15 * patch + 0.85 * _natural(rng) * (0.6 + 0.6 * rng.random(patch.shape[:2])[..., None])
    image = image * (1.0 + 0.15 * spectral_noise(rng, size, 2.0)[..., None])
    return _blurred(image, rng.uniform(0.0, 2.5) * width / 192)


def _clutter(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Textured boxes and blobs over a texture: rooms, car parks, shelves."""
    image = _toned(
        rng, spectral_noise(rng, size, rng.uniform(0.8, 1.8)), None, _natural(rng, 40, 210), rng.uniform(5, 30)
    )
    for _ in range(int(rng.integers(4, 25))):
        mask = np.zeros((size[1], size[0]), np.uint8)
        centre, extent = rng.uniform(0, 1, 2) * size, rng.uniform(0.04, 0.3, 2) * size
        box = (tuple(centre.tolist()), tuple(extent.tolist()), float(rng.normal(0, 12)))
        if rng.random() < 0.6:
            cv2.fillPoly(mask, [cv2.boxPoints(box).astype(np.int32)], 255, cv2.LINE_AA)
        else:
            cv2.ellipse(mask, box, 255, -1, cv2.LINE_AA)
        fill = _toned(
            rng, spectral_noise(rng, size, rng.uniform(0.5, 1.8)), None, _natural(rng, 15, 240), rng.uniform(3, 30)
        )
        share = (mask.astype(np.float32) / 255)[..., None]
        image = image * (1 - share) + fill * share
    return image


def _scrambled(rng: np.random.Generator, size: Size) -> np.ndarray:
    scene, tiles = _scene(rng, size), int(rng.integers(3, 13))
    rows, columns = np.array_split(np.arange(size[1]), tiles), np.array_split(np.arange(size[0]), tiles)
    low, across = min(len(row) for row in rows), min(len(column) for column in columns)
    order = rng.permutation(tiles * tiles)
    pieces = [scene[r[0] : r[0] + low, c[0] : c[0] + across] for r in rows for c in columns]
    lines = [np.concatenate([pieces[order[i * tiles + j]] for j in range(tiles)], axis=1) for i in range(tiles)]
    return cv2.resize(np.concatenate(lines), size, interpolation=cv2.INTER_NEAREST)


def _upside_down(rng: np.random.Generator, size: Size) -> np.ndarray:
    return _scene(rng, size)[::-1, :: int(rng.choice([-1, 1]))]


def _on_its_side(rng: np.random.Generator, size: Size) -> np.ndarray:
    turned = np.rot90(_scene(rng, (size[1], size[0])), int(rng.choice([1, 3])))
    return cv2.resize(np.ascontiguousarray(turned), size)


def _mirrored_sky(rng: np.random.Generator, size: Size) -> np.ndarray:
    scene = _scene(rng, size)
    half = size[1] // 2
    return (
        np.concatenate([scene[half:][::-1], scene[half:]])[: size[1]]
        if rng.random() < 0.5
        else np.concatenate([scene[:half], scene[:half][::-1], scene[:2]])[: size[1]]
    )


def _negative(rng: np.random.Generator, size: Size) -> np.ndarray:
    return 255.0 - _scene(rng, size)


def _covered(rng: np.random.Generator, size: Size) -> np.ndarray:
    """A scene behind mud, leaves or black over more than 60 % of the image."""
    scene = _scene(rng, size).astype(np.float64)
    blobs = spectral_noise(rng, size, rng.uniform(1.2, 2.2))
    covered = blobs > np.quantile(blobs, rng.uniform(0.05, 0.38))
    tone = rng.uniform(0, 90, 3) * rng.choice([0.0, 1.0, 1.5])
    mud = _toned(rng, spectral_noise(rng, size, rng.uniform(0.6, 1.6)), None, tone, rng.uniform(2, 25))
    share = _blurred(covered.astype(np.float64)[..., None].repeat(3, 2), rng.uniform(0.3, 3) * size[0] / 192)
    return scene * (1 - share) + mud * share


def _badly_exposed(rng: np.random.Generator, size: Size) -> np.ndarray:
    scene = _scene(rng, size).astype(np.float64)
    if rng.random() < 0.5:
        return scene * rng.uniform(0.0, 0.08) + rng.normal(0, 6, scene.shape)
    return scene * rng.uniform(0.02, 0.25) + rng.uniform(205, 250)


def _out_of_focus(rng: np.random.Generator, size: Size) -> np.ndarray:
    return _blurred(_scene(rng, size).astype(np.float64), rng.uniform(11, 30) * size[0] / 192)


def _retextured(rng: np.random.Generator, size: Size) -> np.ndarray:
    """A scene's layout drowned in the textures of photographs: the grain is stronger than the scene."""
    scene = _blurred(_scene(rng, size).astype(np.float64), rng.uniform(2, 7) * size[0] / 192)
    share = rng.uniform(0.55, 0.85)
    return scene * (1 - share) + _texture(rng, size) * share


def _scene(rng: np.random.Generator, size: Size) -> np.ndarray:
    view = render(sample_stage(rng), Camera().resized(*size), rng)
    assert view.image is not None
    return view.image


def _natural(rng: np.random.Generator, low: float = 20.0, high: float = 225.0) -> np.ndarray:
    """Draw a colour as photographs have them: mostly muted, now and then a strong one."""
    spread = rng.choice([4.0, 14.0, 45.0], p=[0.45, 0.4, 0.15])
    return np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 0, 255)


def _toned(
    rng: np.random.Generator,
    noise: np.ndarray,
    second: np.ndarray | None,
    base: np.ndarray | None = None,
    contrast: float = 0.0,
) -> np.ndarray:
    """Colour noise (H, W): one tone with a weak tint, or two that mix."""
    centre = rng.uniform(60, 190, 3) if base is None else np.asarray(base)
    strength = contrast or rng.uniform(12, 65)
    direction = np.ones(3) + rng.normal(0, 0.15, 3)
    image = centre + noise[..., None] * direction * strength
    if second is not None:
        image = image + second[..., None] * rng.normal(0, 0.6, 3) * strength
    return image


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), float(sigma)) if sigma > 0.1 else image


KINDS: dict[str, Maker] = {
    "constant": _constant,
    "white noise": _white_noise,
    "coloured noise": _coloured_noise,
    "gradient": _gradient,
    "polygons": _polygons,
    "stripes": _stripes,
    "cells": _cells,
    "texture": _texture,
    "landscape": _landscape,
    "road-like": _road_like,
    "clutter": _clutter,
    "scrambled": _scrambled,
    "upside down": _upside_down,
    "on its side": _on_its_side,
    "mirrored": _mirrored_sky,
    "negative": _negative,
    "covered": _covered,
    "badly exposed": _badly_exposed,
    "out of focus": _out_of_focus,
    "retextured": _retextured,
}
WEIGHTS = {"texture": 2.0, "landscape": 2.0, "road-like": 3.5, "clutter": 1.5, "retextured": 2.0}
