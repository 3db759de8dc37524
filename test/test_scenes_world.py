"""The closed loop: what ends a drive, that it repeats, that the expert arrives."""

from __future__ import annotations

import math

import pytest
from typer.testing import CliRunner

from owled_ros.driving.answer import Action, Light, ObjectKind
from owled_ros.driving.frame import Frame
from owled_ros.scenes import traffic
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.closed_loop import drive_route, standing_of
from owled_ros.scenes.player import FALLBACK_ACCELERATION, Moment, driver_of, expert_driver, look, play
from owled_ros.scenes.stage import Car, Pedestrian, TrafficLight
from owled_ros.scenes.world import DriveEnd, World, _overlap, _rectangle

CAMERA = Camera().resized(96, 96)


def empty_world(seed: int = 1) -> World:
    world = World(seed)
    world.stage.cars.clear()
    world.stage.pedestrians.clear()
    world._waiting.clear()
    return world


def test_a_seed_is_a_drive() -> None:
    runs = []
    for _ in range(2):
        world = World(5)
        states = [
            (moment.ego, moment.scene) for moment, _ in zip_first(play(world, expert_driver, CAMERA, image=False), 60)
        ]
        runs.append(states)
    assert runs[0] == runs[1]


def zip_first(moments, count):  # type: ignore[no-untyped-def]
    return [moment for moment, _ in zip(moments, range(count), strict=False)]


def test_the_expert_arrives() -> None:
    routes = [drive_route(3, expert_driver, CAMERA)]
    assert [route.outcome for route in routes] == [DriveEnd.FINISHED]
    standing = standing_of(routes)
    assert standing.finished == standing.progress == 1.0
    assert standing.mean_speed > 3.0


@pytest.mark.slow
def test_the_expert_arrives_nearly_always() -> None:
    routes = [drive_route(seed, expert_driver, CAMERA) for seed in range(200, 220)]
    assert sum(route.outcome is DriveEnd.FINISHED for route in routes) >= 19


def test_driving_into_a_car_is_a_collision() -> None:
    world = empty_world()
    world.stage.lights.clear()
    world.stage.cars.append(Car(ObjectKind.PARKED, world.stage.ego_s + 20.0, 0.0))
    while world.outcome is DriveEnd.RUNNING:
        world.step(2.0, look(world, CAMERA, image=False).expert.steering_tire_angle, 0.1)
    assert world.outcome is DriveEnd.COLLISION
    assert "parked" in world.detail
    # the bumpers meet 20 - 3.7 - 2.2 = 14.1 m after the start
    assert world.distance == pytest.approx(14.1, abs=1.5)


def test_a_person_is_hit() -> None:
    world = empty_world()
    world.stage.lights.clear()
    world.stage.pedestrians.append(Pedestrian(world.stage.ego_s + 15.0, 0.5))
    while world.outcome is DriveEnd.RUNNING:
        world.step(2.0, look(world, CAMERA, image=False).expert.steering_tire_angle, 0.1)
    assert (world.outcome, world.detail) == (DriveEnd.COLLISION, "pedestrian")


@pytest.mark.parametrize(("clock", "outcome"), [(14.5, DriveEnd.RED_LIGHT), (0.0, DriveEnd.RUNNING)])
def test_only_a_red_light_forbids_crossing_its_line(clock: float, outcome: DriveEnd) -> None:
    world = empty_world()
    world.stage.lights[:] = [TrafficLight(world.stage.ego_s + 12.0)]
    world._clocks[:] = [clock]  # 14 s after green begins the light turns red for 11 s
    world.stage.ego = type(world.stage.ego)(world.stage.ego.x, world.stage.ego.y, world.stage.ego.heading, 10.0)
    for _ in range(15):
        world.step(0.0, 0.0, 0.1)
    assert world.outcome is outcome


def test_leaving_the_lane_ends_the_drive() -> None:
    world = empty_world()
    while world.outcome is DriveEnd.RUNNING:
        world.step(2.0, 0.3, 0.1)
    assert world.outcome is DriveEnd.OFF_ROAD
    assert world.lane_offset > 1.9


