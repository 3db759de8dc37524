"""The expert's decisions, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from owled_ros.driving.answer import Light, Manoeuvre, ObjectKind
from owled_ros.driving.vehicle import VehicleState
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.expert import constant_speed_action, expert_action
from owled_ros.scenes.look import draw_look
from owled_ros.scenes.render import render
from owled_ros.scenes.road import STEP, Road
from owled_ros.scenes.stage import Car, Pedestrian, Seen, SeenObject, Stage, TrafficLight, ego_front

CAMERA = Camera().resized(192, 192)


def bend(curvature: float, speed: float, offset: float = 0.0, turn: float = 0.0) -> Stage:
    s = np.arange(400) * STEP
    heading = s * curvature
    x = s if curvature == 0 else np.sin(heading) / curvature
    y = np.zeros(400) if curvature == 0 else (1 - np.cos(heading)) / curvature
    road = Road(x, y, heading, np.full(400, curvature))
    return Stage(road, draw_look(np.random.default_rng(0)), VehicleState(y=offset, heading=turn, speed=speed), 0.0)


def test_free_road() -> None:
    # 1.8 * (1 - (10 / 12.5)^4) = 1.8 * 0.5904
    action = expert_action(bend(0.0, 10.0), Seen())
    assert action.acceleration == pytest.approx(1.0627, abs=1e-4)
    assert action.manoeuvre is Manoeuvre.CRUISE
    assert action.steering_tire_angle == 0.0


def test_a_bend_slows_down() -> None:
    # sqrt(2.2 / 0.03) = 8.56 m/s; at 12 m/s: 1.8 * -min((12 - 8.56) / 2, 1.6) = 1.8 * -1.6
    assert expert_action(bend(0.03, 12.0), Seen()).acceleration == pytest.approx(-2.88, abs=0.01)


def test_red_light_stops() -> None:
    # pole 26 m from the camera: line 20 m, bumper 17.9 m before it; IDM would ask for -7.8, the stop needs
    # 100 / (2 * (17.9 - 0.48)) = 2.870; -0.8 - 1.25 * 2.870 = -4.388
    action = expert_action(bend(0.0, 10.0), Seen(light=Light.RED, light_distance=26.0))
    assert action.acceleration == pytest.approx(-4.388, abs=0.002)
    assert action.manoeuvre is Manoeuvre.STOP


def test_yellow_light_stops_only_who_can() -> None:
    # 100 / (2 * 17.9) = 2.8 m/s2 is below the limit of 3.2; 100 / (2 * 11.9) = 4.2 is not
    stage = bend(0.0, 10.0)
    assert expert_action(stage, Seen(light=Light.YELLOW, light_distance=26.0)).manoeuvre is Manoeuvre.STOP
    assert expert_action(stage, Seen(light=Light.YELLOW, light_distance=20.0)).manoeuvre is Manoeuvre.CRUISE
    assert expert_action(stage, Seen(light=Light.GREEN, light_distance=26.0)).manoeuvre is Manoeuvre.CRUISE


def test_a_lead_is_followed_and_its_brake_lights_count() -> None:
    # gap 17.9: 1.8 * (0.5904 - ((2.5 + 15) / 17.9)^2) = -0.658; braking: -100 / (2 * (17.9 - 2)) = -3.145
    stage = bend(0.0, 10.0)
    calm = expert_action(stage, Seen(cars=(SeenObject(ObjectKind.LEAD, 20.0, 0.0),)))
    braking = expert_action(stage, Seen(cars=(SeenObject(ObjectKind.LEAD, 20.0, 0.0, braking=True),)))
    assert calm.acceleration == pytest.approx(-0.658, abs=0.001)
    assert braking.acceleration == pytest.approx(-3.145, abs=0.001)
    assert calm.manoeuvre is braking.manoeuvre is Manoeuvre.FOLLOW


def test_people_on_the_road_stop_and_people_beside_it_do_not() -> None:
    stage = bend(0.0, 10.0)
    crossing = expert_action(stage, Seen(pedestrians=(SeenObject(ObjectKind.CROSSING, 22.0, 1.0),)))
    beside = expert_action(stage, Seen(pedestrians=(SeenObject(ObjectKind.SIDEWALK, 22.0, -5.0),)))
    assert crossing.manoeuvre is Manoeuvre.YIELD
    assert crossing.acceleration < -2.0
    assert beside == expert_action(stage, Seen())


@pytest.mark.parametrize("curvature", [-0.025, 0.025])
def test_steering_follows_the_bend(curvature: float) -> None:
    # on a circle pure pursuit steers at the Ackermann angle: atan(2.8 * 0.025) = 0.0699
    action = expert_action(bend(curvature, 8.0), Seen())
    assert action.steering_tire_angle == pytest.approx(math.copysign(0.0699, curvature), abs=0.002)


def test_steering_leads_back_to_the_lane() -> None:
    # 0.8 m left of the lane, 7.2 m look-ahead at 8 m/s: atan(2 * 2.8 * -0.8 / (7.2^2 + 0.8^2)) = -0.0851
    assert expert_action(bend(0.0, 8.0, offset=0.8), Seen()).steering_tire_angle == pytest.approx(-0.0851, abs=1e-3)
    assert expert_action(bend(0.0, 8.0, turn=0.05), Seen()).steering_tire_angle < 0


def test_the_baseline_sees_nobody() -> None:
    assert constant_speed_action(bend(0.0, 8.0)).acceleration == 0.0
    assert constant_speed_action(bend(0.0, 5.0)).acceleration == pytest.approx(1.8)


def test_an_object_that_is_hidden_does_not_change_the_label() -> None:
    van = Car(ObjectKind.PARKED, 14.0, -1.6, length=5.0, width=2.0, height=2.6)
    alone, with_hidden = bend(0.0, 9.0), bend(0.0, 9.0)
    alone.cars = [van]
    with_hidden.cars = [van, Car(ObjectKind.LEAD, 34.0, -1.8, height=1.4, braking=True)]
    with_hidden.pedestrians = [Pedestrian(26.0, -2.6, crossing=True)]
    labels = []
    for stage in (alone, with_hidden):
        seen = render(stage, CAMERA, image=False).seen
        labels.append((seen.scene(), expert_action(stage, seen)))
    assert labels[0] == labels[1]


def test_the_expert_comes_to_rest_before_a_red_light() -> None:
    stage = bend(0.0, 12.0)
    stage.lights = [TrafficLight(50.0, Light.RED)]
    for _ in range(300):
        seen = render(stage, CAMERA, image=False).seen
        action = expert_action(stage, seen)
        speed = max(0.0, stage.ego.speed + 0.1 * action.acceleration)
        stage.ego_s += 0.05 * (speed + stage.ego.speed)
        stage.ego = VehicleState(stage.ego_s, 0.0, 0.0, speed)
    assert stage.ego.speed < 0.05
    assert 0.0 < 50.0 - ego_front(stage.ego_s) < 2.5
