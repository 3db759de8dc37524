"""Points to pixels, worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from owled_ros.scenes.camera import NEAR, Camera
from owled_ros.scenes.paint import Sketch, alone, label, outline, paint

LEVEL = replace(Camera(), pitch=0.0)


def test_a_point_lands_where_the_pinhole_says() -> None:
    # f = 640 / tan 35 deg = 914.0; 10 m ahead, 1 m left, on the road: u = 640 - 914 / 10, v = 360 + 914 * 1.5 / 10
    u, v = LEVEL.project(np.array([[10.0, 1.0, 0.0]]))[0]
    assert u == pytest.approx(640 - 91.40, abs=0.01)
    assert v == pytest.approx(360 + 137.10, abs=0.01)


def test_looking_down_lifts_the_horizon() -> None:
    down = replace(LEVEL, pitch=0.1)
    # a point at the camera's height, infinitely far, appears tan(0.1) focal lengths above the centre
    v = down.project(np.array([[1e6, 0.0, 1.5]]))[0, 1]
    assert v == pytest.approx(360 - LEVEL.fy * math.tan(0.1), abs=0.01)
    assert down.horizon == pytest.approx(v, abs=0.01)


def test_resizing_scales_both_axes_apart() -> None:
    point = np.array([[7.0, -2.0, 0.4]])
    u, v = Camera().project(point)[0]
    small_u, small_v = Camera().resized(192, 96).project(point)[0]
    assert small_u == pytest.approx(u * 192 / 1280)
    assert small_v == pytest.approx(v * 96 / 720)


def test_a_face_through_the_camera_is_cut_at_the_near_plane() -> None:
    sketch = Sketch()
    sketch.add(np.array([[-5.0, -1.0, 0.0], [5.0, -1.0, 0.0], [5.0, 1.0, 0.0], [-5.0, 1.0, 0.0]]), (9, 9, 9), 1)
    flat = outline(sketch, LEVEL).flat
    assert np.isfinite(flat).all()
    # the cut is at depth NEAR: v = cy + fy * 1.5 / NEAR, in image heights
    assert flat[:, 1].max() == pytest.approx((360 + LEVEL.fy * 1.5 / NEAR) / 720)


def test_a_face_behind_the_camera_is_not_drawn() -> None:
    sketch = Sketch()
    sketch.add(np.array([[-5.0, -1.0, 0.0], [-3.0, -1.0, 0.0], [-3.0, 1.0, 0.0]]), (255, 255, 255), 1)
    image = np.zeros((32, 32, 3), np.uint8)
    paint(outline(sketch, LEVEL), image)
    assert not image.any()


def test_later_faces_hide_earlier_ones_in_the_labels() -> None:
    wall = np.array([[10.0, -1.0, 0.5], [10.0, 1.0, 0.5], [10.0, 1.0, 2.5], [10.0, -1.0, 2.5]])
    sketch = Sketch()
    sketch.add(wall, (9, 9, 9), 1)
    sketch.add(wall * (0.5, 0.25, 1.0), (9, 9, 9), 2)  # nearer and half as wide in the image
    outlines = outline(sketch, LEVEL)
    labels = np.zeros((192, 192), np.uint8)
    label(outlines, labels)
    free, inside = alone(outlines, 1, 192)
    assert inside == 1.0
    assert (labels == 1).sum() < free
    assert alone(outlines, 2, 192)[0] == (labels == 2).sum()


def test_alone_tells_which_part_is_in_the_image() -> None:
    # 10 m ahead the image ends at 7.0 m to the left: a wall from 6 m to 8 m is half inside
    sketch = Sketch()
    sketch.add(np.array([[10.0, 6.0, 1.0], [10.0, 8.0, 1.0], [10.0, 8.0, 2.0], [10.0, 6.0, 2.0]]), (9, 9, 9), 1)
    assert alone(outline(sketch, LEVEL), 1, 192)[1] == pytest.approx(0.5, abs=0.01)
