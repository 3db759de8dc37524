"""autoware_node over real DDS: types, frames, stamps and qualities of what leaves, and every reason for which nothing does."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from autoware_rig import NODE, OUTPUTS, SECOND, AutowareBench, autoware_node
from autoware_standins import hide_autoware, real_types, use_autoware
from driving_rig import PATIENCE_S, Bench, NodeProcess, fake_node, free_domain
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from owled_ros.driving.prediction import Reason
from owled_ros.msg import DrivingModel, NavigationCommand, PredictedAction, SceneDescription, TrajectoryPoint
from owled_ros.nodes.conversions import stamp_of, stamp_to_time

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first of all builds the stand-ins
DOMAIN = free_domain()
FORGOTTEN_S = 0.2  # a selector drops what is older


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One process for most tests: each begins its own drive, with stamps after those of the last."""
    log = tmp_path_factory.mktemp("autoware") / "log"
    with autoware_node(DOMAIN, log, publish__control=True) as process:
        process.wait_for_text("generator owled_ros", 5 * PATIENCE_S)
        yield process


@pytest.fixture
def bench(node: NodeProcess) -> Iterator[AutowareBench]:
    with AutowareBench(DOMAIN) as bench:
        bench.begin_driving()
        yield bench


def test_every_output_has_autowares_type_and_a_quality_that_its_readers_hear(bench: AutowareBench) -> None:
    for name, kind in OUTPUTS.items():
        (found,) = bench.node.get_publishers_info_by_topic(f"{NODE}/{name}")
        full = kind.replace("/", "/msg/")
        assert found.topic_type == full
        assert str(found.topic_type_hash) == real_types()[full], full
        assert found.qos_profile.reliability is ReliabilityPolicy.RELIABLE
        assert found.qos_profile.durability is DurabilityPolicy.VOLATILE


def test_a_candidate_is_in_the_frame_of_the_odometry_with_its_stamp_and_every_number(bench: AutowareBench) -> None:
    message = next(message for message in bench.heard["output/trajectories"] if message.candidate_trajectories)
    (candidate,), (info,) = message.candidate_trajectories, message.generator_info
    assert candidate.header.frame_id == "map"
    assert stamp_of(candidate) in bench.sent
    assert info.generator_name.data == "owled_ros"
    assert list(info.generator_id.uuid) == list(candidate.generator_id.uuid)
    assert uuid.UUID(bytes=bytes(candidate.generator_id.uuid.tolist())).version == 4
    first, second = candidate.points[:2]
    begun = 10.0 * (stamp_of(candidate) - bench.start) / SECOND  # [m]: on the road, where the vehicle was at that stamp
    assert first.pose.position.x == pytest.approx(begun, abs=0.11)  # a cut within 0.01 s of a point begins there
    assert (first.pose.position.y, first.pose.position.z) == (0.0, 3.0)
    assert (first.time_from_start.sec, first.time_from_start.nanosec) == (0, 0)
    assert second.pose.position.x - first.pose.position.x == pytest.approx(
        second.time_from_start.nanosec * 1e-8, abs=1e-6
    )
    assert first.longitudinal_velocity_mps == pytest.approx(10.0)
    assert first.pose.orientation.w == pytest.approx(1.0)


def test_the_points_stay_where_they_are_while_the_vehicle_drives_over_them(bench: AutowareBench) -> None:
    bench.drive(0.5)
    assert bench.until(lambda: len(bench.candidates) >= 4)
    ends = [candidate.points[-1].pose.position.x for candidate in bench.candidates]
    assert np.ptp(ends) < 1e-9
    starts = [candidate.points[0].pose.position.x for candidate in bench.candidates]
    assert starts == sorted(set(starts))
    grid = {round(point.pose.position.x, 6) for candidate in bench.candidates for point in candidate.points[1:]}
    assert grid <= {round(point.pose.position.x, 6) for point in bench.candidates[0].points}


