"""Turns at junctions: the arcs, the streets, the command, and that worlds without turns stay what they were."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from owled_ros.driving.answer import Light, ObjectKind, format_action, format_scene
from owled_ros.driving.navigation import CommandKind
from owled_ros.driving.vehicle import VehicleState
from owled_ros.scenes import traffic
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.closed_loop import drive_route
from owled_ros.scenes.expert import expert_action, pursuit
from owled_ros.scenes.player import expert_driver, look
from owled_ros.scenes.render import render
from owled_ros.scenes.road import JUNCTION_END, build_road
from owled_ros.scenes.sample import sample_snapshot, sample_stage
from owled_ros.scenes.stage import Car, Seen, TrafficLight
from owled_ros.scenes.streets import build_arms, exit_of
from owled_ros.scenes.turning import FAR_LANE, NEAR_LANE, TURNS, Way, command_at, speed_after_turn, speed_before_turn
from owled_ros.scenes.world import DriveEnd, World

CAMERA = Camera().resized(96, 96)
LINE = 60.3


def seen_from_line(way: Way, s: float, offset: float = 0.0) -> tuple[float, float, float]:
    """Return x, y and heading of a place on the route in the straight frame of its junction."""
    road = build_road(np.random.default_rng(3), 200.0, (LINE,), (), (way,))
    x0, y0, along = road.pose_at(LINE)
    (x, y), (_, _, heading) = road.points(np.array([s]), offset)[0] - (x0, y0), road.pose_at(s)
    return (
        float(x * math.cos(along) + y * math.sin(along)),
        float(y * math.cos(along) - x * math.sin(along)),
        heading - along,
    )


def empty_world(way: Way) -> World:
    """Return a world without others whose first junction goes that way."""
    world = next(world for world in (World(seed, turns=True) for seed in range(40)) if world.stage.road.ways[0] is way)
    world.stage.cars.clear()
    world.stage.pedestrians.clear()
    world.stage.lights.clear()
    world._waiting.clear()
    return world


@pytest.mark.parametrize(("way", "lane", "turned"), [(Way.RIGHT, NEAR_LANE, -1), (Way.LEFT, FAR_LANE, 1)])
def test_a_turn_ends_in_the_lane_of_the_crossing_street(way: Way, lane: float, turned: int) -> None:
    ahead, left, heading = seen_from_line(way, LINE + TURNS[way].end)
    assert ahead == pytest.approx(lane, abs=0.05)
    assert heading == pytest.approx(turned * math.pi / 2, abs=0.01)
    assert left == pytest.approx(turned * (lane - TURNS[way].start), abs=0.05)
    # the arm begins as far to the side as the streets say
    assert abs(seen_from_line(way, exit_of(LINE, way))[1]) == pytest.approx({-1: 8.0, 1: 10.5}[turned], abs=0.05)


def test_straight_on_is_straight_at_the_junction() -> None:
    road = build_road(np.random.default_rng(3), 200.0, (LINE,), (), (Way.STRAIGHT,))
    straight = road.straightened(LINE)
    for s in (LINE - 5.0, LINE + 10.0, LINE + JUNCTION_END + 5.0):
        assert road.pose_at(s) == pytest.approx(straight.pose_at(s), abs=1e-9)


def test_a_turn_is_a_quarter_of_a_circle_that_wheels_can_follow() -> None:
    for way, radius in ((Way.RIGHT, 6.0), (Way.LEFT, 9.0)):
        road = build_road(np.random.default_rng(3), 200.0, (LINE,), (), (way,))
        near = (np.arange(len(road.x)) * 0.5 > LINE) & (np.arange(len(road.x)) * 0.5 < LINE + 20)
        assert road.curvature[near].sum() * 0.5 == pytest.approx(way * math.pi / 2, abs=1e-9)
        assert np.abs(road.curvature[near]).max() == pytest.approx(1 / radius, rel=0.03)


def test_without_turns_every_seed_stays_what_it_was() -> None:
    # numbers of the release before turns; the sum over all pixels of the image moves with any of them
    known = {
        1: ("follow, acceleration -0.8 m/s2, steering -0.12 rad", 9149151),
        5: ("cruise, acceleration +1.8 m/s2, steering -0.11 rad", 11853798),
    }
    for seed, (action, pixels) in known.items():
        snapshot = sample_snapshot(seed, Camera().resized(192, 192))
        assert format_action(snapshot.action) == action
        assert abs(int(snapshot.image.sum()) - pixels) < 2000  # another build of cv2 may round otherwise
        assert snapshot.command is None
    assert format_scene(snapshot.scene) == "1 car: oncoming 47 m; 0 pedestrians; traffic light green 19 m"
    world = World(1)
    while world.time < 5.0 - 1e-6:
        action = look(world, Camera().resized(192, 192), image=False).expert
        world.step(action.acceleration, action.steering_tire_angle, 0.1)
    assert (world.stage.ego.x, world.stage.ego.y) == pytest.approx((45.19637918, 19.18130862), abs=1e-5)
    assert (len(world.stage.cars), world.command, world.stage.arms) == (10, None, ())


def test_the_command_comes_40_m_before_the_line_and_goes_with_the_turn() -> None:
    junctions = ((100.0, Way.LEFT), (220.0, Way.STRAIGHT))
    kinds = {s: command_at(junctions, s, s + 3.7).kind for s in (56.0, 56.4, 110.0, 119.5, 119.7, 180.0, 235.9, 236.1)}  # type: ignore[union-attr]
    follow, left, straight = CommandKind.FOLLOW_LANE, CommandKind.LEFT, CommandKind.STRAIGHT
    # 100 - 40 - 3.7 = 56.3; the left turn ends 3.48 + 16.14 = 19.62 m behind the line, straight on 16 m
    assert list(kinds.values()) == [follow, left, left, left, follow, straight, straight, follow]
    told = command_at(junctions, 80.0, 83.7)
    assert told is not None
    assert told.distance == pytest.approx(16.3)
    assert command_at((), 10.0, 13.7) is None


def test_the_image_does_not_tell_where_the_route_goes() -> None:
    images = []
    for way in Way:
        world = empty_world(Way.LEFT)
        rng, line = np.random.default_rng(0), world.stage.road.stop_lines[0]
        road = build_road(rng, 200.0, (line,), (), (way,))
        x, y, heading = road.pose_at(line - 10.0)
        stage = world.stage
        stage.road, stage.scenery, stage.arms, stage.ego_s = road, (), (), line - 10.0
        stage.ego = VehicleState(x, y, heading, 5.0)
        stage.arms = tuple(replace(arm, scenery=()) for arm in build_arms(np.random.default_rng(1), road))
        images.append(render(stage, Camera().resized(192, 192)).image)
    for image in images[1:]:
        different = np.abs(image.astype(int) - images[0]).max(axis=2) > 30
        assert different.mean() < 0.004  # bends of the arms, far away


def test_lights_and_crossing_cars_keep_to_the_straight_frame() -> None:
    stage = empty_world(Way.RIGHT).stage
    line = stage.road.stop_lines[0]
    straight = stage.road.straightened(line)
    x, y, along = stage.place(TrafficLight(line))
    assert (x, y) == pytest.approx(tuple(straight.points(np.array([line + 6.0]), -3.1)[0]))
    car = Car(ObjectKind.CROSS_TRAFFIC, line + NEAR_LANE, 20.0, -math.pi / 2)
    assert stage.place(car)[:2] == pytest.approx(tuple(straight.points(np.array([line + NEAR_LANE]), 20.0)[0]))
    assert along == pytest.approx(straight.heading[0])


@pytest.mark.parametrize(("way", "lane", "heading"), [(Way.RIGHT, 9.5, -1), (Way.LEFT, 13.5, 1)])
def test_crossing_cars_drive_on_the_right_and_not_where_oncoming_cars_wait(way: Way, lane: float, heading: int) -> None:
    cars: list[Car] = []
    traffic.send_crossing_car(np.random.default_rng(0), cars, TrafficLight(100.0, Light.RED), 11.0, way)
    assert (cars[0].s, math.copysign(1.0, cars[0].heading)) == (100.0 + lane, heading)


def test_the_others_slow_down_for_a_turn() -> None:
    junctions = ((100.0, Way.RIGHT),)
    turn = TURNS[Way.RIGHT]
    assert turn.speed == pytest.approx(math.sqrt(2.2 * 6.0))
    # 20 m before the turn, 4 of them kept: sqrt(13.2 + 2 * 1.5 * 16) = 7.82
    assert speed_before_turn(junctions, 100.0 + turn.start - 20.0) == pytest.approx(7.82, abs=0.01)
    assert speed_after_turn(junctions, 100.0 + turn.end + 20.0) == pytest.approx(7.82, abs=0.01)
    assert (speed_before_turn(junctions, 120.0), speed_after_turn(junctions, 90.0)) == (math.inf, 10.0)


def test_the_expert_brakes_for_a_turn_only_when_it_is_told() -> None:
    stage = empty_world(Way.RIGHT).stage
    line, start = stage.road.stop_lines[0], TURNS[Way.RIGHT].start
    accelerations = []
    for ahead in (45.0, 35.0, 10.0):
        stage.ego_s = line + start - ahead
        stage.ego = VehicleState(*stage.road.pose_at(stage.ego_s), 9.0)
        accelerations.append(expert_action(stage, Seen()).acceleration)
    # 35 m: (81 - 13.2) / 70 = 0.97 needed, 1.4 - 2 * 0.97 = -0.54; 10 m: -67.8 / 20
    assert accelerations == [
        pytest.approx(accelerations[0]),
        pytest.approx(-0.537, abs=0.01),
        pytest.approx(-3.39, abs=0.01),
    ]
    assert accelerations[0] > -0.5
    stage.ego_s = line + start + 5.0
    stage.ego = VehicleState(*stage.road.pose_at(stage.ego_s), 3.6)
    assert pursuit(stage) == pytest.approx(-math.atan(2.8 / 6.0), abs=0.06)


@pytest.mark.parametrize("way", list(Way))
def test_the_expert_keeps_its_lane_through_a_junction(way: Way) -> None:
    world = empty_world(way)
    line = world.stage.road.stop_lines[0]
    world.stage.ego_s = line - 35.0
    world.stage.ego = VehicleState(*world.stage.road.pose_at(world.stage.ego_s), 9.0)
    offsets, kinds, fastest = [], set(), 0.0
    while world.outcome is DriveEnd.RUNNING and world.stage.ego_s < line + 30.0:
        action = expert_action(world.stage, Seen())
        if line + 5.0 < world.stage.ego_s < line + 12.0:
            fastest = max(fastest, world.stage.ego.speed)
        world.step(action.acceleration, action.steering_tire_angle, 0.1)
        offsets.append(abs(world.lane_offset))
        kinds.add(world.command.kind)  # type: ignore[union-attr]
    assert world.outcome is DriveEnd.RUNNING
    assert max(offsets) < 0.5
    assert {
        CommandKind.FOLLOW_LANE,
        {-1: CommandKind.RIGHT, 0: CommandKind.STRAIGHT, 1: CommandKind.LEFT}[way],
    } == kinds
    if way is not Way.STRAIGHT:
        assert fastest < TURNS[way].speed + 0.8


def test_going_on_straight_where_the_route_turns_leaves_the_road() -> None:
    world = empty_world(Way.RIGHT)
    line = world.stage.road.stop_lines[0]
    world.stage.ego_s = line - 5.0
    world.stage.ego = VehicleState(*world.stage.road.pose_at(world.stage.ego_s), 6.0)
    while world.outcome is DriveEnd.RUNNING:
        world.step(0.0, 0.0, 0.1)
    assert world.outcome is DriveEnd.OFF_ROAD


def test_the_expert_arrives_in_a_town() -> None:
    assert drive_route(6, expert_driver, CAMERA, turns=True).outcome is DriveEnd.FINISHED


def test_moments_in_a_town_have_every_command() -> None:
    kinds, ways = set(), set()
    for seed in range(60):
        stage = sample_stage(np.random.default_rng(seed), turns=True)
        ways |= set(stage.road.ways)
        command = command_at(stage.road.junctions(), stage.ego_s, stage.ego_s + 3.7)
        kinds.add(command.kind if command else None)
        assert len(stage.arms) == 2 * len(stage.road.ways)
    assert ways == set(Way)
    assert {CommandKind.FOLLOW_LANE, CommandKind.STRAIGHT, CommandKind.LEFT, CommandKind.RIGHT} <= kinds
