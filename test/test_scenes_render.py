"""What can be seen on hand-made stages."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from owled_ros.driving.answer import Light, ObjectKind
from owled_ros.driving.vehicle import VehicleState
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.look import draw_look
from owled_ros.scenes.render import render
from owled_ros.scenes.road import STEP, Road
from owled_ros.scenes.stage import Car, Pedestrian, Stage, TrafficLight

CAMERA = Camera().resized(192, 192)
AHEAD = Camera().mount_forward  # the ego's rear axle is at s = 0


def straight(**actors: list) -> Stage:  # type: ignore[type-arg]
    s = np.arange(400) * STEP
    road = Road(s, np.zeros(400), np.zeros(400), np.zeros(400))
    look = replace(draw_look(np.random.default_rng(3)), pitch=0.0)
    return Stage(road, look, VehicleState(speed=8.0), 0.0, **actors)


def lead(distance: float, **values: float) -> Car:
    """A car whose rear is `distance` before the camera."""
    return Car(ObjectKind.LEAD, AHEAD + distance + 2.2, 0.0, length=4.4, **values)


def test_distances_are_measured_from_the_camera_to_the_near_end() -> None:
    stage = straight(
        cars=[lead(20.0), Car(ObjectKind.CROSS_TRAFFIC, AHEAD + 31.0, 8.0, math.pi / 2, width=2.0)],
        pedestrians=[Pedestrian(AHEAD + 12.0, -5.0)],
        lights=[TrafficLight(AHEAD + 20.0, Light.YELLOW)],
    )
    seen = render(stage, CAMERA, image=False).seen
    assert [(car.kind, round(car.distance, 6)) for car in seen.cars] == [
        (ObjectKind.LEAD, 20.0),
        (ObjectKind.CROSS_TRAFFIC, 30.0),  # it shows its side: half its width nearer than its centre
    ]
    assert [round(person.distance, 6) for person in seen.pedestrians] == [12.0]
    assert (seen.light, round(seen.light_distance or 0, 6)) == (Light.YELLOW, 26.0)  # the pole is 6 m behind the line


def test_a_van_hides_what_is_behind_it() -> None:
    hidden = [Pedestrian(AHEAD + 22.0, 0.0, crossing=True)]
    van = lead(10.0, height=2.6, width=2.0)
    assert render(straight(pedestrians=hidden), CAMERA, image=False).seen.pedestrians
    covered = render(straight(cars=[van], pedestrians=hidden), CAMERA, image=False)
    assert not covered.seen.pedestrians
    assert len(covered.seen.cars) == 1


def test_what_is_mostly_outside_the_image_is_not_reported() -> None:
    # 5 m ahead the image ends 3.5 m to the right
    assert render(straight(pedestrians=[Pedestrian(AHEAD + 5.0, -3.0)]), CAMERA, image=False).seen.pedestrians
    assert not render(straight(pedestrians=[Pedestrian(AHEAD + 5.0, -3.8)]), CAMERA, image=False).seen.pedestrians


@pytest.mark.parametrize(("distance", "reported"), [(49.0, True), (51.0, False), (-10.0, False)])
def test_cars_are_reported_up_to_50_m(distance: float, reported: bool) -> None:
    assert bool(render(straight(cars=[lead(distance)]), CAMERA, image=False).seen.cars) is reported


def test_ids_follow_the_order_of_the_scene() -> None:
    stage = straight(
        cars=[lead(30.0), Car(ObjectKind.ONCOMING, AHEAD + 14.0, 3.5, math.pi)],
        pedestrians=[Pedestrian(AHEAD + 15.0, -5.0)],
        lights=[TrafficLight(AHEAD + 24.0, Light.RED)],
    )
    view = render(stage, CAMERA, image=False)
    assert [car.kind for car in view.seen.cars] == [ObjectKind.ONCOMING, ObjectKind.LEAD]
    columns = [np.flatnonzero((view.ids == index).any(axis=0)).mean() for index in (1, 2, 3, 4)]
    oncoming, ahead, person, light = columns
    assert oncoming < ahead < light < person  # left to right in the image
    assert set(np.unique(view.ids)) == {0, 1, 2, 3, 4}


def test_the_lane_mask_is_the_lane_without_what_stands_on_it() -> None:
    free = render(straight(), CAMERA, image=False)
    blocked = render(straight(cars=[lead(6.0)]), CAMERA, image=False)
    assert blocked.road.sum() < free.road.sum()
    assert not (blocked.road & (blocked.ids > 0)).any()
    # at the bottom row the road is 1.5 / tan(21.5 + 1.15 deg) = 3.6 m away: half a lane is 1.75 * 137.1 / 3.6 = 67 px
    assert free.road[191].sum() == pytest.approx(2 * 67, abs=4)


@pytest.mark.parametrize("state", [Light.RED, Light.YELLOW, Light.GREEN])
def test_the_lit_lamp_has_its_colour(state: Light) -> None:
    view = render(straight(lights=[TrafficLight(AHEAD + 8.0, state)]), CAMERA)
    assert view.image is not None
    pixels = view.image[view.ids == 1].astype(int)
    red, green = pixels[pixels.max(axis=1).argmax()][:2]
    assert bool(red > 1.5 * green) is (state is Light.RED)  # yellow is made of both
    assert bool(green > 1.5 * red) is (state is Light.GREEN)


def test_brake_lights_are_brighter() -> None:
    def redness(braking: bool) -> float:
        view = render(straight(cars=[lead(8.0, braking=braking, colour=(90, 90, 90))]), CAMERA)
        assert view.image is not None
        pixels = view.image[view.ids == 1].astype(int)
        return float((pixels[:, 0] - pixels[:, 1]).max())

    assert redness(True) > 1.5 * redness(False)


def test_a_squashed_720p_image_equals_the_small_camera() -> None:
    stage = straight(
        cars=[lead(14.0, braking=True), Car(ObjectKind.ONCOMING, 30.0, 3.5, math.pi)],
        pedestrians=[Pedestrian(14.0, 1.0, crossing=True)],
        lights=[TrafficLight(25.0, Light.RED)],
    )
    large, small = render(stage, Camera()), render(stage, CAMERA)
    assert large.image is not None
    assert small.image is not None
    squashed = cv2.resize(large.image, (192, 192), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(squashed - small.image).mean() < 1.0
    assert (large.ids == small.ids).all()
    assert large.seen == small.seen


def test_sensor_noise_is_of_the_frame_and_everything_else_of_the_drive() -> None:
    stage = straight(cars=[lead(14.0)])
    first = render(stage, CAMERA, np.random.default_rng(1)).image
    again = render(stage, CAMERA, np.random.default_rng(1)).image
    other = render(stage, CAMERA, np.random.default_rng(2)).image
    assert first is not None
    assert again is not None
    assert other is not None
    assert (first == again).all()
    assert 0 < np.abs(first.astype(int) - other).mean() < 12
