"""Static transforms and calibrations become the view of a camera; what cannot be is refused with a reason."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.mounting import IDENTITY, Lens, Mounting, StaticFrames, lens_of, view_of
from owled_ros.driving.overlay import PinholeView, project
from owled_ros.errors import OwledError

OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # x forward, y left, z up -> z forward, x right, y down
FALLBACK = PinholeView(1.2, 1.5, 0.02, 1.6)


def about_y(angle: float) -> tuple[float, float, float, float]:
    return (0.0, math.sin(angle / 2), 0.0, math.cos(angle / 2))


def about_z(angle: float) -> tuple[float, float, float, float]:
    return (0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2))


def mounted(
    *turns: tuple[float, float, float, float], place: tuple[float, float, float] = (0.5, 0.0, 0.3)
) -> StaticFrames:
    """Mount a camera on a kit that is 1 m ahead of and 1.5 m above base_link."""
    frames = StaticFrames()
    frames.add("base_link", "kit", (1.0, 0.0, 1.5), IDENTITY)
    frames.add("kit", "camera_link", place, turns[0] if turns else IDENTITY)
    frames.add("camera_link", "camera_optical_link", (0.0, 0.0, 0.0), OPTICAL)
    return frames


def test_a_camera_that_looks_straight_ahead() -> None:
    found = mounted(place=(0.5, -0.2, 0.3)).mounting("camera_optical_link")
    assert (found.forward, found.left, found.height) == pytest.approx((1.5, -0.2, 1.8))
    assert (found.yaw, found.pitch) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_a_camera_that_is_tilted_and_turned() -> None:
    # turned about y by +0.1 rad its nose goes down; about z by +0.3 rad it looks to the left
    assert mounted(about_y(0.1)).mounting("camera_optical_link").pitch == pytest.approx(0.1)
    assert mounted(about_z(0.3)).mounting("/camera_optical_link").yaw == pytest.approx(0.3)


def test_transforms_are_chained_through_turned_frames() -> None:
    frames = StaticFrames()
    frames.add("base_link", "mast", (1.0, 0.0, 2.0), about_z(math.pi / 2))  # looks to the left
    frames.add("mast", "optical", (1.0, 0.0, 0.0), OPTICAL)  # 1 m along the mast's x, which is the vehicle's y
    found = frames.mounting("optical")
    assert (found.forward, found.left, found.height) == pytest.approx((1.0, 1.0, 2.0))
    assert found.yaw == pytest.approx(math.pi / 2)


@pytest.mark.parametrize(
    ("frames", "camera", "words"),
    [
        (StaticFrames(), "camera", "nothing has come"),
        (mounted(), "camera9", "it ends at camera9"),
        (mounted(place=(0.0, 0.0, -1.6)), "camera_optical_link", "-0.10 m above base_link"),
        (mounted(), "camera_link", "looks up by 90 degrees; expected an optical frame"),
        (mounted((math.sin(0.3), 0.0, 0.0, math.cos(0.3))), "camera_optical_link", "rolled"),
        (mounted((1.0, 0.0, 0.0, 0.0)), "camera_optical_link", "rolled"),  # upside down
    ],
)
def test_what_is_no_mounting_is_said(frames: StaticFrames, camera: str, words: str) -> None:
    with pytest.raises(OwledError, match=words):
        frames.mounting(camera)


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0, 0.0), (0.0, 0.0, math.nan, 1.0), (0.0, 0.0, 0.0, 2.0)])
def test_transforms_that_cannot_be_are_refused(turn: tuple[float, float, float, float]) -> None:
    with pytest.raises(OwledError, match="cannot be"):
        StaticFrames().add("a", "b", (0.0, 0.0, 0.0), turn)


def test_transforms_in_a_circle_end() -> None:
    frames = StaticFrames()
    frames.add("a", "b", (0.0, 0.0, 0.0), IDENTITY)
    frames.add("b", "a", (0.0, 0.0, 0.0), IDENTITY)
    with pytest.raises(OwledError, match="in a circle"):
        frames.mounting("b")


def test_a_lens_is_read_in_shares_of_the_image() -> None:
    # fx 500 px of 1000 px: half the width is as far as it is wide, 45 degrees to each side
    lens = lens_of(1000, 600, (500.0, 0.0, 510.0, 0.0, 500.0, 290.0, 0.0, 0.0, 1.0))
    assert lens.horizontal_fov == pytest.approx(math.pi / 2)
    assert lens.centre == pytest.approx((0.51, 290 / 600))


@pytest.mark.parametrize(
    ("size", "matrix", "words"),
    [
        ((640, 480), (0.0,) * 9, "not calibrated"),
        ((0, 0), (500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0), "not calibrated"),
        ((640, 480), (math.nan,) * 9, "not calibrated"),
        ((640, 480), (500.0, 0.0, 900.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0), "cannot be"),
        ((640, 480), (1e9, 0.0, 320.0, 0.0, 1e9, 240.0, 0.0, 0.0, 1.0), "cannot be"),
    ],
)
def test_a_calibration_that_is_none_is_said(size: tuple[int, int], matrix: tuple[float, ...], words: str) -> None:
    with pytest.raises(OwledError, match=words):
        lens_of(*size, matrix)


def test_what_is_given_counts_then_what_is_measured_then_what_is_shipped() -> None:
    lens, mounting = Lens(1.5, (0.4, 0.5)), Mounting(2.0, 0.1, 1.8, 0.2, 0.05)
    assert view_of(FALLBACK, {}, None, None) == FALLBACK
    assert view_of(FALLBACK, {}, lens, mounting) == PinholeView(1.5, 1.8, 0.05, 2.0, 0.1, 0.2, (0.4, 0.5))
    given = {"horizontal_fov": 1.0, "height": 1.4}
    assert view_of(FALLBACK, given, lens, mounting) == PinholeView(1.0, 1.4, 0.05, 2.0, 0.1, 0.2)


def test_a_camera_that_looks_aside_sees_what_is_aside_in_its_middle() -> None:
    view = replace(FALLBACK, pitch=0.0, forward=0.0, left=0.5, yaw=math.pi / 4, centre=(0.5, 0.5))
    seen = project(10.0, 10.5, view, 1000, 500)  # 45 degrees to the left of where the camera is
    assert seen is not None
    assert seen[0] == pytest.approx(500.0)
    assert project(10.0, -10.5, replace(view, yaw=math.pi / 2), 1000, 500) is None, "behind it"


@given(st.floats(-0.6, 0.6), st.floats(-3.0, 3.0))
def test_pitch_and_yaw_are_those_that_were_mounted(pitch: float, yaw: float) -> None:
    frames = StaticFrames()
    frames.add("base_link", "turned", (0.0, 0.0, 1.0), about_z(yaw))
    frames.add("turned", "tilted", (0.0, 0.0, 0.5), about_y(pitch))
    frames.add("tilted", "optical", (0.0, 0.0, 0.0), OPTICAL)
    found = frames.mounting("optical")
    assert (found.pitch, found.yaw, found.height) == pytest.approx((pitch, yaw, 1.5), abs=1e-9)
