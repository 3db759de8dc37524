"""The overlay: the projected path worked by hand, and images of every size drawn without touching the original."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from owled_ros.driving.answer import Action
from owled_ros.driving.frame import EgoState
from owled_ros.driving.overlay import Overlay, PinholeView, draw_overlay, path_of, path_pixels, project
from owled_ros.driving.prediction import Generation, Reason, judge_action, judge_scene
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters

VIEW = PinholeView(horizontal_fov=math.pi / 2, height=1.5, pitch=0.0, forward=0.0)
ANSWER = judge_action(Generation("follow, acceleration -1.2 m/s2, steering +0.03 rad", True, 0.87, 8, 0.0))
LONG = replace(ANSWER, generation=replace(ANSWER.generation, reasoning="the light is red and " * 500))
SCENE = judge_scene(Generation("1 car: lead 12 m; 0 pedestrians; traffic light red 22 m", True, 0.9, 8, 0.0))


def test_project_by_hand() -> None:
    # 90 degrees on 200 pixels: focal length 100. 10 m ahead, 2 m left, 1.5 m below: u = 100 - 20, v = 50 + 15
    assert project(10.0, 2.0, VIEW, 200, 100) == pytest.approx((80.0, 65.0))
    assert project(-3.0, 0.0, VIEW, 200, 100) is None
    # a camera that looks down moves the road up in the image
    down = PinholeView(math.pi / 2, 1.5, 0.1, 0.0)
    lowered = project(10.0, 0.0, down, 200, 100)
    assert lowered is not None
    assert lowered[1] < 65.0


def test_straight_path_is_symmetric_and_a_left_turn_goes_left() -> None:
    vehicle = VehicleParameters()
    straight = path_pixels(roll_out(Action(0.0, 0.0), 10.0, vehicle), VIEW, 200, 100)
    assert straight.shape[0] == 2
    assert straight[0, :, 0] + straight[1, :, 0] == pytest.approx(np.full(straight.shape[1], 200.0))
    # after 3 s at 10 m/s: 30 m ahead, the left edge 0.9 m left: 100 - 100 * 0.9 / 30 = 97
    assert straight[0, -1] == pytest.approx((97.0, 55.0))
    left = path_pixels(roll_out(Action(0.0, 0.1), 10.0, vehicle), VIEW, 200, 100)
    assert left[:, -1, 0].max() < 100.0
    assert path_pixels(roll_out(Action(0.0, 0.0), 0.0, vehicle), VIEW, 200, 100).shape == (2, 0, 2)


def test_the_path_is_the_trajectory_that_is_published_not_its_action_rolled_out() -> None:
    # two points, 20 m in 2 s: straight on, although the action says left
    straight = Trajectory(np.array([[0.0, 0, 0, 0, 10, 0, 0.05], [2.0, 20, 0, 0, 10, 0, 0.05]]))
    answer = replace(ANSWER, action=Action(0.0, 0.3), trajectory=straight)
    path = path_of(answer, EgoState(0, 10.0), VehicleParameters())
    assert path == straight
    pixels = path_pixels(straight, VIEW, 200, 100)
    # the last at 20 m: u = 100 -+ 100 * 0.9 / 20, v = 50 + 100 * 1.5 / 20
    assert pixels[:, -1].tolist() == [
        [pytest.approx(95.5), pytest.approx(57.5)],
        [pytest.approx(104.5), pytest.approx(57.5)],
    ]
    withheld = replace(answer, reason=Reason.LATE)
    assert path_of(withheld, EgoState(0, 10.0), VehicleParameters()) is None
    rolled = path_of(replace(answer, trajectory=None), EgoState(0, 10.0), VehicleParameters())
    assert rolled is not None
    assert rolled.y[-1] > 1.0


@pytest.mark.parametrize("size", [(1280, 720), (640, 360), (64, 48), (8, 8), (3, 400)])
@pytest.mark.parametrize(
    "answer", [ANSWER, LONG, None, judge_action(Generation("nonsense ü\n" * 40, True, 0.5, 8, 0.0))]
)
def test_draws_on_a_copy_of_any_size(size: tuple[int, int], answer: object) -> None:
    image = np.full((size[1], size[0], 3), 120, np.uint8)
    drawn = draw_overlay(image, Overlay(answer, SCENE, EgoState(0, 9.0), "title"), VIEW)  # type: ignore[arg-type]
    assert (image == 120).all()
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] >= min(size[0], 320)
    assert (drawn != 120).any()
    if size[0] >= 320:
        assert drawn.shape == image.shape


def test_a_withheld_action_draws_no_path() -> None:
    image = np.full((360, 640, 3), 120, np.uint8)
    middle = (slice(190, 280), slice(250, 390))  # where the path would be, above the bars
    shown = draw_overlay(image, Overlay(ANSWER, None, EgoState(0, 9.0)), VIEW)
    withheld = draw_overlay(image, Overlay(None, None, EgoState(0, 9.0), note="low confidence"), VIEW)
    assert (shown[middle] != 120).any()
    assert (withheld[middle] == 120).all()
    red = withheld[-4, 4].astype(int)
    assert red[0] > red[1] + 20
