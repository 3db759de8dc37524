"""Frames of several cameras with a past: views matched by stamp, poses seen from now, commands; numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded_drives import EGO_PERIOD, IMAGE_PERIOD, MILLISECOND, START, image

from owled_ros.bags import alignment
from owled_ros.bags.frames import ReadOptions, ReadStatistics, read_frames, read_samples
from owled_ros.bags.summary import summarise_bag
from owled_ros.bags.write import BagWriter
from owled_ros.driving.frame import EgoState
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.errors import OwledError

SECOND = 1000 * MILLISECOND
THREE = tuple(CameraNeed(name) for name in ("front", "left", "right"))
PAST = InputNeeds(THREE, image_offsets_s=(0.5, 0.0), ego_offsets_s=(1.0, 0.5), needs_pose=True)


def write_rig(path: Path, images: int = 30, sides: tuple[str, ...] = ("left", "right")) -> Path:
    """Write 30 images of three cameras, 8 m/s along x from x = 100; left is 30 ms late, right numbers its images from 100."""
    with BagWriter(path) as bag:
        for number in range(images):
            stamp = START + number * IMAGE_PERIOD
            bag.image(stamp, image(number), topic="/cam_front/image")
            if "left" in sides:
                bag.image(stamp + 30 * MILLISECOND, image(number + 50), topic="/cam_left/image", encoding="png")
            if "right" in sides:
                bag.image(stamp, image(number + 100), topic="/cam_right/image")
            for part in range(5):
                at = stamp + part * EGO_PERIOD
                bag.odometry(at, EgoState(at, 8.0), pose=(100.0 + 8.0 * (at - START) / 1e9, 5.0, 0.0))
    return path


def numbers(frame) -> list[tuple[str, int]]:
    return [(view.camera, int(view.image[0, 0, 0])) for view in frame.views]


def test_views_stand_camera_by_camera_oldest_first(tmp_path):
    frames = list(read_frames(write_rig(tmp_path / "bag"), ReadOptions(needs=PAST)))
    # 1 s of past may reach 0.5 s beyond the first ego state (it then holds), so images 5 .. 29 have all they need
    assert [(frame.stamp - START) // IMAGE_PERIOD for frame in frames] == list(range(5, 30))
    frame = frames[5]  # of image 10
    assert numbers(frame) == [("front", 5), ("front", 10), ("left", 55), ("left", 60), ("right", 105), ("right", 110)]
    assert frame.views[1].image is frame.image
    assert [view.stamp - frame.stamp for view in frame.views[2:4]] == [-470 * MILLISECOND, 30 * MILLISECOND]
    assert [state.pose.x for state in frame.past] == pytest.approx([-8.0, -4.0])
    assert frame.ego.pose.x == pytest.approx(108.0)
    assert frame.ego.acceleration == pytest.approx(0.0)


def test_one_camera_and_one_image_is_as_it_was(tmp_path):
    frames = list(read_frames(write_rig(tmp_path / "bag", sides=())))
    assert len(frames) == 30
    assert frames[3].views == ()
    assert frames[3].past == ()


def test_poses_turn_with_the_vehicle(tmp_path):
    # the car goes round a circle of 20 m at 10 m/s: half a second ago it was 5 m of arc, 0.25 rad, behind
    with BagWriter(tmp_path / "bag") as bag:
        for step in range(100):
            stamp, turned = START + step * EGO_PERIOD, 0.5 * step * 0.02
            pose = (20.0 * math.sin(turned), 20.0 * (1.0 - math.cos(turned)), turned)
            bag.odometry(stamp, EgoState(stamp, 10.0, 0.5), pose=pose)
            if step % 5 == 0:
                bag.image(stamp, image(step))
    needs = InputNeeds(ego_offsets_s=(0.5,), needs_pose=True)
    (past,) = list(read_frames(tmp_path / "bag", ReadOptions(needs=needs)))[-1].past
    assert (past.pose.x, past.pose.y) == pytest.approx((-20.0 * math.sin(0.25), 20.0 * (1.0 - math.cos(0.25))))
    assert past.pose.heading == pytest.approx(-0.25)


def test_a_camera_that_is_missing_for_a_while_costs_those_frames(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(20):
            stamp = START + number * IMAGE_PERIOD
            bag.odometry(stamp, EgoState(stamp, 8.0))
            bag.image(stamp, image(number), topic="/front/image")
            if number not in (7, 8, 9):
                bag.image(stamp, image(number), topic="/left/image")
    needs = InputNeeds(THREE[:2])
    statistics = ReadStatistics()
    options = ReadOptions(needs=needs, view_tolerance_s=0.05)
    assert len(list(read_samples(tmp_path / "bag", options, statistics))) == 17
    assert statistics.without_view == 3
    summary = summarise_bag(tmp_path / "bag", options)
    assert np.flatnonzero(np.isnan(summary.frames.speed)).tolist() == [7, 8, 9]


def test_the_index_knows_which_images_give_a_frame(tmp_path):
    bag = write_rig(tmp_path / "bag")
    options = ReadOptions(needs=PAST)
    usable = np.flatnonzero(np.isfinite(summarise_bag(bag, options).frames.speed))
    assert usable.tolist() == [sample.index for sample in read_samples(bag, options)]


@pytest.mark.parametrize("needs", [InputNeeds(), InputNeeds(ego_offsets_s=(0.3,))])
def test_no_frame_lacks_the_acceleration_that_is_asked_for(tmp_path, needs):
    """The first image comes with the first ego state, from which no slope can be taken; 6 to 11 lie in a hole of the odometry."""
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(30):
            stamp = START + number * IMAGE_PERIOD
            if not 6 <= number <= 16 or number == 9:
                bag.odometry(stamp, EgoState(stamp, 5.0 + 0.1 * number))
            bag.image(stamp, image(number))
    without = list(read_samples(tmp_path / "bag", ReadOptions(needs=needs)))
    assert any(state.acceleration is None for sample in without for state in (sample.frame.ego, *sample.frame.past))
    asked, statistics = ReadOptions(needs=replace(needs, needs_acceleration=True)), ReadStatistics()
    found = list(read_samples(tmp_path / "bag", asked, statistics))
    assert all(sample.frame.ego.acceleration == pytest.approx(1.0) for sample in found)
    assert all(state.acceleration == pytest.approx(1.0) for sample in found for state in sample.frame.past)
    assert statistics.without_history > 0
    usable = np.flatnonzero(np.isfinite(summarise_bag(tmp_path / "bag", asked).frames.speed))
    assert usable.tolist() == [sample.index for sample in found]


def test_images_are_shrunk_once_for_now_and_for_the_past(tmp_path):
    cameras = (CameraNeed("front", max_pixels=32 * 18, past_max_pixels=16 * 9),)
    needs = InputNeeds(cameras, image_offsets_s=(0.1, 0.0))
    frames = list(read_frames(write_rig(tmp_path / "bag", sides=()), ReadOptions(needs=needs)))
    assert [view.image.shape for view in frames[4].views] == [(9, 16, 3), (18, 32, 3)]
    assert frames[5].views[0].stamp == frames[4].stamp
    everything = InputNeeds((CameraNeed("front", 32 * 18),), (0.2, 0.1, 0.0))
    frames = list(read_frames(tmp_path / "bag", ReadOptions(needs=everything)))
    assert frames[5].views[0].image is frames[4].views[1].image is frames[3].image


def test_the_past_of_a_drive_is_held_within_its_budget(tmp_path, monkeypatch):
    bag = write_rig(tmp_path / "bag")
    monkeypatch.setattr(alignment, "HELD_BYTES", 4 * 64 * 36 * 3)  # four raw images, where a past of 0.5 s needs 15
    statistics = ReadStatistics()
    with pytest.raises(OwledError, match=r"without the past images .*they are cut short"):
        list(read_samples(bag, ReadOptions(needs=PAST), statistics))
    assert statistics.without_history > 20


def test_topics_can_be_named_for_every_camera(tmp_path):
    bag = write_rig(tmp_path / "bag")
    needs = InputNeeds((CameraNeed("a"), CameraNeed("b")))
    with pytest.raises(OwledError, match=r"no topic for the camera a; choose with --image-topic a=/TOPIC,b=/TOPIC"):
        list(read_frames(bag, ReadOptions(needs=needs)))
    options = ReadOptions(image_topic="b=/cam_left/image, a=/cam_right/image", needs=needs)
    assert numbers(next(iter(read_frames(bag, options)))) == [("a", 100), ("b", 50)]
    for wrong in ("c=/cam_left/image", "a=", "a=/x,a=/y", "/cam_left/image,/cam_right/image"):
        with pytest.raises(OwledError, match="does not name a topic of its own"):
            list(read_frames(bag, ReadOptions(image_topic=wrong, needs=needs)))


def test_odometry_without_poses_gives_no_history_of_poses(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(30):
            stamp = START + number * IMAGE_PERIOD
            bag.velocity_report(stamp, EgoState(stamp, 8.0))
            bag.image(stamp, image(number))
    needs = InputNeeds(ego_offsets_s=(0.5,))
    past = [frame.past[0] for frame in read_frames(tmp_path / "bag", ReadOptions(needs=needs))]
    assert {(state.pose, state.speed) for state in past} == {(None, 8.0)}
    with pytest.raises(OwledError, match="30 without the past images or ego states"):
        list(read_frames(tmp_path / "bag", ReadOptions(needs=InputNeeds(ego_offsets_s=(0.5,), needs_pose=True))))


def test_a_jump_of_the_pose_costs_the_frames_that_would_look_across_it(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(150):
            stamp = START + number * EGO_PERIOD
            x = 8.0 * number * 0.02 + (20.0 if number >= 75 else 0.0)
            bag.odometry(stamp, EgoState(stamp, 8.0), pose=(x, 0.0, 0.0))
            if number % 5 == 0:
                bag.image(stamp, image(number // 5))
    statistics = ReadStatistics()
    needs = InputNeeds(ego_offsets_s=(0.5,), needs_pose=True)
    shown = [sample.index for sample in read_samples(tmp_path / "bag", ReadOptions(needs=needs), statistics)]
    assert shown == [*range(15), *range(20, 30)]  # the jump lies between 1.48 and 1.5 s
    assert statistics.pose_jumps == 5


def test_a_measured_acceleration_goes_before_the_slope_of_the_speed(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(10):
            stamp = START + number * IMAGE_PERIOD
            bag.acceleration(stamp, -1.5)
            bag.odometry(stamp, EgoState(stamp, 8.0))
            bag.image(stamp, image(number))
    frames = list(read_frames(tmp_path / "bag", ReadOptions(needs=InputNeeds(ego_offsets_s=(0.3,)))))
    assert (frames[5].ego.acceleration, frames[5].past[0].acceleration) == pytest.approx((-1.5, -1.5))
    (track,) = summarise_bag(tmp_path / "bag").tracks
    assert track.acceleration == pytest.approx(np.full(10, -1.5))


def test_the_acceleration_of_now_does_not_know_the_future(tmp_path):
    # 8 m/s until the image, then 4 m/s2: a vehicle could not know yet
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(100):
            stamp = START + number * EGO_PERIOD
            bag.odometry(stamp, EgoState(stamp, 8.0 + max(0.0, 4.0 * (number - 50) * 0.02)))
            if number == 50:
                bag.image(stamp, image(0))
    (frame,) = read_frames(tmp_path / "bag")
    assert frame.ego.acceleration == pytest.approx(0.0)


def test_the_command_is_the_newest_one_until_it_expires(tmp_path):
    # the first command was given 5 s before the recording began, as a latched topic is
    with BagWriter(tmp_path / "bag") as bag:
        bag.navigation_command(START - 5 * SECOND, NavigationCommand(CommandKind.LEFT, 40.0), received=START)
        for number in range(100):
            stamp = START + number * IMAGE_PERIOD
            bag.odometry(stamp, EgoState(stamp, 8.0))
            bag.image(stamp, image(number))
            if number == 20:
                bag.navigation_command(stamp, NavigationCommand(CommandKind.FOLLOW_LANE, None, "follow the road"))
    frames = list(read_frames(tmp_path / "bag", ReadOptions(max_command_age_s=6.0)))
    assert [frame.command.kind.name if frame.command else "-" for frame in frames] == (
        ["LEFT"] * 11 + ["-"] * 9 + ["FOLLOW_LANE"] * 61 + ["-"] * 19
    )
    assert (frames[0].command.distance, frames[20].command.distance) == (40.0, None)
    assert frames[20].command.text == "follow the road"
    statistics = ReadStatistics()
    options = ReadOptions(needs=InputNeeds(needs_command=True), max_command_age_s=6.0)
    assert len(list(read_samples(tmp_path / "bag", options, statistics))) == 72
    assert statistics.without_command == 28
    assert np.isfinite(summarise_bag(tmp_path / "bag", options).frames.speed).sum() == 72


def test_the_track_keeps_poses_and_the_time_of_recording(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(20):
            stamp = START + number * IMAGE_PERIOD
            late = stamp + 40 * MILLISECOND
            bag.odometry(stamp, EgoState(stamp, 8.0), pose=(0.8 * number, -2.0, 0.1), received=late)
            bag.image(stamp, image(number), received=late)
    (track,) = summarise_bag(tmp_path / "bag").tracks
    assert track.has_poses
    assert track.x == pytest.approx(0.8 * np.arange(20))
    assert (track.y[3], track.heading[3]) == pytest.approx((-2.0, 0.1))
    assert set(track.received - track.stamps) == {40 * MILLISECOND}
    sample = next(iter(read_samples(tmp_path / "bag")))
    assert sample.received - sample.frame.stamp == 40 * MILLISECOND