def test_a_drive_that_stands_still_times_out() -> None:
    world = empty_world()
    world.time = world.length / 2.2 - 0.05
    world.step(-6.0, 0.0, 0.1)
    assert world.outcome is DriveEnd.TIME_OUT


def test_yaw_rate_and_stamp_belong_to_the_motion() -> None:
    world = empty_world()
    world.stage.ego = type(world.stage.ego)(world.stage.ego.x, world.stage.ego.y, world.stage.ego.heading, 7.0)
    world.step(0.0, 0.1, 0.05)
    # 7 m/s * tan(0.1) / 2.8 m
    assert world.ego.yaw_rate == pytest.approx(7.0 * math.tan(0.1) / 2.8, rel=1e-6)
    assert world.ego.stamp == 50_000_000


def test_a_withheld_action_brakes() -> None:
    world = empty_world()
    world.stage.ego = type(world.stage.ego)(world.stage.ego.x, world.stage.ego.y, world.stage.ego.heading, 5.0)
    route = play(world, lambda moment: None, CAMERA, image=False)
    next(route)
    next(route)
    assert world.stage.ego.speed == pytest.approx(5.0 + 0.1 * FALLBACK_ACCELERATION)


def test_a_policy_sees_the_image_the_ego_and_the_command_only() -> None:
    shown = []

    def policy(frame: Frame) -> Action:
        shown.append((frame.image.shape, frame.ego.speed, frame.command))
        return Action(-6.0, 0.0)

    for turns in (False, True):
        world = World(2, turns)
        speed, command = world.stage.ego.speed, world.command
        next(play(world, driver_of(policy), CAMERA))
        assert shown.pop() == ((96, 96, 3), speed, command)
        assert (command is not None) == turns


def test_an_action_is_compared_with_the_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("owled_ros.scenes.world.TIME_OUT_SPEED", 1e3)  # a few tenths of a second

    def braver(moment: Moment) -> Action:
        return Action(moment.expert.acceleration + 0.5, moment.expert.steering_tire_angle - 0.01)

    route = drive_route(2, braver, CAMERA)
    assert route.outcome is DriveEnd.TIME_OUT
    assert route.acceleration_error == pytest.approx(0.5)
    assert route.steering_error == pytest.approx(0.01)


def test_rectangles_touch_when_they_overlap() -> None:
    own = _rectangle(0.0, 0.0, 0.0, 4.0, 2.0)
    assert _overlap(own, _rectangle(3.9, 0.0, 0.0, 4.0, 2.0))
    assert not _overlap(own, _rectangle(4.1, 0.0, 0.0, 4.0, 2.0))
    # a square of side 2 turned by 45 degrees reaches 1.414 m: the corner at x = 3.3 - 1.414 touches, at 3.5 it does not
    assert _overlap(own, _rectangle(3.3, 0.0, math.pi / 4, 2.0, 2.0))
    assert not _overlap(own, _rectangle(3.5, 0.0, math.pi / 4, 2.0, 2.0))


def test_the_light_goes_green_yellow_red() -> None:
    assert [traffic.light_state(clock) for clock in (0.0, 11.5, 20.0, 25.0)] == [
        (Light.GREEN, 11.0),
        (Light.YELLOW, pytest.approx(2.5)),
        (Light.RED, pytest.approx(5.0)),
        (Light.GREEN, pytest.approx(11.0)),
    ]


def test_nobody_steps_out_where_a_car_could_not_stop() -> None:
    # at 10 m/s braking at 2.2 m/s2 takes 22.7 m, half a second of thought 5 m, and 5 m are kept: 32.7 m
    assert not traffic.may_step_out(132.0, 100.0, 10.0, [])
    assert traffic.may_step_out(133.5, 100.0, 10.0, [])
    assert traffic.may_step_out(90.0, 100.0, 10.0, [])  # passed


def test_the_command_shows_the_table(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from owled_ros.cli import app
    from owled_ros.commands import drive

    if not any(command.callback is drive.drive for command in app.registered_commands):
        drive.register(app)
    out = tmp_path / "drive.json"
    result = CliRunner().invoke(
        app, ["drive", "--policy", "constant", "--alone", "--routes", "1", "--seed", "3", "--json", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "constant" in result.output
    assert '"outcome"' in out.read_text()
