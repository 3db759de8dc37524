"""Shrinking by halves and then linearly: as smooth as OpenCV's area-weighted resize, of which it is the fast form."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from owled_ros.driving.shrinking import shrunk


@pytest.mark.parametrize("budget", [400_000, 262_144, 163_840, 40_000, 3_000])
def test_the_result_is_near_the_area_weighted_one(budget: int) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8), (0, 0), 12)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    small = shrunk(image, budget)
    assert 0.97 * budget < small.shape[0] * small.shape[1] <= budget
    exact = cv2.resize(image, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - exact).mean() < 4.0


@pytest.mark.parametrize("budget", [230_400, 57_600, 100_000, 33_000])
def test_stripes_finer_than_a_pixel_become_grey(budget: int) -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    image[:, ::2] = 200
    small = shrunk(image, budget)
    # means of two neighbours: 100 everywhere
    assert (small == 100).all()


def test_odd_sides_lose_no_more_than_the_last_pixel() -> None:
    image = np.zeros((101, 201, 3), np.uint8)
    image[50:52, 100:102] = 255
    small = shrunk(image, 100 * 50)  # half of each side
    assert small.shape[:2] == (50, 99)
    assert small[25, 49].max() > 100
