"""Ego motion of a bag: what is measured is used, what contradicts itself or is asked of the vehicle is refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from odd_bags import camera, drive, header, make, odometry, pose, twist, write
from recorded_drives import IMAGE_PERIOD, START

from owled_ros.bags.frames import ReadOptions, ReadStatistics, read_frames, read_samples
from owled_ros.bags.pose_motion import PoseMotion
from owled_ros.bags.summary import summarise_bag
from owled_ros.driving.frame import Pose
from owled_ros.errors import OwledError

TWIST = "geometry_msgs/msg/TwistStamped"


def speeds(path: Path, **options: str) -> list[float]:
    return [frame.ego.speed for frame in read_frames(path, ReadOptions(**options))]


@pytest.mark.parametrize(
    ("told", "left", "heading", "words"),
    [
        (0.0, 0.0, 0.0, r"twist says 0\.0 m/s while its pose moves at 8\.0"),
        (0.0, 8.0, math.pi / 2, r"given in the frame of the pose"),  # to the north, in the world's frame
        (-8.0, 0.0, math.pi, r"given in the frame of the pose"),  # to the west
        (8.0 * math.cos(0.6), 8.0 * math.sin(0.6), 0.6, r"given in the frame of the pose"),
        (8.0 * 3.6, 0.0, 0.0, r"twist says 28\.8 m/s"),  # km/h
    ],
)
def test_a_twist_that_the_pose_contradicts_is_refused_or_replaced_by_it(tmp_path, told, left, heading, words):
    bag = write(tmp_path / "bag", camera(), drive(told=told, left=left, heading=heading))
    with pytest.raises(OwledError, match=words + r".*--ego-from pose"):
        list(read_frames(bag))
    with pytest.raises(OwledError, match=words):
        summarise_bag(bag)  # recalibration, which does not decode what it does not choose
    assert speeds(bag, ego_from="pose") == pytest.approx([8.0] * 40)


def test_a_twist_that_the_pose_confirms_is_used_from_the_first_image_on(tmp_path):
    bag = write(tmp_path / "bag", camera(), drive(told=8.3, heading=0.6))
    assert speeds(bag) == pytest.approx([8.3] * 40)


def test_a_pose_that_nobody_fills_in_contradicts_nothing_and_is_no_pose(tmp_path):
    row = ("/odom", "nav_msgs/msg/Odometry", lambda stamp, _: odometry(stamp, pose(3.0, 4.0), twist(8.0)))
    bag = write(tmp_path / "bag", camera(), row)
    assert speeds(bag) == [8.0] * 40
    (track,) = summarise_bag(bag).tracks
    assert not np.isfinite(track.x).any()


def test_a_twist_that_fails_for_a_while_costs_those_states_only(tmp_path):
    def row(stamp, number):
        return odometry(stamp, pose(0.8 * number), twist(0.0 if 60 <= number < 100 else 8.0))

    bag = write(tmp_path / "bag", camera(), ("/odom", "nav_msgs/msg/Odometry", row), images=160)
    statistics = ReadStatistics()
    given = [(sample.index, sample.frame.ego.speed) for sample in read_samples(bag, statistics=statistics)]
    assert len([index for index, _ in given if index < 55 or index >= 105]) == 110  # all that are away from it
    middle = [speed for index, speed in given if 70 <= index < 90]
    assert not middle  # half a second around a good state is bridged, the middle is not
    assert 30 <= statistics.contradicted_ego <= 50
    assert any("left out" in note for note in statistics.notes)


def test_a_relocalisation_does_not_contradict_the_twist(tmp_path):
    def row(stamp, number):
        return odometry(stamp, pose(0.8 * number + (25.0 if number > 30 else 0.0)), twist(8.0))

    bag = write(tmp_path / "bag", camera(), ("/odom", "nav_msgs/msg/Odometry", row), images=60)
    assert speeds(bag) == [8.0] * 60
    assert speeds(bag, ego_from="pose") == pytest.approx([8.0] * 60)  # nor does it make the car leap


def test_a_command_is_no_measurement(tmp_path):
    for number, topic in enumerate(("/cmd_vel", "/vehicle/command/twist", "/teleop/twist", "/control/twist_target")):
        row = (topic, TWIST, lambda stamp, _: make(TWIST, header=header(stamp), twist=twist(8.0)))
        bag = write(tmp_path / f"bag{number}", camera(), row)
        with pytest.raises(OwledError, match=rf"these are commands.*--ego-topic {topic}"):
            list(read_frames(bag))
    statistics = ReadStatistics()
    assert len(list(read_samples(bag, ReadOptions(ego_topic=topic), statistics))) == 40
    assert "is a command and not measured" in statistics.notes[0]


def test_an_impossible_speed_is_left_out(tmp_path):
    row = ("/twist", TWIST, lambda stamp, _: make(TWIST, header=header(stamp), twist=twist(8000.0)))  # mm/s
    with pytest.raises(OwledError, match="40 ego states that are not finite numbers or beyond what a vehicle can do"):
        list(read_frames(write(tmp_path / "bag", camera(), row)))


def test_beside_a_measurement_a_command_is_not_looked_at(tmp_path):
    row = ("/cmd_vel", TWIST, lambda stamp, _: make(TWIST, header=header(stamp), twist=twist(3.0)))
    measured = ("/vehicle/twist", TWIST, lambda stamp, _: make(TWIST, header=header(stamp), twist=twist(8.0)))
    assert speeds(write(tmp_path / "bag", camera(), row, measured)) == [8.0] * 40


def test_a_twist_is_checked_with_the_pose_of_another_topic(tmp_path):
    kind = "geometry_msgs/msg/PoseStamped"
    place = ("/ndt_pose", kind, lambda stamp, number: make(kind, header=header(stamp), pose=pose(0.8 * number)))
    zero = ("/twist", TWIST, lambda stamp, _: make(TWIST, header=header(stamp), twist=twist(0.0)))
    bag = write(tmp_path / "bag", camera(), place, zero)
    with pytest.raises(OwledError, match=r"twist says 0\.0 m/s while its pose moves at 8\.0.*--ego-topic /ndt_pose"):
        list(read_frames(bag))
    assert speeds(bag, ego_topic="/ndt_pose", ego_from="pose") == pytest.approx([8.0] * 40)
    assert speeds(bag, ego_from="twist") == [0.0] * 40  # the user knows better
    right = ("/twist", TWIST, lambda stamp, _: make(TWIST, header=header(stamp), twist=twist(8.0)))
    assert speeds(write(tmp_path / "right", camera(), right, place)) == [8.0] * 40


def test_a_pose_whose_heading_is_not_that_of_the_vehicle_gives_no_speed(tmp_path):
    row = (
        "/odom",
        "nav_msgs/msg/Odometry",
        lambda stamp, n: odometry(stamp, pose(0.0, 0.8 * n), twist(0.0)),
    )  # heading 0
    bag = write(tmp_path / "bag", camera(), row)
    with pytest.raises(OwledError, match="the pose moves sideways to its own heading"):
        list(read_frames(bag, ReadOptions(ego_from="pose")))


def test_a_pose_alone_serves_when_it_is_asked_for(tmp_path):
    kind = "geometry_msgs/msg/PoseStamped"

    def row(stamp, number):  # 10 m/s on a circle of 20 m: 0.5 rad/s
        turned = 0.05 * number
        place = pose(20.0 * math.sin(turned), 20.0 * (1.0 - math.cos(turned)), turned)
        return make(kind, header=header(stamp), pose=place)

    bag = write(tmp_path / "bag", camera(), ("/ndt_pose", kind, row))
    with pytest.raises(OwledError, match=r"/ndt_pose .* can serve with --ego-from pose --ego-topic /ndt_pose"):
        list(read_frames(bag))
    statistics = ReadStatistics()
    for options in (ReadOptions(ego_from="pose"), ReadOptions(ego_topic="/ndt_pose")):
        egos = [sample.frame.ego for sample in read_samples(bag, options, statistics)]
        assert [ego.speed for ego in egos] == pytest.approx([10.0] * 40, rel=0.001)
        assert [ego.yaw_rate for ego in egos] == pytest.approx([0.5] * 40)
    assert statistics.notes == ["ego motion: speed and yaw rate from the pose of /ndt_pose"]
    (track,) = summarise_bag(bag, options).tracks
    assert track.has_poses


def test_satellite_fixes_and_a_gyroscope_serve_when_asked_for(tmp_path):
    fix, imu = "sensor_msgs/msg/NavSatFix", "sensor_msgs/msg/Imu"

    def row(stamp, number):  # 9 m/s to the north; a degree of latitude is 111319.49 m
        return make(fix, header=header(stamp), latitude=48.0 + 9.0 * 0.1 * number / 111_319.49, longitude=11.0)

    spin = ("/imu/data", imu, lambda stamp, _: make(
        imu, header=header(stamp), angular_velocity=make("geometry_msgs/msg/Vector3", z=0.03)))  # fmt: skip
    bag = write(tmp_path / "bag", camera(), ("/gps/fix", fix, row), spin, images=60)
    statistics = ReadStatistics()
    egos = [sample.frame.ego for sample in read_samples(bag, ReadOptions(ego_from="gnss"), statistics)]
    assert [ego.speed for ego in egos] == pytest.approx([9.0] * 60, rel=1e-3)
    assert {ego.yaw_rate for ego in egos} == {0.03}
    assert egos[5].pose.heading == pytest.approx(math.pi / 2)
    assert statistics.notes == [
        "ego motion: speed and course from the satellite fixes of /gps/fix, the yaw rate of /imu/data"
    ]


def test_one_fix_a_second_is_enough(tmp_path):
    fix = "sensor_msgs/msg/NavSatFix"

    def row(stamp, number):  # repeats its stamp until the next second, as a driver that publishes too often
        second = number // 10
        return make(
            fix, header=header(START + second * 10**9), latitude=48.0 + 9.0 * second / 111_319.49, longitude=11.0
        )

    bag = write(tmp_path / "bag", camera(), ("/gps/fix", fix, row), images=100)
    found = speeds(bag, ego_topic="/gps/fix")
    assert len(found) == 100
    assert found == pytest.approx([9.0] * 100, rel=1e-3)


def test_a_twist_without_stamps_is_taken_at_the_time_of_recording(tmp_path):
    kind = "geometry_msgs/msg/Twist"
    row = ("/vehicle/twist", kind, lambda _, number: twist(5.0 + 0.1 * number, turn=0.2))
    bag = write(tmp_path / "bag", camera(), row)
    with pytest.raises(OwledError, match="--ego-from twist --ego-topic /vehicle/twist"):
        list(read_frames(bag))
    statistics = ReadStatistics()
    egos = [sample.frame.ego for sample in read_samples(bag, ReadOptions(ego_from="twist"), statistics)]
    assert [ego.speed for ego in egos] == pytest.approx([5.0 + 0.1 * number for number in range(40)])
    assert {ego.yaw_rate for ego in egos} == {0.2}
    assert "the time of recording is taken" in statistics.notes[0]


def test_the_speed_of_the_bus_is_found_or_asked_for(tmp_path):
    report, chassis, number = "pacmod3_msgs/msg/VehicleSpeedRpt", "my_can/msg/Chassis", "std_msgs/msg/Float32"

    def known(stamp, count):
        return make(report, header=header(stamp), vehicle_speed=8.0, vehicle_speed_valid=count != 7)

    bag = write(tmp_path / "known", camera(), ("/parsed_tx/vehicle_speed_rpt", report, known))
    with pytest.raises(OwledError, match="can serve with --ego-from can"):
        list(read_frames(bag))
    statistics = ReadStatistics()
    assert len(list(read_samples(bag, ReadOptions(ego_from="can"), statistics))) == 40
    assert statistics.bad_ego == 1  # the message that says it is not valid
    assert statistics.notes == [
        "ego motion: the speed vehicle_speed [m/s] of /parsed_tx/vehicle_speed_rpt; nothing tells the yaw rate, which is taken as 0"
    ]

    def decoded(stamp, _):
        return make(chassis, header=header(stamp), wheel_speed_fl_mps=3.0, speed_kph=36.0, yaw_rate_degps=90.0)

    bag = write(tmp_path / "named", camera(), ("/can/chassis", chassis, decoded))
    egos = [frame.ego for frame in read_frames(bag, ReadOptions(ego_from="can", ego_topic="/can/chassis"))]
    assert [ego.speed for ego in egos] == pytest.approx([10.0] * 40)
    assert [ego.yaw_rate for ego in egos] == pytest.approx([math.pi / 2] * 40)

    bag = write(tmp_path / "bare", camera(), ("/can/speed", number, lambda *_: make(number, data=36.0)))
    with pytest.raises(OwledError, match=r"--ego-from can:data:km/h with one of m/s, km/h"):
        list(read_frames(bag, ReadOptions(ego_from="can", ego_topic="/can/speed")))
    with pytest.raises(OwledError, match="the unit of data is missing"):
        list(read_frames(bag, ReadOptions(ego_from="can:data", ego_topic="/can/speed")))
    assert speeds(bag, ego_from="can:data:km/h", ego_topic="/can/speed") == pytest.approx([10.0] * 40)
    with pytest.raises(OwledError, match="has no number 'nothing'; expected one of data"):
        list(read_frames(bag, ReadOptions(ego_from="can:nothing", ego_topic="/can/speed")))


def test_an_unknown_source_is_refused(tmp_path):
    bag = write(tmp_path / "bag", camera(), drive())
    with pytest.raises(OwledError, match="ego_from 'magic' is unknown; expected twist, pose, gnss, can"):
        list(read_frames(bag, ReadOptions(ego_from="magic")))
    with pytest.raises(OwledError, match="holds no ego motion; expected one of sensor_msgs/msg/NavSatFix"):
        list(read_frames(bag, ReadOptions(ego_from="gnss")))


def test_places_without_order_or_neighbours_give_no_state():
    motion = PoseMotion()
    assert motion.add(START, Pose(0.0, 0.0, 0.0)) == []
    assert motion.add(START, Pose(9.0, 0.0, 0.0)) == []  # the same stamp twice
    assert motion.add(START + 10 * IMAGE_PERIOD * 10, Pose(5.0, 0.0, 0.0)) == []  # 10 s later
    assert motion.finish() == []
    states = [
        state
        for number in range(5)
        for state in motion.add(START + number * IMAGE_PERIOD, Pose(-0.2 * number, 0.0, 0.0))
    ]
    states += motion.finish()
    assert [state.speed for state in states] == pytest.approx([-2.0] * 5)  # backwards