def test_a_curve_has_heading_rate_and_wheel_angle(bench: AutowareBench) -> None:
    # radius 50 m at 10 m/s: 0.2 rad/s, atan(2.8 / 50)
    points = [
        TrajectoryPoint(time=t, x=50 * math.sin(t / 5), y=50 - 50 * math.cos(t / 5), heading=t / 5, speed=10.0, curvature=0.02)
        for t in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    ]  # fmt: skip
    bench.send_trajectory(bench.now, points=points)
    turned = lambda: bench.candidates[-1].points[-1].pose.position.y > 5.0  # noqa: E731
    assert bench.drive_until(turned)
    point = bench.candidates[-1].points[3]
    assert point.heading_rate_rps == pytest.approx(0.2)
    assert point.front_wheel_angle_rad == pytest.approx(math.atan(0.056))
    last = bench.candidates[-1].points[-1].pose.orientation
    assert 2 * math.atan2(last.z, last.w) == pytest.approx(0.6, abs=1e-6)


def test_a_model_of_two_hertz_keeps_a_fresh_candidate_and_a_selector_loses_none(bench: AutowareBench) -> None:
    for _ in range(6):
        bench.drive(0.5)
        bench.send_trajectory(bench.now - SECOND // 2)
    assert bench.until(lambda: bench.stamps() and bench.stamps()[-1] >= bench.now - SECOND // 10)
    stamps = bench.stamps()
    assert stamps == sorted(set(stamps))
    assert set(stamps) <= set(bench.sent)
    assert max(np.diff(stamps)) <= FORGOTTEN_S * SECOND  # at every moment the newest is younger than that
    assert len(stamps) == pytest.approx(10.0 * (stamps[-1] - stamps[0]) / SECOND + 1, abs=1.5)
    identities = {bytes(candidate.generator_id.uuid.tolist()) for candidate in bench.candidates}
    assert len(identities) == 1


def test_the_other_outputs_say_the_same(bench: AutowareBench) -> None:
    assert bench.until(lambda: all(bench.heard.values()))
    candidate = bench.candidates[0]
    plain = bench.heard["output/planning_trajectory"][0]
    assert plain.header == candidate.header
    assert plain.points == candidate.points
    control = bench.heard["output/control"][0]
    assert control.stamp == candidate.header.stamp
    assert control.longitudinal.velocity == pytest.approx(10.0)
    assert control.longitudinal.is_defined_acceleration
    assert control.lateral.steering_tire_angle == 0.0
    assert bench.heard["debug/model_latency_ms"][0].data == pytest.approx(480.0)
    assert bench.heard["debug/processing_time_ms"][0].data > 0.0
    assert bench.heard["output/planning_factors"][-1].factors == []
    assert bench.heard["output/turn_indicators"][-1].command == 1


def test_a_turn_of_the_route_is_indicated(bench: AutowareBench) -> None:
    command = NavigationCommand(kind=NavigationCommand.KIND_LEFT, distance=20.0)
    bench.send_trajectory(bench.now, command=command)
    assert bench.drive_until(lambda: bench.heard["output/turn_indicators"][-1].command == 2)


def test_a_stop_is_a_planning_factor_with_its_reason_and_distance(bench: AutowareBench) -> None:
    scene = SceneDescription(valid=True, traffic_light=SceneDescription.LIGHT_RED, light_distance=12.0)
    scene.header.stamp = stamp_to_time(bench.now)
    bench.scene.publish(scene)
    # 5 m/s2 from 10 m/s: at rest after 2 s and 10 m
    times = [0.25 * step for step in range(17)]
    braking = [min(time, 2.0) for time in times]
    points = [
        TrajectoryPoint(time=time, x=10 * t - 2.5 * t * t, speed=10 - 5 * t, acceleration=-5.0 if t < 2.0 else 0.0)
        for time, t in zip(times, braking, strict=True)
    ]  # fmt: skip
    bench.send_trajectory(bench.now, points=points, manoeuvre=PredictedAction.MANOEUVRE_STOP)
    where = bench.x + 10.0
    there = lambda: any(message.factors for message in bench.heard["output/planning_factors"])  # noqa: E731
    assert bench.drive_until(there)
    array = next(message for message in bench.heard["output/planning_factors"] if message.factors)
    (factor,) = array.factors
    assert (factor.behavior, factor.module, factor.is_driving_forward) == (3, "owled_ros", True)
    assert factor.detail == "red traffic light at 12 m"
    (control,) = factor.control_points
    assert control.pose.position.x == pytest.approx(where, abs=0.1)
    car = 10.0 * (stamp_of(array) - bench.start) / SECOND
    assert control.distance == pytest.approx(where - car, abs=0.2)
    assert control.velocity == 0.0


def test_a_jump_of_the_localisation_drops_everything_at_once(bench: AutowareBench) -> None:
    before = len(bench.stamps())
    bench.y = 5.0
    bench.drive(0.02)
    jumped = bench.now
    bench.nothing_more("POSE_JUMP: the localisation jumped by 5.00 m")
    assert all(stamp < jumped for stamp in bench.stamps()), before
    assert bench.heard["output/turn_indicators"][-1].command == 0
    bench.send_trajectory(bench.now)  # an image of after the jump
    assert bench.drive_until(lambda: bench.candidates)
    assert bench.candidates[-1].points[0].pose.position.y == pytest.approx(5.0)


def test_a_trajectory_ends_with_its_age(bench: AutowareBench) -> None:
    bench.drive(1.4)
    bench.nothing_more("TOO_OLD")


def test_a_vehicle_that_leaves_the_way_ends_it(bench: AutowareBench) -> None:
    for _ in range(45):
        bench.y += 0.05
        bench.drive(0.02)
    bench.nothing_more("TOO_FAR")


def test_another_model_ends_it(bench: AutowareBench) -> None:
    bench.model.publish(DrivingModel(loaded=True, model_id="other"))
    bench.nothing_more("OTHER_MODEL")
    bench.send_trajectory(bench.now, model="other")
    assert bench.drive_until(lambda: bench.candidates)
    bench.model.publish(DrivingModel(loaded=True, model_id="m"))  # as the next test expects
    bench.nothing_more("OTHER_MODEL")


def test_a_newer_image_that_means_danger_ends_it_and_one_that_says_nothing_does_not(bench: AutowareBench) -> None:
    bench.send_withheld(bench.now, int(Reason.LATE))
    count = len(bench.candidates)
    assert bench.drive_until(lambda: len(bench.candidates) > count + 1)
    bench.send_withheld(bench.now, int(Reason.LOW_CONFIDENCE))
    bench.nothing_more("LOW_CONFIDENCE")


@pytest.mark.parametrize("place", ["x", "z"])
def test_poses_that_are_no_numbers_say_nothing_until_good_ones_come(bench: AutowareBench, place: str) -> None:
    bench.now += SECOND // 50
    message = bench.odometry_message()
    setattr(message.pose.pose.position, place, math.nan)
    bench.odometry.publish(message)
    assert bench.until(lambda: "BAD_ODOMETRY" in bench.words())
    count = len(bench.candidates)
    assert bench.drive_until(lambda: len(bench.candidates) > count)
    assert all(math.isfinite(getattr(point.pose.position, place)) for point in bench.candidates[-1].points)
    assert bench.until(lambda: "are published" in bench.words())


def test_trajectories_that_could_not_be_driven_are_refused_with_words(bench: AutowareBench, node: NodeProcess) -> None:
    last = bench.candidates[-1].points[-1].pose.position.x
    bench.send_trajectory(bench.now, points=[TrajectoryPoint(), TrajectoryPoint(time=1.0, x=math.inf)])
    node.wait_for_text("numbers that are not finite")
    bench.send_trajectory(bench.now, points=[TrajectoryPoint(), TrajectoryPoint()])
    node.wait_for_text("do not rise from 0")
    bench.drive(0.2)
    assert bench.until(lambda: stamp_of(bench.candidates[-1]) >= bench.now - SECOND // 8)
    assert bench.candidates[-1].points[-1].pose.position.x == last


def test_a_clock_that_is_set_back_drops_everything_and_begins_anew(bench: AutowareBench) -> None:
    bench.now -= 20 * SECOND
    bench.start -= 20 * SECOND
    bench.send_odometry()
    bench.nothing_more("CLOCK_JUMP")
    bench.send_trajectory(bench.now)
    assert bench.drive_until(lambda: bench.candidates)
    assert bench.stamps()[-1] < bench.start + 30 * SECOND


def test_odometry_that_stops_ends_with_a_word(tmp_path: Path) -> None:
    domain = free_domain()
    with autoware_node(domain, tmp_path / "log", max_odometry_age_s=0.5, use_sim_time=True) as process:
        process.wait_for_text("generator owled_ros", 5 * PATIENCE_S)
        with AutowareBench(domain) as bench:
            bench.wait_for_node()
            bench.until(lambda: bench.clock.get_subscription_count())

            def tick(seconds: float) -> None:
                for _ in range(round(seconds / 0.02)):
                    bench.clock.publish(Clock(clock=stamp_to_time(bench.now + SECOND // 50)))
                    bench.drive(0.02, 0.01)

            tick(1.0)
            bench.send_trajectory(bench.now)
            for _ in range(20):
                tick(0.04)
            assert bench.until(lambda: bench.candidates), bench.words()
            bench.clock.publish(Clock(clock=stamp_to_time(bench.now + SECOND)))
            assert bench.until(lambda: "STALE_ODOMETRY" in bench.words()), bench.words()
            assert bench.until(lambda: not bench.heard["output/trajectories"][-1].candidate_trajectories)
        assert process.end()[0] == 0


def test_outputs_can_be_switched_off(tmp_path: Path) -> None:
    domain = free_domain()
    off = {"publish__planning_trajectory": False, "publish__turn_indicators": False, "publish__processing_time": False}
    with autoware_node(domain, tmp_path / "log", **off) as process, AutowareBench(domain) as bench:
        process.wait_for_text("generator owled_ros", 5 * PATIENCE_S)
        assert bench.until(lambda: bench.node.count_publishers(f"{NODE}/output/planning_factors"))
        names = ("output/planning_trajectory", "output/turn_indicators", "output/control", "debug/processing_time_ms")
        assert not any(bench.node.count_publishers(f"{NODE}/{name}") for name in names)


def test_without_the_packages_the_node_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_autoware()
    hide_autoware(monkeypatch)
    with autoware_node(free_domain(), tmp_path / "log") as process:
        assert process.process.wait(PATIENCE_S) == 1
        assert "autoware_internal_planning_msgs" in process.text()
        assert "build autoware_msgs and autoware_internal_msgs" in process.text()


def test_the_real_driving_node_and_this_one_understand_each_other(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "control.json").write_text("{}")
    domain = free_domain()
    remaps = [f"input/{name}:=/driving_node/output/{name}" for name in ("trajectory", "withheld", "scene", "model")]
    with (
        fake_node(domain, tmp_path / "driver", model_path=model, deadline_s=60.0, max_frame_age_s=60.0) as driver,
        autoware_node(domain, tmp_path / "log", *remaps, publish__control=True) as process,
        Bench(domain) as source,
        AutowareBench(domain) as bench,
    ):
        driver.wait_for_text("loaded", 5 * PATIENCE_S)
        process.wait_for_text("generator owled_ros", 5 * PATIENCE_S)

        def ego() -> None:
            """The same odometry to both, at the present."""
            bench.now = source.now()
            bench.send_odometry()
            source.odometry.publish(bench.odometry_message())

        bench.start = bench.now = source.now()
        for _ in range(400):
            source.drive(ego=ego)
            ego()
            bench.spin(0.05)
            if bench.candidates:
                break
        assert bench.candidates, bench.words()
        assert bench.candidates[-1].points[0].longitudinal_velocity_mps == pytest.approx(10.0, abs=0.5)
        assert bench.until(lambda: bench.heard["debug/model_latency_ms"])
