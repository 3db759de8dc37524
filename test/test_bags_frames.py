"""Frames of a bag: alignment, storage forms, disorder, faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from recorded_drives import IMAGE_PERIOD, MILLISECOND, START, image, make_bag, record_drive

from owled_ros.bags.frames import ReadOptions, ReadStatistics, fingerprint, read_frames, read_samples
from owled_ros.bags.write import BagWriter
from owled_ros.driving.answer import Action, Light, Manoeuvre
from owled_ros.driving.frame import EgoState
from owled_ros.errors import OwledError

STORAGES = [("mcap", ""), ("mcap", "chunk"), ("mcap", "message"), ("mcap", "file"),
            ("sqlite3", ""), ("sqlite3", "message"), ("sqlite3", "file")]  # fmt: skip


def write(path: Path) -> BagWriter:
    return BagWriter(path / "bag")


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
@pytest.mark.parametrize("metadata", [True, False])
def test_every_storage_form_gives_the_same_frames(tmp_path, storage, compression, metadata):
    bag = make_bag(tmp_path / "bag", storage=storage, compression=compression)
    if not metadata:
        (bag / "metadata.yaml").unlink()
    samples = list(read_samples(bag))
    assert [sample.frame.stamp for sample in samples] == [START + n * IMAGE_PERIOD for n in range(10)]
    for number, sample in enumerate(samples):
        assert np.array_equal(sample.frame.image, image(number))
        assert sample.frame.ego.speed == pytest.approx(5.0 + number / 10)
        assert (sample.drive, sample.section, sample.index) == (0, 0, number)
        assert sample.expert.acceleration == 1.0
        assert sample.expert.manoeuvre is Manoeuvre.CRUISE
        assert (sample.scene.light, sample.scene.light_distance, len(sample.scene.cars)) == (Light.RED, 22.0, 1)


def test_a_single_file_is_a_bag_too(tmp_path):
    bag = make_bag(tmp_path / "bag")
    assert len(list(read_frames(next(bag.glob("*.mcap"))))) == 10


def test_ego_state_is_interpolated_between_its_neighbours(tmp_path):
    # ego at 0 ms: 10 m/s, 0.0 rad/s; at 200 ms: 12 m/s, 0.4 rad/s; image at 50 ms: a quarter of the way
    with write(tmp_path) as bag:
        bag.odometry(START, EgoState(START, 10.0, 0.0))
        bag.image(START + 50 * MILLISECOND, image(0))
        bag.odometry(START + 200 * MILLISECOND, EgoState(START, 12.0, 0.4))
    (frame,) = read_frames(tmp_path / "bag")
    assert frame.ego.speed == pytest.approx(10.5)
    assert frame.ego.yaw_rate == pytest.approx(0.1)
    assert frame.ego.stamp == frame.stamp == START + 50 * MILLISECOND


def test_drives_are_told_apart_by_gaps(tmp_path):
    drives = [sample.drive for sample in read_samples(make_bag(tmp_path / "bag", images=3, drives=2))]
    assert drives == [0, 0, 0, 1, 1, 1]


def test_messages_out_of_order_within_the_lookahead_come_in_order(tmp_path):
    order = [0, 3, 1, 2, 5, 4, 6, 9, 8, 7]
    with write(tmp_path) as bag:
        for position, number in enumerate(order):
            stamp, received = START + number * IMAGE_PERIOD, START + position * IMAGE_PERIOD
            bag.image(stamp, image(number), received=received)
            bag.odometry(stamp, EgoState(stamp, 5.0), received=received)
    statistics = ReadStatistics()
    frames = [s.frame for s in read_samples(tmp_path / "bag", statistics=statistics)]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == list(range(10))
    assert statistics.disordered == 0


def test_too_late_and_double_images_are_counted_not_given(tmp_path):
    with write(tmp_path) as bag:
        record_drive(bag, images=20)
        bag.image(START + IMAGE_PERIOD, image(1), received=START + 20 * IMAGE_PERIOD)
    statistics = ReadStatistics()
    stamps = [s.frame.stamp for s in read_samples(tmp_path / "bag", statistics=statistics)]
    assert stamps == sorted(set(stamps))
    assert (len(stamps), statistics.images, statistics.disordered) == (20, 21, 1)


def test_a_gap_in_the_ego_motion_skips_the_images_inside(tmp_path):
    # images every 100 ms for 3 s, ego motion missing from 0.2 s to 2.8 s; 0.5 s are bridged from both ends
    with write(tmp_path) as bag:
        for number in range(30):
            stamp = START + number * IMAGE_PERIOD
            bag.image(stamp, image(number))
            if not 2 < number < 28:
                bag.odometry(stamp, EgoState(stamp, 5.0))
    statistics = ReadStatistics()
    frames = [int(s.frame.image[0, 0, 0]) for s in read_samples(tmp_path / "bag", statistics=statistics)]
    assert frames == [*range(8), *range(23, 30)]
    assert statistics.without_ego == 15


def test_empty_header_stamps_fall_back_to_the_time_of_recording(tmp_path):
    with write(tmp_path) as bag:
        for number in range(5):
            received = START + number * IMAGE_PERIOD
            bag.image(0, image(number), received=received)
            bag.odometry(received, EgoState(received, 5.0), received=received)
    statistics = ReadStatistics()
    frames = [s.frame for s in read_samples(tmp_path / "bag", statistics=statistics)]
    assert [frame.stamp for frame in frames] == [START + n * IMAGE_PERIOD for n in range(5)]
    assert "header stamps are empty" in statistics.notes[0]


def test_clocks_that_differ_fall_back_to_the_time_of_recording(tmp_path):
    with write(tmp_path) as bag:
        for number in range(5):
            received = START + number * IMAGE_PERIOD
            bag.image(1 + number * IMAGE_PERIOD, image(number), received=received)  # time since boot
            bag.odometry(received, EgoState(received, 5.0), received=received)
    assert len(list(read_frames(tmp_path / "bag"))) == 5


def test_a_single_wrong_stamp_is_repaired(tmp_path):
    with write(tmp_path) as bag:
        for number in range(10):
            received = START + number * IMAGE_PERIOD
            wrong = {3: 12345, 6: START + 10**14}.get(number, received)
            bag.image(wrong, image(number), received=received)
            bag.odometry(received, EgoState(received, 5.0), received=received)
    statistics = ReadStatistics()
    frames = [s.frame for s in read_samples(tmp_path / "bag", statistics=statistics)]
    assert [frame.stamp for frame in frames] == [START + n * IMAGE_PERIOD for n in range(10)]
    assert statistics.repaired_stamps == 2


def test_a_clock_that_runs_backwards_begins_a_section(tmp_path):
    # simulated time starts again while the recorder's clock runs on
    with write(tmp_path) as bag:
        for run in range(2):
            for number in range(30):
                stamp = 10**9 + number * IMAGE_PERIOD
                received = START + (run * 30 + number) * IMAGE_PERIOD
                bag.odometry(stamp, EgoState(stamp, 5.0 + run), received=received)
                bag.image(stamp, image(number), received=received)
    options = ReadOptions(drive_gap_s=1.0)
    samples = list(read_samples(tmp_path / "bag", options))
    assert {(s.drive, s.section) for s in samples} == {(0, 0), (1, 1)}
    assert len(samples) >= 58  # the jump itself costs at most the image that reveals it
    assert {round(s.frame.ego.speed) for s in samples if s.section == 1} == {6}


def test_images_may_change_their_size(tmp_path):
    with write(tmp_path) as bag:
        for number, width in enumerate((64, 32, 128)):
            stamp = START + number * IMAGE_PERIOD
            bag.image(stamp, image(number, width))
            bag.odometry(stamp, EgoState(stamp, 5.0))
    statistics = ReadStatistics()
    widths = [s.frame.image.shape[1] for s in read_samples(tmp_path / "bag", statistics=statistics)]
    assert widths == [64, 32, 128]
    assert statistics.sizes == {(64, 36), (32, 36), (128, 36)}


def test_nan_odometry_is_left_out_and_bridged(tmp_path):
    with write(tmp_path) as bag:
        for number in range(6):
            stamp = START + number * IMAGE_PERIOD
            bag.image(stamp, image(number))
            bag.odometry(stamp, EgoState(stamp, float("nan") if number == 2 else float(number)))
    statistics = ReadStatistics()
    speeds = [s.frame.ego.speed for s in read_samples(tmp_path / "bag", statistics=statistics)]
    assert speeds == pytest.approx([0, 1, 2, 3, 4, 5])
    assert statistics.bad_ego == 1


def test_autoware_reports_serve_as_ego_motion(tmp_path):
    with write(tmp_path) as bag:
        for number in range(3):
            stamp = START + number * IMAGE_PERIOD
            bag.image(stamp, image(number), encoding="jpeg", topic="/cam/image_raw/compressed")
            bag.velocity_report(stamp, EgoState(stamp, 7.0, -0.2))
            bag.steering_report(stamp, 0.01)
    frames = list(read_frames(tmp_path / "bag"))
    assert len(frames) == 3
    assert (frames[0].ego.speed, frames[0].ego.yaw_rate) == pytest.approx((7.0, -0.2))


def test_several_cameras_are_refused_with_their_names(tmp_path):
    with write(tmp_path) as bag:
        bag.odometry(START, EgoState(START, 5.0))
        bag.image(START, image(1), topic="/left/image")
        bag.image(START, image(2), topic="/right/image")
    with pytest.raises(OwledError, match=r"several cameras.*/left/image.*/right/image"):
        list(read_frames(tmp_path / "bag"))
    (frame,) = read_frames(tmp_path / "bag", ReadOptions(image_topic="/right/image"))
    assert frame.image[0, 0, 0] == 2


def test_raw_and_compressed_topic_of_one_camera_are_one_camera(tmp_path):
    with write(tmp_path) as bag:
        bag.odometry(START, EgoState(START, 5.0))
        bag.image(START, image(1))
        bag.image(START, image(1), topic="/camera/image/compressed", encoding="jpeg")
    assert len(list(read_frames(tmp_path / "bag"))) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "holds no topics"),
        ("ego", "holds no camera"),
        ("camera", "holds no ego motion"),
        ("apart", "1 without ego motion"),
        ("nan", "not finite"),
    ],
)
def test_bags_that_cannot_be_used_say_why(tmp_path, content, message):
    with write(tmp_path) as bag:
        if content in ("ego", "apart", "nan"):
            stamp = START + (10**10 if content == "apart" else 0)
            speed = float("nan") if content == "nan" else 5.0
            bag.odometry(stamp, EgoState(stamp, speed))
        if content in ("camera", "apart", "nan"):
            bag.image(START, image(0))
    with pytest.raises(OwledError, match=message):
        list(read_frames(tmp_path / "bag"))


def test_missing_empty_and_foreign_paths_are_refused(tmp_path):
    with pytest.raises(OwledError, match="does not exist"):
        list(read_frames(tmp_path / "nowhere"))
    with pytest.raises(OwledError, match=r"no \.mcap or \.db3"):
        list(read_frames(tmp_path))
    text = tmp_path / "text.mcap"
    text.write_text("this is no bag")
    with pytest.raises(OwledError, match="nothing can be read"):
        list(read_frames(text))
    (tmp_path / "video.mp4").write_bytes(b"0")
    with pytest.raises(OwledError, match="is not a rosbag2 bag"):
        list(read_frames(tmp_path / "video.mp4"))


def test_wrong_type_of_a_named_topic_is_refused(tmp_path):
    bag = make_bag(tmp_path / "bag")
    with pytest.raises(
        OwledError, match=r"image_topic /ego/odometry .* is nav_msgs/msg/Odometry; expected sensor_msgs"
    ):
        list(read_frames(bag, ReadOptions(image_topic="/ego/odometry")))
    with pytest.raises(OwledError, match="is not in bag"):
        list(read_frames(bag, ReadOptions(ego_topic="/nowhere")))


def test_a_damaged_image_costs_only_itself(tmp_path):
    with write(tmp_path) as bag:
        record_drive(bag, images=5, encoding="jpeg")
        broken = bytearray(200)
        broken[1] = 1
        bag.raw("/camera/image", "sensor_msgs/msg/CompressedImage", START + 450 * MILLISECOND, bytes(broken))
    statistics = ReadStatistics()
    assert len(list(read_samples(tmp_path / "bag", statistics=statistics))) == 5
    assert statistics.undecodable == 1
    assert statistics.first_fault


def test_only_chosen_images_are_decoded(tmp_path):
    bag = make_bag(tmp_path / "bag")
    assert [s.index for s in read_samples(bag, only={2, 7})] == [2, 7]


def test_split_bags_are_read_as_one(tmp_path):
    # two recordings in one directory, as rosbag2 splits them: name_2 comes before name_10
    one, two = tmp_path / "one", tmp_path / "two"
    with BagWriter(one) as bag:
        record_drive(bag, images=5)
    with BagWriter(two) as bag:
        record_drive(bag, images=5, start=START + 5 * IMAGE_PERIOD)
    split = tmp_path / "split"
    split.mkdir()
    shutil.copy(one / "one.mcap", split / "name_2.mcap")
    shutil.copy(two / "two.mcap", split / "name_10.mcap")
    assert [frame.stamp for frame in read_frames(split)] == [START + n * IMAGE_PERIOD for n in range(10)]


def test_topics_recorded_into_files_of_their_own_are_merged(tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    with BagWriter(tmp_path / "a") as camera, BagWriter(tmp_path / "b") as motion:
        for number in range(100):
            stamp = START + number * IMAGE_PERIOD
            camera.image(stamp, image(number))
            motion.odometry(stamp, EgoState(stamp, 5.0))
    shutil.copy(tmp_path / "a/a.mcap", both)
    shutil.copy(tmp_path / "b/b.mcap", both)
    assert len(list(read_frames(both))) == 100


def test_fingerprints_find_copies_and_nothing_else(tmp_path):
    raw, again = make_bag(tmp_path / "raw"), make_bag(tmp_path / "again", storage="sqlite3")
    prints = [fingerprint(frame) for frame in read_frames(raw)]
    assert prints == [fingerprint(frame) for frame in read_frames(again)]
    assert len(set(prints)) == 10


def test_truth_of_another_image_is_not_taken(tmp_path):
    with write(tmp_path) as bag:
        record_drive(bag, images=3, truth=False)
        bag.expert_action(START + IMAGE_PERIOD, Action(-2.0, 0.0))
    assert [sample.expert is None for sample in read_samples(tmp_path / "bag")] == [True, False, True]


def test_chunks_that_overlap_far_are_merged_by_time(tmp_path):
    # the recorder's clock runs twice over the same two seconds, each time filling chunks of its own
    noise = np.random.default_rng(0).integers(0, 255, (360, 640, 3), dtype=np.uint8)  # 0.7 MB: a chunk holds two
    with write(tmp_path) as bag:
        for phase in (0, 1):
            for number in range(phase, 40, 2):
                stamp = START + number * IMAGE_PERIOD // 2
                bag.image(stamp, noise)
                bag.odometry(stamp, EgoState(stamp, 5.0))
    assert [frame.stamp for frame in read_frames(tmp_path / "bag")] == [
        START + n * IMAGE_PERIOD // 2 for n in range(40)
    ]
